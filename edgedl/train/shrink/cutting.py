"""Cuts channels out of a network: decided by name, written down as plain data, done in place."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgedl.core.errors import BadValue, Unsupported
from edgedl.core.layers import Group
from edgedl.train.shrink.groups import NORMS, Structure
from edgedl.train.shrink.trace import Result, Trace, tensors_of
from edgedl.train.shrink.weights import CELLS, CONVOLUTIONS, RECURRENT, TRANSPOSED

Gone = Mapping[str, Sequence[int]]


def cut(network: nn.Module, structure: Structure, gone: Gone) -> dict[str, Any]:
    """Cuts channels out of a network in place; gives what `apply_cut` does the same by.

    It is tried on a copy first, and every operator's result there has to have the shape that was
    foreseen: where this raises, the network is as it was.

    Args:
        structure: of this very network, by `groups_of`.
        gone: by group, the channels to remove, sorted; of a group whose unit is several, whole
            units.

    Raises:
        BadValue: no such group or channel, part of a unit, or nothing would be left of a layer.
        Unsupported: the network shapes something by a number that does not follow; the message
            names the operator.
    """
    plan = tried(network, structure, gone)
    apply_cut(network, plan)
    return plan


def tried(network: nn.Module, structure: Structure, gone: Gone) -> dict[str, Any]:
    """What `cut` gives and raises, done to a copy alone: the network stays as it is."""
    plan = plan_of(structure, gone)
    trial = copy.deepcopy(network)
    apply_cut(trial, plan)
    _check(trial, structure, gone)
    return plan


def proved(network: nn.Module, structure: Structure) -> Structure:
    """The same without groups that the network's code does not let go: a unit of each is cut from a
    copy, and where that fails they are among `fixed`, with the reason."""
    fixed = dict(structure.fixed)

    def able(groups: tuple[Group, ...]) -> tuple[Group, ...]:
        try:
            tried(network, structure, {one.name: range(one.unit) for one in groups})
        except Unsupported as error:
            if len(groups) > 1:
                half = len(groups) // 2
                return able(groups[:half]) + able(groups[half:])
            fixed[groups[0].name] = error.message
            return ()
        return groups

    groups = able(structure.groups)
    parts = {one.name: structure.parts[one.name] for one in groups}
    return replace(structure, groups=groups, fixed=fixed, parts=parts)


def plan_of(structure: Structure, gone: Gone) -> dict[str, Any]:
    """What a cut removes, as plain data: `tensors`, rows of equal `indices` to remove along axes
    of tensors, and `attributes`, what modules have to say afterwards.

    Raises:
        BadValue: as `cut` does.
    """
    removed: dict[tuple[str, int], set[int]] = {}
    units = {name: _units(structure, name, indices) for name, indices in gone.items()}
    for name, chosen in units.items():
        for part in structure.parts[name]:
            places = part.indices[chosen].reshape(-1).tolist()
            removed.setdefault((part.tensor, part.axis), set()).update(places)
    alike: dict[tuple[int, ...], list[list[Any]]] = {}
    for (tensor, axis), indices in removed.items():
        if indices:
            alike.setdefault(tuple(sorted(indices)), []).append([tensor, axis])
    attributes: dict[tuple[str, str], int] = {}
    for one in structure.sizings:
        less = sum(int(one.counts[n][u].sum()) for n, u in units.items() if n in one.counts)
        value = one.value - less
        if attributes.setdefault((one.module, one.attribute), value) != value:
            raise Unsupported(
                f"attribute `{one.attribute}` of `{one.module}` shapes what is cut unlike",
                hint=f"keep: ['{one.module}.*']",
            )
    for (module, attribute), value in list(attributes.items()):
        unlike = [
            s.value for s in structure.sizings if (s.module, s.attribute) == (module, attribute)
        ]
        if value == unlike[0]:
            del attributes[module, attribute]
    return {
        "tensors": [{"of": of, "indices": list(indices)} for indices, of in alike.items()],
        "attributes": [[*key, value] for key, value in attributes.items()],
    }


@torch.no_grad()
def apply_cut(network: nn.Module, plan: Mapping[str, Any]) -> None:
    """Does what `plan_of` or `cut` gave, to a network of the structure that it was made for.

    Names of parameters and buffers stay, and so do the parameters themselves, whose gradients are
    forgotten.

    Raises:
        BadValue: it has not the tensors that were to be cut.
    """
    tensors = dict(tensors_of(network))
    for entry in plan["tensors"]:
        indices = np.array(entry["indices"], np.int64)
        for name, axis in entry["of"]:
            tensor = tensors.get(name)
            if tensor is None or tensor.dim() <= axis or tensor.shape[axis] <= indices.max():
                raise BadValue(
                    f"the cut is for another network: `{name}` has no channel {indices.max()}",
                    hint="apply it to a network of the structure that it was decided on",
                )
            kept = torch.from_numpy(np.delete(np.arange(tensor.shape[axis]), indices))
            tensor.data = tensor.data.index_select(axis, kept.to(tensor.device)).contiguous()
            tensor.grad = None
    modules = dict(network.named_modules())
    for path, attribute, value in plan["attributes"]:
        setattr(modules[path], attribute, value)
    for module in modules.values():
        _resize(module)


def _units(structure: Structure, name: str, indices: Sequence[int]) -> np.ndarray:
    """The units that are to go."""
    group = structure.group(name)
    chosen = np.unique(np.array(list(indices), np.int64))
    if len(chosen) and (chosen[0] < 0 or chosen[-1] >= group.size):
        wrong = int(chosen[0] if chosen[0] < 0 else chosen[-1])
        hint = f"channels of `{name}` are 0 to {group.size - 1}"
        raise BadValue(f"group `{name}` has no channel {wrong}", hint=hint)
    if len(chosen) == group.size:
        message = f"cutting all {group.size} channels of `{name}` would leave an empty layer"
        raise BadValue(message, hint="keep one at least")
    units, counts = np.unique(chosen // group.unit, return_counts=True)
    if (counts != group.unit).any():
        unit = int(units[counts != group.unit][0])
        raise BadValue(
            f"channels of `{name}` go {group.unit} at once, and only some of unit {unit} are named",
            hint=f"all of {unit * group.unit} to {(unit + 1) * group.unit - 1}, or none",
        )
    return units


def _check(network: nn.Module, structure: Structure, gone: Gone) -> None:
    """Follows the cut network: each result has the shape that was foreseen."""
    there = np.zeros(int(structure.unit_of.max(initial=-1)) + 2, bool)
    for name, indices in gone.items():
        there[structure.firsts[name] + _units(structure, name, indices)] = True
    trace = Trace(network)
    failure = None
    try:
        trace.run(structure.inputs)
    except Unsupported as error:
        failure = error
    for one, other in zip(structure.results, trace.results, strict=False):
        wanted = tuple(int((~there[structure.unit_of[axis]]).sum()) for axis in one.labels)
        if one.operator != other.operator or wanted != other.shape:
            raise _unforeseen(one, other, wanted)
    if failure is not None:
        hint = "a number in its code does not follow its width: `keep` that layer"
        raise Unsupported(f"once cut, {failure.message}", hint=hint) from failure
    if len(structure.results) != len(trace.results):
        raise Unsupported("once cut, the network carries out other operators", hint="`keep` it")


def _unforeseen(one: Result, other: Result, wanted: tuple[int, ...]) -> Unsupported:
    where = f"`{one.module}`" if one.module else "the network's own forward"
    given, due = (" x ".join(map(str, shape)) for shape in (other.shape, wanted))
    return Unsupported(
        f"once cut, `{one.operator}` in {where} gives {given}, and {due} was foreseen",
        hint=f"a number in its code does not follow its width: keep: ['{one.module}*']",
    )


def _resize(module: nn.Module) -> None:
    """Makes a module say of itself what its weights are."""
    own: Any = module
    if isinstance(module, RECURRENT):
        if (
            own.weight_hh_l0.shape[1] != own.hidden_size
            or own.weight_ih_l0.shape[1] != own.input_size
        ):
            own.hidden_size, own.input_size = own.weight_hh_l0.shape[1], own.weight_ih_l0.shape[1]
            own.flatten_parameters()
    elif isinstance(module, CELLS):
        own.hidden_size, own.input_size = own.weight_hh.shape[1], own.weight_ih.shape[1]
    elif isinstance(module, CONVOLUTIONS):
        turned = isinstance(module, TRANSPOSED)
        first, second = own.weight.shape[:2]
        if own.groups == own.in_channels and own.groups > 1:
            many = own.out_channels // own.in_channels
            own.in_channels = own.groups = first if turned else first // many
            own.out_channels = own.groups * many
        elif turned:
            own.in_channels, own.out_channels = first, second * own.groups
        else:
            own.in_channels, own.out_channels = second * own.groups, first
    elif isinstance(module, nn.Linear):
        own.out_features, own.in_features = own.weight.shape
    elif isinstance(module, nn.Embedding):
        own.embedding_dim = own.weight.shape[1]
    elif isinstance(module, nn.LayerNorm):
        if own.weight is not None:
            own.normalized_shape = tuple(own.weight.shape)
    elif isinstance(module, NORMS):
        held: Tensor | None = (
            own.weight if own.weight is not None else getattr(own, "running_mean", None)
        )
        if held is not None:
            setattr(
                own,
                "num_channels" if isinstance(module, nn.GroupNorm) else "num_features",
                len(held),
            )
    elif isinstance(module, nn.PReLU):
        own.num_parameters = len(own.weight)
