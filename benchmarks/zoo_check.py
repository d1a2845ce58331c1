"""Says what a model of the zoo holds, and whether ONNX Runtime and OpenVINO agree on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zoo_download import need

Arrays = dict[str, NDArray[Any]]
_COMPARED = 16


def report(model: Path, samples: Path, shapes: dict[str, str]) -> str:
    """Three lines: inputs and outputs, size, and agreement of the engines on 16 of the samples."""
    onnx = need("onnx")
    runtime = need("onnxruntime")
    proto = onnx.load(model)
    options = runtime.SessionOptions()
    # Its warnings about initializers that nothing uses say nothing that matters here.
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    inputs = {value.name: value.shape for value in session.get_inputs()}
    outputs = {value.name: value.shape for value in session.get_outputs()}
    opsets = ", ".join(f"{each.domain or 'onnx'} {each.version}" for each in proto.opset_import)
    graphs = list(_graphs(proto.graph))
    nodes = sum(len(graph.node) for graph in graphs)
    parameters = sum(
        int(np.prod(tensor.dims)) for graph in graphs for tensor in _floats(onnx, graph)
    )
    feeds = list(_spread(samples, inputs))
    count = next(iter(feeds))[1]
    reference = [session.run(None, feed) for feed, _ in feeds]
    try:
        found = _openvino(model, [feed for feed, _ in feeds], shapes)
    except RuntimeError as error:
        agreement = "OpenVINO fails: " + str(error).strip().splitlines()[-1]
    else:
        agreement = "; ".join(
            _agreement(name, [row[i] for row in reference], [row[i] for row in found])
            for i, name in enumerate(outputs)
        )
    return (
        f"  {inputs} -> {outputs}\n"
        f"  {count} samples, opset {opsets}, {nodes} nodes in {len(graphs)} graphs, "
        f"{parameters:,} parameters\n"
        f"  ONNX Runtime against OpenVINO: {agreement}"
    )


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _floats(onnx: Any, graph: Any) -> Iterator[Any]:
    """The floating-point weights of a graph, initializers or constants."""
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    tensors = list(graph.initializer)
    tensors += [
        attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.HasField("t")
    ]
    yield from (tensor for tensor in tensors if tensor.data_type in kinds)


def _spread(samples: Path, inputs: dict[str, list[Any]]) -> Iterator[tuple[Arrays, int]]:
    """The inputs of 16 samples spread evenly over the file, and the number of samples in it."""
    with np.load(samples, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in inputs}
    counts = {len(array) for array in arrays.values()}
    assert len(counts) == 1, f"{samples} holds arrays of different lengths: {counts}"
    count = counts.pop()
    for index in np.linspace(0, count - 1, min(_COMPARED, count)).astype(int):
        feed = {}
        for name, array in arrays.items():
            shape = inputs[name]
            batched = bool(shape) and (shape[0] == 1 or not isinstance(shape[0], int))
            feed[name] = array[index : index + 1] if batched else np.asarray(array[index])
        yield feed, count


def _openvino(model: Path, feeds: list[Arrays], shapes: dict[str, str]) -> list[list[Any]]:
    openvino = need("openvino")
    core = openvino.Core()
    read = core.read_model(model)
    if shapes:
        read.reshape(
            {name: [int(length) for length in text.split("x")] for name, text in shapes.items()}
        )
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    # A tensor may have several names there, of which the file's is one.
    names = [next(n for n in port.get_names() if n in feeds[0]) for port in compiled.inputs]
    rows = []
    for feed in feeds:
        answer = compiled([feed[name] for name in names])
        rows.append([np.array(answer[i]) for i in range(len(compiled.outputs))])
    return rows


def _agreement(name: str, left: list[Any], right: list[Any]) -> str:
    a = np.concatenate([np.ravel(value) for value in left]).astype(np.float64)
    b = np.concatenate([np.ravel(value) for value in right]).astype(np.float64)
    cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    difference, largest = np.abs(a - b).max(), np.abs(a).max()
    return f"{name}: cosine {cosine:.7f}, largest difference {difference:.2g} of {largest:.3g}"
