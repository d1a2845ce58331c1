"""Which operators of a graph go to int8 by an engine's rules, and where quantizers stand."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from edgedl.core.target import Scheme
from edgedl.passes.plan import Decision
from edgedl.passes.recurrent import is_recurrent, own_tensors, why_float

Extent = Literal["full", "products", "gemms"]
EXTENTS: tuple[Extent, ...] = ("full", "products", "gemms")
GLUE = frozenset(
    {"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid"}
)
BOTH_COMPUTED = frozenset({"Add", "Mul"})
SUBGRAPH_HOLDERS = frozenset({"If", "Loop", "Scan", "SequenceMap"})
TABLE_ELEMENTS = 1 << 16


@dataclass(frozen=True)
class Layout:
    """Where quantizers stand, before any scale is known: what calibration has to watch.

    `groups` maps each quantized tensor to the representative of those that share its scale; `users`
    has the int8 operators that read these, moved or not, and `skewed` those representatives that
    may have a zero point of their own in a symmetric scheme.
    """

    decisions: tuple[Decision, ...]
    groups: Mapping[str, str]
    readers: Mapping[str, tuple[str, ...]]
    weights: Mapping[str, tuple[int, int | None]]
    tables: tuple[str, ...]
    users: Mapping[str, frozenset[str]]
    skewed: frozenset[str] = frozenset()

    @property
    def tensors(self) -> tuple[str, ...]:
        return tuple(self.groups)


class Facts:
    """What planning asks of a graph, looked up once."""

    def __init__(self, graph: ir.Model) -> None:
        self.graph = graph.graph
        self.nodes = list(graph.graph)
        self.places = {node: number for number, node in enumerate(self.nodes)}
        self.outputs = {value.name for value in graph.graph.outputs}

    def constant(self, value: ir.Value | None) -> bool:
        return value is not None and value.const_value is not None and not value.is_graph_input()

    def computed(self, node: ir.Node) -> list[ir.Value]:
        """The float32 operands that are not constants."""
        return [
            value
            for value in node.inputs
            if value is not None
            and not self.constant(value)
            and value.dtype in (None, ir.DataType.FLOAT)
        ]

    def readers(self, value: ir.Value) -> list[ir.Node]:
        return [user.node for user in value.uses()]

    def result(self, node: ir.Node) -> ir.Value:
        """The tensor that a node makes once the engine has fused its activation."""
        value = node.outputs[0]
        readers = self.readers(value)
        if (
            node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add")
            and len(readers) == 1
            and value.name not in self.outputs
            and readers[0].graph is self.graph
            and self.clips_at_zero(readers[0])
        ):
            return readers[0].outputs[0]
        return value

    def clips_at_zero(self, node: ir.Node) -> bool:
        if node.op_type == "Relu":
            return True
        if node.op_type != "Clip" or len(node.inputs) < 2 or node.inputs[1] is None:
            return False
        low = node.inputs[1].const_value
        return low is not None and float(low.numpy()) == 0.0


def layout(
    graph: ir.Model,
    scheme: Scheme,
    *,
    extent: Extent = "full",
    keep_float: Mapping[str, str] | None = None,
) -> Layout:
    """Which operators of a graph go to int8 by the scheme's rules, and where quantizers stand.

    `extent` narrows the rules: `products` takes only products with constant weights, `gemms` only
    those that are matrix products. `keep_float` gives nodes that stay float, and why.
    """
    facts = Facts(graph)
    decisions: dict[str, Decision] = {}
    weights: dict[str, tuple[int, int | None]] = {}
    for node in facts.nodes:
        verdict = _judge(node, facts, scheme, extent, keep_float or {}, decisions)
        if verdict is None:
            continue
        name, reason = node.name or "", verdict[1]
        decisions[name] = Decision(name, node.op_type, verdict[0], reason)
        if verdict[0] == "int8" and (operand := _weight(node, facts)) is not None:
            weights[name] = operand
    chosen = [
        node
        for node in facts.nodes
        if (d := decisions.get(node.name or "")) and d.precision == "int8"
    ]
    groups, readers = _quantized_tensors(chosen, facts, scheme)
    for value, like in _of_recurrent(chosen, scheme):
        groups.setdefault(value.name or "", groups.get(like.name or "", like.name or ""))
        readers.setdefault(value.name or "", ())
    tables = tuple(
        node.name or ""
        for node in facts.nodes
        if extent != "gemms"
        and not scheme.dequantizes
        and _is_table(node, facts)
        and node.name not in (keep_float or {})
    )
    users = _users(chosen, groups, facts, scheme)
    return Layout(
        tuple(decisions.values()),
        groups,
        readers,
        weights,
        tables,
        users={group: frozenset(n.name or "" for n in nodes) for group, nodes in users.items()},
        skewed=frozenset(
            group
            for group, nodes in users.items()
            if all(_takes_zero_point(node, scheme) for node in nodes)
        ),
    )


def _users(
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


def _takes_zero_point(node: ir.Node, scheme: Scheme) -> bool:
    return node.op_type in scheme.skewed and node.attributes.get_int("group", 1) == 1


def _judge(
    node: ir.Node,
    facts: Facts,
    scheme: Scheme,
    extent: Extent,
    keep_float: Mapping[str, str],
    decisions: Mapping[str, Decision],
) -> tuple[Literal["int8", "float"], str] | None:
    if node.op_type in SUBGRAPH_HOLDERS:
        return "float", "operators inside its bodies are left alone"
    if is_recurrent(node):
        kept = keep_float.get(node.name or "") or why_float(node, scheme)
        return ("float", kept) if kept else ("int8", "recurrent, with constant weights")
    if node.domain not in ("", "ai.onnx") or node.op_type not in scheme.operators:
        return ("float", f"{scheme.name} has no int8 kernel for it") if _is_product(node) else None
    if (node.name or "") in keep_float:
        return "float", keep_float[node.name or ""]
    if node.op_type in GLUE:
        return _judge_glue(node, facts, scheme, extent, decisions)
    return _judge_product(node, facts, scheme, extent)


def _is_product(node: ir.Node) -> bool:
    return node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum")


def _judge_product(
    node: ir.Node, facts: Facts, scheme: Scheme, extent: Extent
) -> tuple[Literal["int8", "float"], str]:
    data = node.inputs[0]
    if data is None or data.dtype not in (None, ir.DataType.FLOAT):
        return "float", "its input is not float32"
    if facts.constant(data):
        return "float", "its first operand is a constant"
    if extent == "gemms" and node.op_type not in ("Gemm", "MatMul"):
        return "float", "only matrix products are in int8 here"
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if not facts.constant(weight):
        if node.op_type != "MatMul":
            return "float", "its weights are computed"
        if extent != "full":
            return "float", "both of its operands are computed"
        return "int8", "both operands are activations"
    assert weight is not None
    assert weight.const_value is not None
    if weight.const_value.dtype != ir.DataType.FLOAT:
        return "float", "its weights are not float32"
    if node.op_type == "Gemm":
        attributes = node.attributes
        if attributes.get_int("transA", 0) or attributes.get_float("alpha", 1.0) != 1.0:
            return "float", "it transposes or scales its first operand"
        if attributes.get_float("beta", 1.0) != 1.0:
            return "float", "it scales its bias"
    if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) != 1:
        return "float", "grouped transposed convolutions have no int8 kernel"
    rank = len(weight.const_value.shape)
    if scheme.outputs and node.op_type == "Conv" and rank not in (3, 4):
        return "float", f"{scheme.name} has no int8 kernel for {rank - 2}-dimensional convolutions"
    if scheme.outputs and node.op_type not in scheme.optional_outputs:
        result = facts.result(node)
        if result.name in facts.outputs or node.outputs[0].name in facts.outputs:
            return "float", "it makes an output of the model, which stays exact"
    return "int8", "product with constant weights"


def _judge_glue(
    node: ir.Node,
    facts: Facts,
    scheme: Scheme,
    extent: Extent,
    decisions: Mapping[str, Decision],
) -> tuple[Literal["int8", "float"], str] | None:
    operands = [value for value in node.inputs if value is not None]
    computed = facts.computed(node)
    if node.op_type in BOTH_COMPUTED and len(computed) < 2:
        return None
    if node.op_type == "Concat" and len(computed) < len(operands):
        return None
    result = facts.result(node)
    if result.name in facts.outputs or node.outputs[0].name in facts.outputs:
        return None
    if extent != "full":
        return "float", "only products with constant weights are in int8 here"
    if scheme.fuses_adds and node.op_type == "Add":
        fused = fused_operand(node, facts, scheme)
        if fused is None or len(computed) < 2:
            return (
                "float",
                f"{scheme.name} adds within a convolution's kernel, and here is none",
            )
        if not _made_in_int8(fused, facts, scheme, decisions):
            return "float", "the convolution that it is added in is float"
        return "int8", "added in the kernel of an int8 convolution"
    fed = [_made_in_int8(value, facts, scheme, decisions) for value in computed]
    enough = all(fed) if scheme.outputs or node.op_type == "Concat" else any(fed)
    return ("int8", "between int8 operators") if enough else ("float", "its inputs are float")


def _made_in_int8(
    value: ir.Value, facts: Facts, scheme: Scheme, decisions: Mapping[str, Decision]
) -> bool:
    """Whether a tensor comes out of an int8 operator, through fused activations and moves."""
    producer = value.producer()
    while producer is not None:
        decision = decisions.get(producer.name or "")
        if decision is not None:
            return decision.precision == "int8" and not is_recurrent(producer)
        if facts.clips_at_zero(producer) or is_move(producer, scheme):
            first = producer.inputs[0]
            producer = first.producer() if first is not None else None
            continue
        return False
    return False


def computed_operands(node: ir.Node, facts: Facts, scheme: Scheme) -> list[ir.Value]:
    """The operands of an int8 operator that are quantized as activations."""
    fused = fused_operand(node, facts, scheme)
    operands = [value for value in facts.computed(node) if value is not fused]
    return operands[: 1 if _is_product(node) and node.op_type != "MatMul" else None]


def fused_operand(node: ir.Node, facts: Facts, scheme: Scheme) -> ir.Value | None:
    """The operand of an Add that comes straight out of a convolution whose kernel makes the sum as
    well, where the scheme's engine has such kernels: of two the later one, the other being what is
    waited for."""
    if node.op_type != "Add" or not scheme.fuses_adds:
        return None
    made = [
        (facts.places[maker], value)
        for value in facts.computed(node)
        if (maker := value.producer()) is not None
        and maker.op_type in ("Conv", "ConvTranspose")
        and len(facts.readers(value)) == 1
        and value.name not in facts.outputs
    ]
    return max(made, key=lambda one: one[0])[1] if made else None


def is_move(node: ir.Node, scheme: Scheme) -> bool:
    """Whether an operator only carries values, so that integer codes go through it as well."""
    if node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") != "nearest":
        return False
    return node.domain in ("", "ai.onnx") and node.op_type in scheme.moves


def _weight(node: ir.Node, facts: Facts) -> tuple[int, int | None] | None:
    """Where a product's constant weights stand, and the axis of its output channels."""
    if not _is_product(node) or not facts.constant(node.inputs[1]):
        return None
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    rank = len(weight.const_value.shape)
    if node.op_type == "Conv":
        return 1, 0
    if node.op_type == "ConvTranspose":
        return 1, 1
    if node.op_type == "Gemm":
        return 1, 0 if node.attributes.get_int("transB", 0) else 1
    return 1, 1 if rank == 2 else None


