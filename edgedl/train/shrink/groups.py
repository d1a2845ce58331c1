"""Groups of channels that can only be cut together, and the layers that they are the widths of.

A network is followed through one forward pass, operator by operator, and each channel of each
weight gets a label; those that an operator adds, multiplies or joins become one (the dependency
graph of Fang et al., DepGraph: Towards Any Structural Pruning, 2023, but channel by channel, so
that parts of a concatenation, heads and flattened places need no rules of their own).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from edgedl.core.errors import BadValue, nearest
from edgedl.core.layers import Group, Layer, LayerShape
from edgedl.train.shrink.ground import device_of
from edgedl.train.shrink.labels import FIXED
from edgedl.train.shrink.layer_shapes import shape_of
from edgedl.train.shrink.trace import Call, Result, Trace, tensors_of
from edgedl.train.shrink.weights import CELLS, CONVOLUTIONS, RECURRENT, TRANSPOSED

Role = Literal["makes", "reads", "norm", "other"]
# What is counted of one set of channels: (tensor, axis) and places on it.
Places = dict[tuple[str, int], list[int]]
Owned = dict[str, list[tuple[str, nn.Module, str]]]
NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d,
    nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Part:
    """Where a group's channels lie in one tensor.

    Attributes:
        tensor: a parameter's or buffer's name.
        role: whether the values there make the channels, read them, scale and shift them, or are
            added to them and the like.
        indices: along `axis`, int64 of shape [units of the group, places of each].
    """

    tensor: str
    axis: int
    role: Role
    indices: np.ndarray


@dataclass(frozen=True, eq=False)
class Sizing:
    """An attribute of a module that follows widths.

    Attributes:
        value: now.
        counts: by group, how much less it is for each unit that goes, [units].
    """

    module: str
    attribute: str
    value: int
    counts: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Structure:
    """What of a network can be cut, and what it would change.

    Attributes:
        groups: in the order in which the network makes them.
        layers: each call of a layer with weights, in order, with its shape for one sample.
        fixed: what cannot be cut, by the layer that makes it, and why.
        parts: of each group, by its name.
        sizings: attributes that follow.
        inputs: the batch that it was followed with.
        results: of every operator, whose shapes after a cut are foreseen by `unit_of`: for each
            atom its unit, counted over all groups from `firsts` on, or -1.
    """

    groups: tuple[Group, ...]
    layers: tuple[Layer, ...]
    fixed: Mapping[str, str]
    parts: Mapping[str, tuple[Part, ...]] = field(repr=False)
    sizings: tuple[Sizing, ...] = field(repr=False)
    inputs: tuple[Tensor, ...] = field(repr=False)
    results: tuple[Result, ...] = field(repr=False)
    unit_of: np.ndarray = field(repr=False)
    firsts: Mapping[str, int] = field(repr=False)

    def group(self, name: str) -> Group:
        """The group of this name.

        Raises:
            BadValue: there is none that can be cut.
        """
        for one in self.groups:
            if one.name == name:
                return one
        if name in self.fixed:
            raise BadValue(f"the channels of `{name}` cannot be cut: {self.fixed[name]}")
        hint = nearest(name, [one.name for one in self.groups])
        raise BadValue(f"the network has no group `{name}`", hint=hint)


def groups_of(network: nn.Module, feeds: Sequence[Tensor]) -> Structure:
    """The groups and layers of a network, which is left as it is; the same for the same structure.

    A group's channels are numbered as the first layer makes them, unit by unit: where a unit is
    several channels, those of unit `u` are `u * unit` and on.

    Args:
        feeds: a batch of two samples or more, one tensor for each input in the order of `forward`,
            with a batch axis in front.

    Raises:
        Unsupported: the network fails on them; the message names the module.
    """
    inputs = tuple(one.to(device_of(network)) for one in feeds)
    trace = _traced(network, inputs)
    sets = _sets(trace)
    names = {id(tensor): name for name, tensor in tensors_of(network)}
    owned = _owned(network, names)
    roles = _roles(owned)
    makers = _makers(network, owned, roles, trace.calls)
    chosen, fixed = _grouped(trace, sets, makers)
    groups, parts = [], {}
    unit_of = np.full(len(trace.atoms), -1)
    firsts: dict[str, int] = {}
    start = 0
    for name, roots in chosen.items():
        unit = _unit(sets[roots[0]], trace.calls, names)
        groups.append(Group(name, len(roots) * unit, unit))
        parts[name] = _parts([sets[root] for root in roots], roles)
        unit_of[roots] = np.arange(start, start + len(roots))
        firsts[name] = start
        start += len(roots)
    unit_of = unit_of[trace.atoms.roots(np.arange(len(trace.atoms)))]
    layers = tuple(
        layer for call in trace.calls for layer in _layers(call, names, chosen, sets, groups)
    )
    return Structure(
        tuple(groups), layers, fixed, parts, _sizings(trace, unit_of, firsts, start), inputs,
        tuple(trace.results), unit_of, firsts,
    )  # fmt: skip


def _traced(network: nn.Module, inputs: Sequence[Tensor]) -> Trace:
    """The network followed, once more where an axis turned out to be taken apart: channels are then
    told by the axis behind it."""
    known: set[int] = set()
    while True:
        trace = Trace(network, known)
        trace.run(inputs)
        if trace.apart == known:
            return trace
        known |= trace.apart


def _sets(trace: Trace) -> dict[int, Places]:
    """Where the atoms of each set lie in the network's tensors, by the set's first atom."""
    found: dict[int, Places] = {}
    for name, labels in trace.held.items():
        for axis, atoms in enumerate(labels):
            for place, root in enumerate(trace.atoms.roots(atoms).tolist()):
                if root != FIXED:
                    found.setdefault(root, {}).setdefault((name, axis), []).append(place)
    return found


def _owned(network: nn.Module, names: Mapping[int, str]) -> Owned:
    """For each tensor's name, all modules that have it: their names, and what they call it."""
    found: Owned = {}
    for path, module in network.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for key, tensor in own:
            found.setdefault(names[id(tensor)], []).append((path, module, key))
    return found


