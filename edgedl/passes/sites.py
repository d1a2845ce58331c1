"""Where a tensor's channels can be divided by factors without a change of the float answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from edgedl.passes.channels import PRODUCTS, Bound, Part, Site, floats, shape, weight_read_by
from edgedl.passes.shapes import Shapes

NORMS = frozenset({"LayerNormalization", "BatchNormalization", "InstanceNormalization"})
# f(s x) = s f(x) for each channel's s > 0, and channels keep their axis
KEEP_AXIS = frozenset(
    {
        "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool",
        "Relu",
    }
)  # fmt: skip


def with_shapes(graph: ir.Model) -> ir.Graph:
    """The graph, its tensors' shapes worked out where one of them is not known."""
    if any(value.shape is None for node in graph.graph for value in node.outputs):
        Shapes().edit(graph)
    return graph.graph


def find_sites(graph: ir.Graph, sources: frozenset[str] = PRODUCTS | NORMS | {"Mul"}) -> list[Site]:
    """Every site whose source is one of these operators, in graph order.

    A product's weights are read by one site at most: that of the nearest source.
    """
    taken: set[tuple[ir.Node, int]] = set()
    found: list[Site] = []
    for node in reversed(list(graph)):
        if node.op_type not in sources or node.domain not in ("", "ai.onnx"):
            continue
        site = _site(node)
        if site is None:
            continue
        readers = {(part.node, part.position) for part in site.read}
        if not readers & taken:
            found.append(site)
            taken |= readers
    return found[::-1]


@dataclass(eq=False)
class _Walk:
    """What is found on the way from a source down to everything that reads its channels.

    The channels lie on `axes` of a tensor, row by row: heads of an attention are two axes.
    """

    channels: int
    made: list[Part] = field(default_factory=list)
    read: list[Part] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)
    inputs: list[ir.Value] = field(default_factory=list)

    def down(self, value: ir.Value, axes: tuple[int, ...]) -> bool:
        """Whether everything that reads the tensor can take its channels scaled."""
        if value.is_graph_output() or not value.uses():
            return False
        return all(self._through(value, use.node, use.idx, axes) for use in value.uses())

    def _through(self, value: ir.Value, node: ir.Node, index: int, axes: tuple[int, ...]) -> bool:
        sizes = shape(value)
        if (
            node.domain not in ("", "ai.onnx")
            or sizes is None
            or node.graph is not _graph_of(value)
        ):
            return False
        rank = len(sizes)
        if node.op_type in PRODUCTS:
            return self._product(value, node, index, axes, rank)
        if node.op_type in ("Add", "Mul", "Div", "Sub", "PRelu", "Clip"):
            return self._beside(node, index, axes, rank)
        after: tuple[int, ...] | None = None
        if node.op_type in KEEP_AXIS and len(node.outputs) == 1:
            whole = node.op_type in ("Relu", "LeakyRelu", "Identity")
            after = axes if whole or axes == (1,) else None
        elif node.op_type == "Transpose":
            turned = list(node.attributes.get_ints("perm", range(rank)[::-1]))
            after = tuple(turned.index(axis) for axis in axes)
        elif node.op_type in ("Reshape", "Flatten", "Squeeze", "Unsqueeze") and index == 0:
            after = _reshaped(axes, sizes, shape(node.outputs[0]))
        elif node.op_type == "ReduceMean" and index == 0:
            after = _reduced(node, axes, rank)
        return after is not None and self.down(node.outputs[0], after)

    def _product(
        self, value: ir.Value, node: ir.Node, index: int, axes: tuple[int, ...], rank: int
    ) -> bool:
        if index == 1 and node.op_type == "MatMul" and floats(node.inputs[0]) is None:
            other = shape(node.inputs[0])
            carries = other is not None and len(other) == rank and rank - 2 not in axes
            return carries and self.down(node.outputs[0], axes)
        if index != 0 or len(axes) != 1:
            return False
        part = weight_read_by(node, self.channels, axes[0], rank)
        if part is None:
            return False
        self.read.append(part)
        self.inputs.append(value)
        return True

    def _beside(self, node: ir.Node, index: int, axes: tuple[int, ...], rank: int) -> bool:
        if node.op_type == "Clip":
            bound = _clip(node) if index == 0 else None
            self.bounds += [bound] if bound else []
            return bound is not None and self.down(node.outputs[0], axes)
        array = floats(node.inputs[1 - index])
        if array is None or array.ndim > rank or shape(node.outputs[0]) is None:
            return False
        if node.op_type in ("Add", "Sub"):
            part = self.across(node, 1 - index, axes, rank)
            if part is None:
                return False
            self.made.append(part)
        elif index != 0 and node.op_type != "Mul":
            return False
        return self.down(node.outputs[0], axes)

    def across(self, node: ir.Node, position: int, axes: tuple[int, ...], rank: int) -> Part | None:
        """A constant that is broadcast to a tensor of this rank, with one slice a channel."""
        array = floats(node.inputs[position])
        if array is None or len(axes) != 1 or array.ndim > rank:
            return None
        view = (1,) * (rank - array.ndim) + array.shape
        if view[axes[0]] not in (1, self.channels):
            return None
        return Part(
            node, position, view, tuple(self.channels if i == axes[0] else 1 for i in range(rank))
        )


