"""What is in a model: operators, parameters, multiply-accumulates, precisions, history."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from edgedl.core.model import Model, Signature, Step
from edgedl.passes.graph import quantized_already, read, shape_of
from edgedl.passes.shapes import Shapes


@dataclass(frozen=True)
class Inspection:
    """A model, counted.

    Attributes:
        operators: nodes by kind, those inside bodies included.
        parameters: elements of its constants of at least one dimension.
        macs: multiply-accumulates of one sample in convolutions and matrix products; None where a
            shape they depend on is not known.
        weight_bytes: bytes of constants by element type.
        in_bodies: operators inside `If`, `Loop` and `Scan` bodies.
    """

    signature: Signature
    opset: int
    operators: Mapping[str, int]
    parameters: int
    macs: int | None
    bytes: int
    weight_bytes: Mapping[str, int]
    quantized: bool
    in_bodies: int
    history: tuple[Step, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            **self.signature.to_json(),
            "opset": self.opset,
            "operators": dict(self.operators),
            "parameters": self.parameters,
            "macs": self.macs,
            "bytes": self.bytes,
            "weight_bytes": dict(self.weight_bytes),
            "quantized": self.quantized,
            "operators_in_bodies": self.in_bodies,
            "history": [step.to_json() for step in self.history],
        }


def inspect(model: Model) -> Inspection:
    """Count what is in a model; a dynamic batch axis counts as 1."""
    graph = read(model.path)
    operators = Counter(node.op_type for node in graph.graph.all_nodes())
    constants = [
        value.const_value
        for scope in (graph.graph, *graph.graph.subgraphs())
        for value in scope.initializers.values()
        if value.const_value is not None
    ]
    constants += [
        node.attributes["value"].as_tensor()
        for node in graph.graph.all_nodes()
        if node.op_type == "Constant" and "value" in node.attributes
    ]
    weight_bytes: Counter[str] = Counter()
    for tensor in constants:
        weight_bytes[tensor.dtype.name.lower()] += tensor.nbytes
    return Inspection(
        signature=model.signature,
        opset=graph.opset_imports.get("", 0),
        operators=dict(operators.most_common()),
        parameters=sum(math.prod(t.shape.numpy()) for t in constants if len(t.shape)),
        macs=_macs(graph),
        bytes=model.bytes,
        weight_bytes=dict(weight_bytes.most_common()),
        quantized=quantized_already(model),
        in_bodies=sum(operators.values()) - len(graph.graph),
        history=model.history,
    )


def _macs(graph: ir.Model) -> int | None:
    inputs = {
        value.name or "": value
        for value in graph.graph.inputs
        if value.name not in graph.graph.initializers
    }
    fixed = {}
    for name, value in inputs.items():
        shape = shape_of(value)
        if shape and not isinstance(shape[0], int) and all(isinstance(d, int) for d in shape[1:]):
            fixed[name] = tuple(int(d) for d in (1, *shape[1:]) if d is not None)
    try:
        Shapes({name: tuple(map(int, shape)) for name, shape in fixed.items()}).edit(graph)
    except Exception:
        return None
    total = 0
    for node in graph.graph:
        found = _node_macs(node)
        if found is None:
            return None
        total += found
    return total


def _node_macs(node: ir.Node) -> int | None:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    weight = _shape(node.inputs[1])
    if node.op_type == "ConvTranspose":
        data = _shape(node.inputs[0])
        return None if data is None or weight is None else math.prod(data) * math.prod(weight[1:])
    made = _shape(node.outputs[0])
    if made is None or weight is None:
        return None
    if node.op_type == "Conv":
        return math.prod(made) * math.prod(weight[1:])
    if node.op_type == "Gemm":
        return math.prod(made) * weight[1 if node.attributes.get_int("transB", 0) else 0]
    return math.prod(made) * (weight[-2] if len(weight) > 1 else weight[0])


def _shape(value: ir.Value | None) -> list[int] | None:
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return [int(size) for size in value.shape.numpy()]