def _is_table(node: ir.Node, facts: Facts) -> bool:
    """Whether a Gather looks rows up in a large constant matrix that nothing else reads."""
    table = node.inputs[0] if node.op_type == "Gather" else None
    if table is None or not facts.constant(table) or node.attributes.get_int("axis", 0) != 0:
        return False
    assert table.const_value is not None
    shape = table.const_value.shape.numpy()
    return (
        table.const_value.dtype == ir.DataType.FLOAT
        and len(shape) == 2
        and shape[0] * shape[1] >= TABLE_ELEMENTS
        and len(facts.readers(table)) == 1
        and node.outputs[0].name not in facts.outputs
    )


def _quantized_tensors(
    chosen: list[ir.Node], facts: Facts, scheme: Scheme
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    quantized: dict[str, ir.Value] = {}
    made: set[str] = set()
    chosen = [node for node in chosen if not is_recurrent(node)]
    for node in chosen:
        for value in computed_operands(node, facts, scheme):
            quantized[value.name or ""] = value
        made.add(facts.result(node).name or "")
        if scheme.outputs and node.op_type not in scheme.optional_outputs:
            result = facts.result(node)
            quantized[result.name or ""] = result
    parent = {name: name for name in quantized}

    def find(name: str) -> str:
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
            if name not in quantized:
                quantized[name] = value
                parent[name] = name
            parent[find(name)] = find(outputs[0].name or "")
    int8 = {node.name for node in chosen}
    readers: dict[str, tuple[str, ...]] = {}
    for name, value in quantized.items():
        everyone = name in made or _carried(value, made, scheme)
        readers[name] = tuple(
            node.name or ""
            for node in facts.readers(value)
            if node.graph is facts.graph
            and (
                everyone
                or node.name in int8
                or (is_move(node, scheme) and node.outputs[0].name in quantized)
            )
        )
    order = {value.name: i for i, node in enumerate(facts.nodes) for value in node.outputs}
    names = sorted(quantized, key=lambda name: order.get(name, -1))
    if scheme.carries:
        names = [n for n in names if not _moved_from_one(quantized[n], quantized, scheme)]
    first: dict[str, str] = {}
    groups = {name: first.setdefault(find(name), name) for name in names}
    return groups, {name: readers[name] for name in names}


def _moved_from_one(value: ir.Value, quantized: Collection[str], scheme: Scheme) -> bool:
    """Whether a tensor is another that is quantized, moved."""
    producer = value.producer()
    if producer is None or producer.op_type not in scheme.carries:
        return False
    return producer.inputs[0] is not None and producer.inputs[0].name in quantized


def _of_recurrent(chosen: list[ir.Node], scheme: Scheme) -> list[tuple[ir.Value, ir.Value]]:
    """Tensors that are quantized for one recurrent operator alone, which reads and makes float as
    far as other operators are concerned; and the tensor whose scale each of them shares."""
    return [pair for node in chosen if is_recurrent(node) for pair in own_tensors(node, scheme)]


def _carried(value: ir.Value, made: Collection[str], scheme: Scheme) -> bool:
    producer = value.producer()
    while producer is not None and is_move(producer, scheme) and producer.inputs[0] is not None:
        if producer.inputs[0].name in made:
            return True
        producer = producer.inputs[0].producer()
    return False
