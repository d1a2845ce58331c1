"""Quantize a model with a peer's own tool, run by a Python that has that peer installed.

`python peer_quantize.py onnxruntime|nncf MODEL.onnx SAMPLES.npz OUT [NAME=1x3x224x224 ...]` writes
OUT (an .onnx or an .xml file) and prints one JSON line: the seconds it took and its peak memory.
onnxruntime: `quantize_static`, QDQ, per channel, unsigned activations, signed weights, after its
`quant_pre_process`. NNCF: post-training quantization, the performance preset.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

CALIBRATION = 128


def feeds(samples: str, inputs: list[tuple[str, bool]]) -> list[dict[str, np.ndarray]]:
    """The first samples by input name; True keeps the leading axis."""
    with np.load(samples, allow_pickle=False) as arrays:
        held = {name: arrays[name] for name, _ in inputs}
    count = min(CALIBRATION, max(1, len(next(iter(held.values()))) // 2))
    return [
        {n: np.array(held[n][i : i + 1] if keep else held[n][i]) for n, keep in inputs}
        for i in range(count)
    ]


def onnxruntime(model: str, samples: str, out: str, shapes: dict[str, list[int]]) -> None:
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    proto = onnx.load(model)
    weights = {tensor.name for tensor in proto.graph.initializer}
    given = [value for value in proto.graph.input if value.name not in weights]
    for value in given:
        for axis, size in zip(
            value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False
        ):
            axis.dim_value = size
    fixed, ready = out + ".fixed.onnx", out + ".ready.onnx"
    onnx.save(proto, fixed)
    data = feeds(samples, [(value.name, _batched(value)) for value in given])

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(data)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rest, None)

    try:
        quant_pre_process(fixed, ready, skip_symbolic_shape=True)
    except Exception:
        ready = fixed
    quantize_static(
        ready,
        out,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _batched(value: Any) -> bool:
    axes = value.type.tensor_type.shape.dim
    return bool(axes) and (not axes[0].HasField("dim_value") or axes[0].dim_value == 1)


def nncf(model: str, samples: str, out: str, shapes: dict[str, list[int]]) -> None:
    import nncf
    import openvino

    graph = openvino.Core().read_model(model)
    if shapes:
        graph.reshape(shapes)
    inputs = []
    for port in graph.inputs:
        axes = list(port.partial_shape)
        inputs.append(
            (port.any_name, bool(axes) and (axes[0].is_dynamic or axes[0].get_length() == 1))
        )
    data = feeds(samples, inputs)
    dataset = nncf.Dataset(data, lambda feed: feed)
    preset = nncf.QuantizationPreset.PERFORMANCE
    openvino.save_model(nncf.quantize(graph, dataset, preset=preset, subset_size=len(data)), out)


def main() -> None:
    peer, model, samples, out, *texts = sys.argv[1:]
    shapes = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        shapes[name] = [int(size) for size in sizes.split("x")]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    {"onnxruntime": onnxruntime, "nncf": nncf}[peer](model, samples, out, shapes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_rss_bytes": peak}))


if __name__ == "__main__":
    main()
