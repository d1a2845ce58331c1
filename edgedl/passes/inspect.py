"""What is in a model: operators, parameters, multiply-accumulates, precisions, history."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgedl.core.model import Model, Signature, Step
from edgedl.passes.graph import quantized_already, read
from edgedl.passes.macs import macs_of


@dataclass(frozen=True)
class Inspection:
    """A model, counted.

    Attributes:
        operators: nodes by kind, those inside bodies included.
        parameters: elements of its constants of at least one dimension.
        macs: multiply-accumulates of one sample in convolutions, matrix products, recurrent layers
            and attention, those in bodies included; None where a shape or a loop's count that they
            depend on is not known.
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
        macs=macs_of(read(model.path)),
        bytes=model.bytes,
        weight_bytes=dict(weight_bytes.most_common()),
        quantized=quantized_already(model),
        in_bodies=sum(operators.values()) - len(graph.graph),
        history=model.history,
    )
