"""Where tensors may cross between float and int8, and which operators a kernel stands for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import onnx_ir as ir

from edgedl.core.model import Model
from edgedl.core.target import Scheme
from edgedl.passes.facts import Facts, computed_operands, is_move
from edgedl.passes.graph import read, shape_of
from edgedl.passes.layout import layout
from edgedl.passes.recurrent import QUANTIZER_PARTS, is_recurrent

MAIN = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# What placing adds to the name of a Gemm that it writes as a product and the addition of its bias.
GEMM_PARTS = ("_product", "_bias")


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
            and types, and the activation that engines fuse with it. Where a shape is not known,
            an operator is like no other, and the digest is of its model and its name as well.
        owners: the operator that a kernel stands for which bears one of these names: of a node, of
            a tensor that the node makes, or of what engines compute together with it.
        crossings: in graph order. Operators of a sequence are in none of them: what they quantize
            they quantize for themselves, and that belongs to what they take.
        sequences: all recurrent operators in graph order, once for each direction.
        weights: by constant, the operator that reads it, the first where there are several.
    """

    operators: Mapping[str, str]
    signatures: Mapping[str, str]
    owners: Mapping[str, str]
    crossings: tuple[Crossing, ...]
    sequences: tuple[str, ...] = ()
    weights: Mapping[str, str] = field(default_factory=dict)

    def computed_by(self, names: frozenset[str]) -> list[str]:
        """The operators that a kernel computes which bears these names, the one that does most of
        the work first."""
        found = {self.owners[name] for name in names if name in self.owners}
        return sorted(
            found, key=lambda name: (self.operators[name] not in MAIN, self._places[name])
        )

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.operators)}


def choices(model: Model, scheme: Scheme) -> Choices:
    """What can be chosen in a float model by the rules of a scheme."""
    graph = read(model.path)
    found = layout(graph, scheme)
    facts = Facts(graph)
    nodes = {node.name or "": node for node in facts.nodes}
    chosen = {d.node: nodes[d.node] for d in found.decisions if d.precision == "int8"}
    makers: dict[str, str] = {}
    owners = {name: name for name in chosen}
    for name, node in chosen.items():
        made = [*node.outputs, facts.result(node)]
        if not is_recurrent(node):
            makers |= {value.name or "": name for value in made}
        together = [facts.result(node).producer(), _bias(node, facts)]
        names = [value.name for value in made]
        for one in together:
            names += [one.name, one.outputs[0].name] if one is not None else []
        names += [name + part for part in GEMM_PARTS if node.op_type == "Gemm"]
        names += [name + part for part in QUANTIZER_PARTS if is_recurrent(node)]
        for owned in names:
            owners.setdefault(owned or name, name)
    between = {name: node for name, node in chosen.items() if not is_recurrent(node)}
    return Choices(
        operators={name: node.op_type for name, node in chosen.items()},
        signatures={name: _signature(node, facts, model.digest) for name, node in chosen.items()},
        owners=owners,
        crossings=_crossings(between, makers, facts, scheme),
        sequences=tuple(name for node in facts.nodes for name in _directions(node)),
        weights=_weights(chosen),
    )


