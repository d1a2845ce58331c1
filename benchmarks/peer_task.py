"""What a peer's tool is given: the model, its shapes, and the samples that it calibrates on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

CALIBRATION = 128
OLDEST_OPSET, RAISED_OPSET = 13, 17  # scales by channel need 13

Feed = dict[str, np.ndarray]


@dataclass
class Task:
    """What a tool is given, and what was noted on the way."""

    model: Path
    samples: Path
    out: Path
    shapes: Mapping[str, list[int]]
    count: int | None = None
    notes: list[str] = field(default_factory=list)

    def beside(self, word: str) -> Path:
        return self.out.with_name(f"{self.out.stem}.{word}.onnx")


def feeds(task: Task, inputs: list[tuple[str, bool]]) -> list[Feed]:
    """The first samples by input name; True keeps the leading axis."""
    with np.load(task.samples, allow_pickle=False) as arrays:
        held = {name: arrays[name] for name, _ in inputs}
    total = len(next(iter(held.values())))
    count = min(task.count or min(CALIBRATION, max(1, total // 2)), total)
    return [
        {n: np.array(held[n][i : i + 1] if keep else held[n][i]) for n, keep in inputs}
        for i in range(count)
    ]


def given_inputs(proto: Any) -> list[Any]:
    weights = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in weights]


def fixed(model: Path, shapes: Mapping[str, list[int]]) -> Any:
    """The ONNX model with the dimensions of its inputs set, and nothing else changed."""
    import onnx

    proto = onnx.load(model)
    for value in given_inputs(proto):
        sizes = shapes.get(value.name, ())
        for axis, size in zip(value.type.tensor_type.shape.dim, sizes, strict=False):
            axis.dim_value = size
    return proto


def modern(task: Task) -> Any:
    """The fixed model in an opset that knows scales by channel, where it can be had."""
    import onnx
    import onnxruntime

    proto = fixed(task.model, task.shapes)
    opset = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    if opset >= OLDEST_OPSET:
        return proto
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        raised = onnx.version_converter.convert_version(proto, RAISED_OPSET)
        onnxruntime.InferenceSession(
            raised.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        task.notes.append(f"opset {opset} could not be raised: {str(error).splitlines()[0][:120]}")
        return proto
    task.notes.append(f"opset raised from {opset} to {RAISED_OPSET}")
    return raised


def batched(value: Any) -> bool:
    axes = value.type.tensor_type.shape.dim
    return bool(axes) and (not axes[0].HasField("dim_value") or axes[0].dim_value == 1)