def _graph_of(value: ir.Value) -> ir.Graph | None:
    producer = value.producer()
    found = producer.graph if producer is not None else None
    return found if isinstance(found, ir.Graph) else None


def _site(node: ir.Node) -> Site | None:
    sizes = shape(node.outputs[0])
    start = _start(node, sizes) if sizes is not None else None
    if start is None:
        return None
    axis, channels, made = start
    walk = _Walk(channels, list(made))
    if not walk.down(node.outputs[0], (axis,)) or not walk.read:
        return None
    return Site(
        node, channels, tuple(walk.made), tuple(walk.read), tuple(walk.bounds), tuple(walk.inputs)
    )


def _start(node: ir.Node, sizes: Sequence[int | None]) -> tuple[int, int, tuple[Part, ...]] | None:
    """The axis and number of a source's channels, and its constants."""
    rank = len(sizes)
    if node.op_type == "Mul":
        return _vector(node, sizes)
    scale = floats(node.inputs[1]) if len(node.inputs) > 1 else None
    if scale is None:
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and floats(bias) is None:
        return None
    if node.op_type in NORMS:
        last = node.op_type == "LayerNormalization"
        axis = rank - 1 if last else 1
        if last and node.attributes.get_int("axis", -1) not in (-1, rank - 1):
            return None
        if scale.ndim != 1 or len([v for v in node.outputs if v.uses()]) != 1:
            return None
        parts = [Part(node, 1, scale.shape, scale.shape)]
    else:
        groups = node.attributes.get_int("group", 1) or 1
        axis = 1 if node.op_type in ("Conv", "ConvTranspose") else rank - 1
        turned = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
        own = 0 if node.op_type == "Conv" or turned else 1
        if (node.op_type == "ConvTranspose" and groups != 1) or scale.ndim < 2:
            return None
        if node.op_type == "MatMul":
            own = scale.ndim - 1
        wide = tuple(scale.shape[own] if i == own else 1 for i in range(scale.ndim))
        parts = [Part(node, 1, scale.shape, wide)]
    channels = math.prod(parts[0].factors)
    if sizes[axis] not in (None, channels):
        return None
    if bias is not None:
        array = floats(bias)
        assert array is not None
        view = (1,) * (2 - array.ndim) + array.shape if node.op_type == "Gemm" else array.shape
        if view[-1] not in (1, channels):
            return None
        parts.append(Part(node, 2, view, (1,) * (len(view) - 1) + (channels,)))
    return axis, channels, tuple(parts)


def _vector(node: ir.Node, sizes: Sequence[int | None]) -> tuple[int, int, tuple[Part, ...]] | None:
    """A multiplication by one constant a channel."""
    for position in (0, 1):
        array = floats(node.inputs[position])
        if array is None or array.size == 1 or array.ndim > len(sizes):
            continue
        view = (1,) * (len(sizes) - array.ndim) + array.shape
        wide = [i for i, size in enumerate(view) if size != 1]
        if len(wide) == 1:
            return wide[0], array.size, (Part(node, position, view, view),)
    return None


def _clip(node: ir.Node) -> Bound | None:
    low, high = (
        floats(node.inputs[i]) if len(node.inputs) > i and node.inputs[i] is not None else None
        for i in (1, 2)
    )
    if low is None or low.size != 1 or low.item() != 0:
        return None
    if high is None:
        return Bound(node, math.inf) if len(node.inputs) < 3 or node.inputs[2] is None else None
    return Bound(node, float(high.item())) if high.size == 1 and high.item() > 0 else None


def _reshaped(
    axes: tuple[int, ...], before: Sequence[int | None], after: Sequence[int | None] | None
) -> tuple[int, ...] | None:
    """The axes that channels lie on after a reshape; what is behind them must be fixed."""
    if after is None or axes != tuple(range(axes[0], axes[-1] + 1)):
        return None
    inner, held = before[axes[-1] + 1 :], [before[axis] for axis in axes]
    if None in inner or None in held:
        return None
    behind = math.prod(size for size in inner if size is not None)
    count = math.prod(size for size in held if size is not None)
    end = len(after)
    while end and _fixed(after[end:]) != behind:
        if after[end - 1] is None:
            return None
        end -= 1
    begin = end
    while begin and _fixed(after[begin:end]) != count:
        begin -= 1
        if after[begin] is None:
            return None
    if _fixed(after[begin:end]) != count:
        return None
    return tuple(axis for axis in range(begin, end) if after[axis] != 1) or None


def _fixed(sizes: Sequence[int | None]) -> int:
    return math.prod(-1 if size is None else size for size in sizes)


def _reduced(node: ir.Node, axes: tuple[int, ...], rank: int) -> tuple[int, ...] | None:
    """The axes of channels behind a mean over others."""
    over: Sequence[int] = node.attributes.get_ints("axes", ())
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        told = node.inputs[1].const_value
        over = [int(axis) for axis in told.numpy().reshape(-1)] if told is not None else []
    gone = {axis % rank for axis in over}
    if not gone or gone & set(axes):
        return None
    if node.attributes.get_int("keepdims", 1) == 1:
        return axes
    return tuple(axis - sum(other < axis for other in gone) for axis in axes)