def _weights(chosen: Mapping[str, ir.Node]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, node in chosen.items():
        for value in node.inputs:
            if value is not None and value.const_value is not None:
                found.setdefault(value.name or "", name)
    return found


def _directions(node: ir.Node) -> list[str]:
    """The name of a recurrent operator for each of its directions."""
    if not is_recurrent(node):
        return []
    both = node.attributes.get_string("direction", "forward") == "bidirectional"
    return [node.name or ""] * (2 if both else 1)


def _bias(node: ir.Node, facts: Facts) -> ir.Node | None:
    """The addition of a constant behind a product, which engines compute with it where they can."""
    value, readers = node.outputs[0], facts.readers(node.outputs[0])
    if node.op_type not in MAIN or len(readers) != 1 or value.name in facts.outputs:
        return None
    [reader] = readers
    if reader.op_type != "Add" or reader.graph is not facts.graph:
        return None
    return reader if any(facts.constant(operand) for operand in reader.inputs) else None


def _crossings(
    chosen: Mapping[str, ir.Node],
    makers: Mapping[str, str],
    facts: Facts,
    scheme: Scheme,
) -> tuple[Crossing, ...]:
    values: dict[str, ir.Value] = {}
    readers: dict[str, list[str]] = {}
    for name, node in chosen.items():
        for operand in computed_operands(node, facts, scheme):
            for source in _sources(operand, makers, facts, scheme):
                values[source.name or ""] = source
                readers.setdefault(source.name or "", []).append(name)
    for node in chosen.values():
        result = facts.result(node)
        values.setdefault(result.name or "", result)
    crossings = []
    for name, value in values.items():
        crossings.append(
            Crossing(
                name,
                makers.get(name),
                tuple(dict.fromkeys(readers.get(name, ()))),
                _read_in_float(value, chosen, facts, scheme),
                _elements(value),
            )
        )
    order = {value.name: i for i, node in enumerate(facts.nodes) for value in node.outputs}
    return tuple(sorted(crossings, key=lambda crossing: order.get(crossing.tensor, -1)))


def _moved(node: ir.Node | None, facts: Facts, scheme: Scheme) -> list[ir.Value]:
    """The operands that an operator only carries on; none where it computes, or puts constants
    among them, whose codes it has not."""
    if node is None or not is_move(node, scheme):
        return []
    moved = list(node.inputs if node.op_type == "Concat" else node.inputs[:1])
    return [v for v in moved if v is not None] if not any(map(facts.constant, moved)) else []


def _sources(
    value: ir.Value, makers: Mapping[str, str], facts: Facts, scheme: Scheme
) -> list[ir.Value]:
    """The tensors that an operand carries, seen through operators that only move data."""
    found, waiting, seen = [], [value], {value}
    while waiting:
        one = waiting.pop()
        moved = [] if one.name in makers else _moved(one.producer(), facts, scheme)
        if not moved:
            found.append(one)
        waiting += [operand for operand in dict.fromkeys(moved) if operand not in seen]
        seen |= set(moved)
    return found


def _read_in_float(
    value: ir.Value, chosen: Mapping[str, ir.Node], facts: Facts, scheme: Scheme
) -> bool:
    waiting, seen = [value], {value}
    while waiting:
        one = waiting.pop()
        if one.name in facts.outputs:
            return True
        for reader in facts.readers(one):
            if reader.graph is not facts.graph:
                return True
            if (reader.name or "") in chosen:
                continue
            if one not in _moved(reader, facts, scheme):
                return True
            waiting += [made for made in reader.outputs if made not in seen]
            seen |= set(reader.outputs)
    return False


def _elements(value: ir.Value) -> int:
    count = 1
    for size in shape_of(value) if value.shape is not None else (0,):
        count *= size if isinstance(size, int) else 0
    return count


def _known(value: ir.Value) -> bool:
    if value.const_value is not None or not (value.uses() or value.is_graph_output()):
        return True
    return value.shape is not None and all(isinstance(size, int) for size in shape_of(value))


def _signature(node: ir.Node, facts: Facts, model: str) -> str:
    values = [v for v in (*node.inputs, *node.outputs) if v is not None]
    alone = [] if all(map(_known, values)) else [model, node.name]
    operands = [
        [
            v.dtype.name if v.dtype else "",
            list(shape_of(v)) if v.shape is not None else None,
            facts.constant(v),
        ]
        if v is not None
        else None
        for v in (*node.inputs, *node.outputs)
    ]
    together = [facts.result(node).producer(), _bias(node, facts)]
    kinds = [one.op_type if one else "" for one in together]
    attributes = {name: str(a.value) for name, a in sorted(node.attributes.items())}
    text = json.dumps([node.op_type, attributes, operands, kinds, alone])
    return hashlib.sha256(text.encode()).hexdigest()[:24]
