"""AIMET's settings: equalized across layers, with or without AdaRound, written as ONNX QDQ."""

from __future__ import annotations

from typing import Any

import numpy as np
from peer_task import Task, batched, feeds, given_inputs, modern

# AIMET recommends 10000 steps on more samples; a layer of these takes five seconds a core, most of
# them to run the whole model once a sample.
STEPS = 100
ROUNDED = 16


def equalized(task: Task, *, rounded: bool) -> None:
    """Cross layer equalization, AdaRound where asked for, then ranges of all samples."""
    import aimet_onnx
    import onnx
    import torch
    from aimet_onnx.cross_layer_equalization import equalize_model

    np.random.seed(0)
    torch.manual_seed(0)
    proto = modern(task)
    data = feeds(task, [(value.name, batched(value)) for value in given_inputs(proto)])
    _bounded(task, proto)
    equalize_model(proto)
    sim = aimet_onnx.QuantizationSimModel(proto, quant_scheme="tf_enhanced")
    if rounded:
        # Without ranges of its weights AdaRound runs random inputs, which an embedding refuses.
        sim.compute_encodings(data[:1])
        aimet_onnx.apply_adaround(sim, data[:ROUNDED], STEPS)
    sim.compute_encodings(data)
    made = sim.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True)
    onnx.save(made, task.out)


def _bounded(task: Task, proto: Any) -> None:
    """Give each Clip an upper bound, for AIMET's equalization takes none without one."""
    from onnx import numpy_helper

    known = {tensor.name: tensor for tensor in proto.graph.initializer}
    open_ended = [n for n in proto.graph.node if n.op_type == "Clip" and len(n.input) == 2]
    for node in open_ended:
        lower = known.get(node.input[1])
        if lower is None:
            continue
        kind = numpy_helper.to_array(lower).dtype
        most = (np.finfo if kind.kind == "f" else np.iinfo)(kind).max
        name = f"{node.output[0]}_upper"
        proto.graph.initializer.append(numpy_helper.from_array(np.array(most, kind), name))
        node.input.append(name)
        task.notes.append(f"an upper bound for the Clip `{node.name}`, where AIMET expects one")