def _role(module: nn.Module, key: str, axis: int) -> Role:
    if isinstance(module, NORMS):
        return "norm"
    if isinstance(module, (*RECURRENT, *CELLS)):
        return "makes" if axis == 0 else "reads"
    if isinstance(module, CONVOLUTIONS) and key == "weight":
        return "makes" if axis == isinstance(module, TRANSPOSED) else "reads"
    if isinstance(module, (nn.Linear, *CONVOLUTIONS)) and key in ("weight", "bias"):
        return "makes" if axis == 0 else "reads"
    return "makes" if isinstance(module, nn.Embedding) and axis == 1 else "other"


def _roles(owned: Owned) -> dict[tuple[str, int], Role]:
    """What each tensor's values along an axis are to its channels."""
    found: dict[tuple[str, int], Role] = {}
    for name, owners in owned.items():
        _, module, key = owners[0]
        for axis in range(getattr(module, key).dim()):
            role = _role(module, key, axis)
            # A depthwise convolution that is turned makes channels by its only axis.
            if (
                isinstance(module, TRANSPOSED)
                and axis == 0
                and module.groups > 1
                and key == "weight"
            ):
                role = "makes" if module.groups == module.in_channels else role
            found[name, axis] = role
    return found


def _makers(
    network: nn.Module, owned: Owned, roles: Mapping[tuple[str, int], Role], calls: Sequence[Call]
) -> dict[tuple[str, int], tuple[int, str]]:
    """By tensor and axis that makes channels, when its layer is first called, and its name.

    Embeddings come first, in the network's own order.
    """
    paths = [name for name, _ in network.named_modules()]
    order = {name: place - len(paths) for place, name in enumerate(paths)}
    order.update({call.name: place for place, call in reversed(list(enumerate(calls)))})
    called = {call.name for call in calls}
    found = {}
    for (name, axis), role in roles.items():
        for path, module, _ in owned[name]:
            if role == "makes" and (path in called or isinstance(module, nn.Embedding)):
                found[name, axis] = (order[path], path)
                break
    return found


