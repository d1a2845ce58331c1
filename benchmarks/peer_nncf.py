"""NNCF's settings: of the OpenVINO model, of the ONNX model, and with control of accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
from peer_agreement import Answers, alike, has_classes
from peer_task import Feed, Task, batched, feeds, given_inputs, modern

MAX_DROP = 0.01
RANKED = 32  # samples that tell which operator loses most


def options(preset: str, transformer: bool, count: int) -> dict[str, Any]:
    import nncf

    found: dict[str, Any] = {"preset": nncf.QuantizationPreset[preset], "subset_size": count}
    return found | ({"model_type": nncf.ModelType.TRANSFORMER} if transformer else {})


def given(task: Task) -> tuple[Any, list[Feed]]:
    """The OpenVINO model with its shapes set, and the samples by its names."""
    import openvino

    graph = openvino.Core().read_model(str(task.model))
    if task.shapes:
        graph.reshape({name: list(sizes) for name, sizes in task.shapes.items()})
    with np.load(task.samples, allow_pickle=False) as arrays:
        names = set(arrays.files)
    inputs = []
    for port in graph.inputs:
        axes = list(port.partial_shape)
        known = next((name for name in port.get_names() if name in names), port.any_name)
        inputs.append((known, bool(axes) and (axes[0].is_dynamic or axes[0].get_length() == 1)))
    return graph, feeds(task, inputs)


def of_openvino(task: Task, preset: str, transformer: bool = False) -> None:
    import nncf
    import openvino

    graph, data = given(task)
    chosen = options(preset, transformer, len(data))
    made = nncf.quantize(graph, nncf.Dataset(data, lambda feed: feed), **chosen)
    openvino.save_model(made, str(task.out))


def of_onnx(task: Task, preset: str) -> None:
    import nncf
    import onnx

    proto = modern(task)
    data = feeds(task, [(value.name, batched(value)) for value in given_inputs(proto)])
    chosen = options(preset, False, len(data))
    onnx.save(nncf.quantize(proto, nncf.Dataset(data, lambda feed: feed), **chosen), task.out)


def accuracy(task: Task) -> None:
    """Operators go back to float until the answers to the samples are float's, 1 % excepted.

    Alike is the share of float's classes, or the cosine where there are none.
    """
    import nncf
    import openvino

    graph, data = given(task)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    plain = openvino.Core().compile_model(graph, "CPU", exact)
    expected = [answers(plain, feed) for feed in data]
    items = list(zip(data, expected, strict=True))
    classes = has_classes(expected)

    def validate(model: Any, some: Any) -> float:
        return float(np.mean([alike(told, answers(model, feed), classes) for feed, told in some]))

    transformer = attends(graph)
    parameters = nncf.AdvancedAccuracyRestorerParameters(ranking_subset_size=RANKED)
    made = nncf.quantize_with_accuracy_control(
        graph,
        nncf.Dataset(data, lambda feed: feed),
        nncf.Dataset(items, lambda item: item[0]),
        validate,
        max_drop=MAX_DROP,
        advanced_accuracy_restorer_parameters=parameters,
        **options("PERFORMANCE", transformer, len(data)),
    )
    openvino.save_model(made, str(task.out))
    if transformer:
        task.notes.append("model_type TRANSFORMER, for it has attention")
    word = "top-1" if classes else "cosine"
    reached = validate(openvino.Core().compile_model(made, "CPU", exact), items)
    task.notes.append(f"{word} {reached:.4f} on the calibration samples")


def attends(graph: Any) -> bool:
    """Whether activations are multiplied by activations, as attention does."""
    kinds = {"ScaledDotProductAttention"}
    return any(
        op.get_type_name() in kinds or (op.get_type_name() == "MatMul" and not _weighted(op))
        for op in graph.get_ops()
    )


def _weighted(op: Any) -> bool:
    """Whether an operand is a constant, as it is or converted."""
    for port in op.input_values():
        source = port.get_node()
        while source.get_type_name() in ("Convert", "Reshape", "Transpose"):
            source = source.input_value(0).get_node()
        if source.get_type_name() == "Constant":
            return True
    return False


def answers(model: Any, feed: Feed) -> Answers:
    return {str(i): np.array(array) for i, array in enumerate(model(feed).values())}
