"""Where tensors may cross between float and int8, and which operators a kernel stands for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from edgedl.core.model import Model
from edgedl.core.target import Scheme
from edgedl.passes.graph import read, shape_of
from edgedl.passes.layout import Facts, computed_operands, is_move, layout

MAIN = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Crossing:
    """A tensor that an operator makes or reads in the precision that is chosen for it.

    Attributes:
        tensor: its name in the float graph.
        producer: the operator that makes it and may compute in int8; None for any other.
        readers: operators that read it, through others that only move data, and may compute in
            int8.
        read_in_float: whether anything else reads it, or it is an output of the model.
        elements: how many it has, 0 where its shape is not known.
    """

    tensor: str
    producer: str | None
    readers: tuple[str, ...]
    read_in_float: bool
    elements: int


@dataclass(frozen=True)
class Choices:
    """The operators of a graph that may compute in int8, and the tensors between them.

    Attributes:
        operators: the kind of each, by name, in graph order.
        signatures: for each, a digest of what its time depends on: its kind, attributes, shapes
            and types, and the activation that engines fuse with it.
        owners: the operator that a kernel stands for which bears one of these names: of a node, or
            of a tensor that the node makes.
        crossings: in graph order.
    """

    operators: Mapping[str, str]
    signatures: Mapping[str, str]
    owners: Mapping[str, str]
    crossings: tuple[Crossing, ...]

    def computed_by(self, names: frozenset[str]) -> list[str]:
        """The operators that a kernel computes which bears these names, the one that does most of
        the work first."""
        found = {self.owners[name] for name in names if name in self.owners}
        order = [name for name in self.operators if name in found]
        return sorted(order, key=lambda name: self.operators[name] not in MAIN)


def choices(model: Model, scheme: Scheme) -> Choices:
    """What can be chosen in a float model by the rules of a scheme."""
    graph = read(model.path)
    found = layout(graph, scheme)
    facts = Facts(graph)
    nodes = {node.name or "": node for node in facts.nodes}
    chosen = {d.node: nodes[d.node] for d in found.decisions if d.precision == "int8"}
    owners: dict[str, str] = {}
    for name, node in chosen.items():
        result = facts.result(node)
        last = result.producer()
        names = [name, *(v.name for v in node.outputs), result.name, last.name if last else None]
        owners |= {owned: name for owned in names if owned}
    return Choices(
        operators={name: node.op_type for name, node in chosen.items()},
        signatures={name: _signature(node, facts) for name, node in chosen.items()},
        owners=owners,
        crossings=_crossings(chosen, owners, facts, scheme),
    )


def _crossings(
    chosen: Mapping[str, ir.Node],
    owners: Mapping[str, str],
    facts: Facts,
    scheme: Scheme,
) -> tuple[Crossing, ...]:
    values: dict[str, ir.Value] = {}
    readers: dict[str, list[str]] = {}
    for name, node in chosen.items():
        for operand in computed_operands(node, facts):
            for source in _sources(operand, owners, scheme):
                values[source.name or ""] = source
                readers.setdefault(source.name or "", []).append(name)
    for node in chosen.values():
        result = facts.result(node)
        values.setdefault(result.name or "", result)
    crossings = []
    for name, value in values.items():
        producer = value.producer()
        maker = owners.get(name) if producer is not None else None
        crossings.append(
            Crossing(
                name,
                maker,
                tuple(dict.fromkeys(readers.get(name, ()))),
                _read_in_float(value, chosen, facts, scheme),
                _elements(value),
            )
        )
    order = {value.name: i for i, node in enumerate(facts.nodes) for value in node.outputs}
    return tuple(sorted(crossings, key=lambda crossing: order.get(crossing.tensor, -1)))


def _sources(value: ir.Value, owners: Mapping[str, str], scheme: Scheme) -> list[ir.Value]:
    """The tensors that an operand carries, seen through operators that only move data."""
    found, waiting = [], [value]
    while waiting:
        one = waiting.pop()
        producer = one.producer()
        if producer is None or one.name in owners or not is_move(producer, scheme):
            found.append(one)
            continue
        moved = producer.inputs if producer.op_type == "Concat" else producer.inputs[:1]
        waiting += [operand for operand in moved if operand is not None]
    return found


def _read_in_float(
    value: ir.Value, chosen: Mapping[str, ir.Node], facts: Facts, scheme: Scheme
) -> bool:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if one.name in facts.outputs:
            return True
        for reader in facts.readers(one):
            if reader.graph is not facts.graph:
                return True
            if is_move(reader, scheme):
                waiting += reader.outputs
            elif (reader.name or "") not in chosen:
                return True
    return False


def _elements(value: ir.Value) -> int:
    count = 1
    for size in shape_of(value) if value.shape is not None else (0,):
        count *= size if isinstance(size, int) else 0
    return count


def _signature(node: ir.Node, facts: Facts) -> str:
    operands = [
        [v.dtype.name if v.dtype else "", list(shape_of(v)) if v.shape is not None else None]
        if v is not None
        else None
        for v in (*node.inputs, *node.outputs)
    ]
    last = facts.result(node).producer()
    attributes = {name: str(a.value) for name, a in sorted(node.attributes.items())}
    text = json.dumps([node.op_type, attributes, operands, last.op_type if last else ""])
    return hashlib.sha256(text.encode()).hexdigest()[:24]
