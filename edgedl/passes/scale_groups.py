"""Which tensors are quantized, which of them share a scale, and who reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from edgedl.core.target import Scheme
from edgedl.passes.facts import Facts, computed_operands, is_move
from edgedl.passes.recurrent import is_recurrent, own_tensors


def quantized_tensors(
    chosen: list[ir.Node], facts: Facts, scheme: Scheme
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """The tensors that int8 operators quantize, less those of recurrent ones, in graph order.

    Returns:
        By tensor the first of those that share its scale, and the operators that read it
        quantized.
    """
    chosen = [node for node in chosen if not is_recurrent(node)]
    quantized: dict[str, ir.Value] = {}
    made: set[str] = set()
    for node in chosen:
        for value in computed_operands(node, facts, scheme):
            quantized[value.name or ""] = value
        result = facts.result(node)
        made.add(result.name or "")
        if facts.result_is_coded(node, scheme):
            quantized[result.name or ""] = result
    joined = _join_moved(quantized, facts, scheme)
    int8 = {node.name for node in chosen}

    def takes_codes(node: ir.Node) -> bool:
        moves = is_move(node, scheme) and node.outputs[0].name in quantized
        return moves or node.name in int8

    readers: dict[str, tuple[str, ...]] = {}
    for name, value in quantized.items():
        everyone = name in made or _carried(value, made, scheme)
        nodes = [node for node in facts.readers(value) if node.graph is facts.graph]
        readers[name] = tuple(node.name or "" for node in nodes if everyone or takes_codes(node))
    order = {value.name: i for i, node in enumerate(facts.nodes) for value in node.outputs}
    names = sorted(quantized, key=lambda name: order.get(name, -1))
    if scheme.carries:
        names = [n for n in names if not _moved_from_one(quantized[n], quantized, scheme)]
    first: dict[str, str] = {}
    groups = {name: first.setdefault(joined[name], name) for name in names}
    return groups, {name: readers[name] for name in names}


def _join_moved(quantized: dict[str, ir.Value], facts: Facts, scheme: Scheme) -> dict[str, str]:
    """By tensor one of those that share its scale, since operators that only move data, and
    concats, carry codes of one into another; what they carry on the way is added to `quantized`."""
    parent = {name: name for name in quantized}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for node in reversed(facts.nodes):
        if not is_move(node, scheme):
            continue
        outputs = [value for value in node.outputs if value.name in quantized]
        operands = facts.computed(node)
        inputs = operands if node.op_type == "Concat" else operands[:1]
        whole = node.op_type != "Concat" or len(inputs) == len(node.inputs)
        if not outputs or not inputs or not whole:
            continue
        for value in (*inputs, *node.outputs):
            name = value.name or ""
            quantized.setdefault(name, value)
            parent.setdefault(name, name)
            parent[root(name)] = root(outputs[0].name or "")
    return {name: root(name) for name in quantized}


def _moved_from_one(value: ir.Value, quantized: Collection[str], scheme: Scheme) -> bool:
    """Whether a tensor is another that is quantized, moved."""
    producer = value.producer()
    if producer is None or producer.op_type not in scheme.carries:
        return False
    return producer.inputs[0] is not None and producer.inputs[0].name in quantized


def of_recurrent(chosen: list[ir.Node], scheme: Scheme) -> list[tuple[ir.Value, ir.Value]]:
    """Tensors that are quantized for one recurrent operator alone, which reads and makes float as
    far as other operators are concerned; and the tensor whose scale each of them shares."""
    return [pair for node in chosen if is_recurrent(node) for pair in own_tensors(node, scheme)]


def _carried(value: ir.Value, made: Collection[str], scheme: Scheme) -> bool:
    """Whether a tensor is one of those made by int8 operators, moved."""
    producer = value.producer()
    while producer is not None and is_move(producer, scheme) and producer.inputs[0] is not None:
        if producer.inputs[0].name in made:
            return True
        producer = producer.inputs[0].producer()
    return False


def users_of(
    chosen: list[ir.Node], groups: Mapping[str, str], facts: Facts, scheme: Scheme
) -> dict[str, list[ir.Node]]:
    """By representative, the int8 operators that read its tensors, moved or not."""
    found: dict[str, list[ir.Node]] = {group: [] for group in groups.values()}
    for node in chosen:
        for operand in computed_operands(node, facts, scheme):
            waiting, seen = [operand], {operand}
            while waiting:
                value = waiting.pop()
                if (group := groups.get(value.name or "")) is not None:
                    found[group].append(node)
                producer = value.producer()
                if producer is None or not is_move(producer, scheme):
                    continue
                more = producer.inputs if producer.op_type == "Concat" else producer.inputs[:1]
                waiting += [v for v in more if v is not None and v not in seen]
                seen |= {v for v in more if v is not None}
    return found