def _grouped(
    trace: Trace, sets: Mapping[int, Places], makers: Mapping[tuple[str, int], tuple[int, str]]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Sets that lie on the same axes as groups, by name, in order; and what is fixed, and why."""
    alike: dict[Any, list[tuple[int, int]]] = {}
    for root, places in sets.items():
        by = [(*makers[key], places[key][0]) for key in places if key in makers]
        if not by:
            continue
        order, name, first = min(by)
        signature = frozenset((key, len(found)) for key, found in places.items())
        why = trace.atoms.frozen.get(root)
        alike.setdefault((order, name, signature, why), []).append((first, root))
    chosen: dict[str, np.ndarray] = {}
    fixed: dict[str, str] = {}
    seen: dict[str, int] = {}
    for (_, name, _, why), found in sorted(
        alike.items(), key=lambda one: (one[0][:2], min(one[1]))
    ):
        if why is None and len(found) == 1:
            why = "all of it goes at once"
        if why is not None:
            fixed.setdefault(name, why)
            continue
        seen[name] = seen.get(name, 0) + 1
        title = name if seen[name] == 1 else f"{name}:{seen[name]}"
        chosen[title] = np.array([root for _, root in sorted(found)])
    return chosen, {name: why for name, why in fixed.items() if name not in chosen}


def _unit(places: Places, calls: Sequence[Call], names: Mapping[int, str]) -> int:
    counts = [n for call in calls for n in _counts(call, names, places) if n]
    return math.gcd(*counts) if counts else 1


def _counts(call: Call, names: Mapping[int, str], places: Places) -> tuple[int, int]:
    """How many of a layer's inputs, and outputs, a set of channels stands for."""
    module: Any = call.module
    if isinstance(module, (*RECURRENT, *CELLS)):
        tail = "" if isinstance(module, CELLS) else "_l0"
        weights = [names[id(getattr(module, f"weight_{k}{tail}"))] for k in ("ih", "hh")]
        inside, out = (len(places.get((weight, 1), ())) for weight in weights)
        return inside, out
    name = names.get(id(module.weight), "")  # of a weight that is computed there is none
    turned = isinstance(module, TRANSPOSED)
    first, second = len(places.get((name, 0), ())), len(places.get((name, 1), ()))
    if isinstance(module, nn.Linear):
        return second, first
    if module.groups == module.in_channels and module.groups > 1:
        many = module.out_channels // module.groups
        return (first, first * many) if turned else (first // many, first)
    return (first, second * module.groups) if turned else (second * module.groups, first)


def _parts(sets: Sequence[Places], roles: Mapping[tuple[str, int], Role]) -> tuple[Part, ...]:
    return tuple(
        Part(tensor, axis, roles[tensor, axis], np.array([one[tensor, axis] for one in sets]))
        for tensor, axis in sets[0]
    )


def _layers(
    call: Call,
    names: Mapping[int, str],
    chosen: Mapping[str, np.ndarray],
    sets: Mapping[int, Places],
    groups: Sequence[Group],
) -> list[Layer]:
    """A call as one layer, or as several where recurrent ones lie on one another in a module."""
    reads, makes = {}, {}
    for group in groups:
        inside, out = _counts(call, names, sets[int(chosen[group.name][0])])
        if inside:
            reads[group.name] = inside // group.unit
        if out:
            makes[group.name] = out // group.unit
    if isinstance(call.module, CELLS):
        return _cell(call.name, call.module, reads, makes)
    first = Layer(call.name, shape_of(call.module, call.shape), reads, makes)
    if not isinstance(call.module, RECURRENT) or call.module.num_layers == 1:
        return [first]
    ways = first.shape.directions
    above = {name: ways * per for name, per in makes.items()}
    wide = first.shape.with_widths(ways * first.shape.outputs, first.shape.outputs)
    more = [
        Layer(f"{call.name}:{n + 1}", wide, above, makes) for n in range(1, call.module.num_layers)
    ]
    return [first, *more]


def _cell(
    name: str, module: nn.LSTMCell | nn.GRUCell, reads: dict[str, int], makes: dict[str, int]
) -> list[Layer]:
    """A step of a recurrent layer as what a network's own loop makes of it: two dense layers, of
    what is read and of the state, which make all gates."""
    gates = len(module.weight_ih) // module.hidden_size
    made = {group: gates * per for group, per in makes.items()}
    return [
        Layer(f"{name}{tail}", LayerShape("linear", wide, len(module.weight_ih), (1,)), given, made)
        for tail, wide, given in (("", module.input_size, reads), (":h", module.hidden_size, makes))
    ]


def _sizings(
    trace: Trace, unit_of: np.ndarray, firsts: Mapping[str, int], count: int
) -> tuple[Sizing, ...]:
    """Attributes whose axes can be cut, each once."""
    ends = [*list(firsts.values())[1:], count] if firsts else []
    found: dict[tuple[str, str, bytes], Sizing] = {}
    for one in trace.sized:
        units = unit_of[one.atoms]
        counts = np.bincount(units[units >= 0], minlength=count)
        by = {
            name: counts[start:end]
            for (name, start), end in zip(firsts.items(), ends, strict=True)
            if counts[start:end].any()
        }
        if by:
            key = (one.module, one.attribute, counts.tobytes())
            found[key] = Sizing(one.module, one.attribute, len(one.atoms), by)
    return tuple(found.values())
