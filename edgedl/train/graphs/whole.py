"""Which layers of a network have to keep all their channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from edgedl.train.graphs.brought import Function, Step
from edgedl.train.graphs.layers import Scale, Shift
from edgedl.train.graphs.patterns import Graph
from edgedl.train.graphs.reshapes import Part, Reshaped

# Layers that have as many channels behind as before, one by one.
PASSING = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.PReLU,
    Scale,
    Shift,
)
CHANNELS_SECOND = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.PReLU,
)
CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.LSTM, nn.GRU)
# Functions that take channels by number, where they change the axis of channels.
NUMBERING = frozenset({
    "Slice", "Gather", "GatherElements", "GatherND", "Tile", "Pad", "ScatterND", "ScatterElements",
    "DepthToSpace", "SpaceToDepth", "TopK", "OneHot", "Einsum",
})  # fmt: skip


def whole_layers(
    steps: Sequence[Step], layers: Mapping[str, nn.Module], outputs: Sequence[str], graph: Graph
) -> dict[str, str]:
    """The layers whose channels cannot be cut, by name, and the reason of each."""
    makers = {name: step for step in steps for name in step.outputs if name}
    channels = _channels(steps, layers, graph)
    found: dict[str, str] = {}
    for name in outputs:
        _mark(name, f"output `{name}`", makers, layers, found)
    for step in steps:
        if _numbers(step, graph, channels):
            reason = f"{step.operation.kind} node `{step.operation.name}`"
            for name in step.inputs:
                _mark(name, reason, makers, layers, found)
    return found


def _numbers(step: Step, graph: Graph, channels: Mapping[str, int]) -> bool:
    """Whether a function takes channels by number."""
    operation, shapes = step.operation, graph.seen.shapes
    if step.layer is not None:
        return False
    source, made = step.inputs[0] if step.inputs else "", operation.outputs[0]
    if isinstance(step.call, Reshaped):
        return any(_splits_oddly(part, len(shapes[source])) for part in step.call.parts)
    if not isinstance(step.call, Function):
        return _changes(shapes[source], shapes[made], channels.get(source))
    if operation.kind == "Split":
        return len({shapes[name] for name in operation.outputs if name}) > 1
    if operation.kind == "Gather" and source in channels:
        axis: int = operation.attributes.get("axis", 0) % len(shapes[source])
        return axis == channels[source]
    if operation.kind in NUMBERING:
        return _changes(shapes.get(source, ()), shapes[made], channels.get(source))
    constants = [n for n in operation.inputs if n in graph.constants and n in step.inputs]
    return any(max(shapes.get(name, ()), default=1) > 1 for name in constants)


def _splits_oddly(part: Part, rank: int) -> bool:
    """Whether channels become others than heads, which may be cut one by one: groups before other
    axes, or queries, keys and values in one."""
    heads = part.axes == (rank - 1,) and sum(size > 1 for size in part.sizes) == 2
    return part.splits and part.axes != (0,) and not heads


def _changes(before: Sequence[int], after: Sequence[int], axis: int | None) -> bool:
    """Whether the axis of channels changes; where it is not known, any that may be that."""
    if len(before) != len(after):
        return True
    axes = range(1, len(before)) if axis is None else (axis,)
    return any(before[i] != after[i] for i in axes)


def _channels(
    steps: Sequence[Step], layers: Mapping[str, nn.Module], graph: Graph
) -> dict[str, int]:
    """Which axis of a value is that of channels, where it is known."""
    found: dict[str, int] = {}
    for step in steps:
        name, shapes = step.outputs[0], graph.seen.shapes
        if name not in shapes:
            continue
        rank, source = len(shapes[name]), step.inputs[0] if step.inputs else ""
        axis: int | None = None
        if step.layer is not None and isinstance(layers[step.layer], CHANNELS_SECOND):
            axis = 1
        elif step.operation.kind == "MatMul" or (
            step.layer is not None and isinstance(layers[step.layer], CHANNELS_LAST)
        ):
            axis = rank - 1
        elif step.operation.kind == "Transpose" and source in found:
            axis = list(step.operation.attributes.get("perm", ())).index(found[source])
        elif source in found and rank == len(shapes[source]) and step.call.__class__ != Reshaped:
            axis = found[source]
        elif source in found and (parts := graph.seen.reshaped(source, name)) is not None:
            axis = _followed(parts, found[source])
        elif step.layer is None:
            known = (found[n] for n in step.inputs if n in found and len(shapes[n]) == rank)
            axis = next(known, None)
        if axis is not None:
            found[name] = axis
    return found


def _followed(parts: Reshaped, axis: int) -> int | None:
    """Where the channels are behind a reshaping."""
    first = 0
    for part in parts.parts:
        if axis in part.axes and part.sizes:
            return first + max(part.open, 0)
        first += len(part.sizes)
    return None


def _mark(
    name: str,
    reason: str,
    makers: Mapping[str, Step],
    layers: Mapping[str, nn.Module],
    found: dict[str, str],
) -> None:
    """The layers that make the channels of a value."""
    waiting, seen = [name], {name}
    while waiting:
        step = makers.get(waiting.pop())
        if step is None:
            continue
        if step.layer is not None:
            found.setdefault(step.layer, reason)
            layer = layers[step.layer]
            depthwise = isinstance(layer, nn.modules.conv._ConvNd) and layer.groups > 1
            if not isinstance(layer, PASSING) and not depthwise:
                continue
        following = [one for one in step.inputs if one and one not in seen]
        seen |= set(following)
        waiting += following
