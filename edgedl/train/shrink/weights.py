"""The weights of a network's layers, and what holds them to a form while they are trained."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from edgedl.core.errors import BadValue, nearest

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
RECURRENT = (nn.LSTM, nn.GRU)
# One step of these, called in a network's own loop.
CELLS = (nn.LSTMCell, nn.GRUCell)
# What a class has for its instances, and another gets by itself.
INSTANCES = ("__dict__", "__weakref__")


class Hold(nn.Module):
    """A parametrization that a shrinking step puts on a weight, and takes off when it settles."""


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight of a layer.

    Attributes:
        layer: the module's name, dotted.
        kind: the tensor's name in it: `weight`, or as `weight_ih_l0` of a recurrent layer.
    """

    layer: str
    kind: str
    module: nn.Module

    @property
    def name(self) -> str:
        """As in the network's state."""
        return f"{self.layer}.{self.kind}" if self.layer else self.kind

    @property
    def tensor(self) -> Tensor:
        """Its values, as they are held."""
        value: Tensor = getattr(self.module, self.kind)
        return value.detach()

    def hold(self, form: Hold) -> None:
        """Hold it to a form until `release`."""
        module = self.module
        parametrize.register_parametrization(module, self.kind, form)
        if isinstance(module, RECURRENT):
            # A recurrent layer keeps a list of its weights, which would stay as they were.
            module.__dict__.pop("_flat_weights", None)
            kind: Any = type(module)
            kind._flat_weights = property(_flat_weights, lambda *_: None)
            kind._update_flat_weights = lambda _: None


def plain_weights(network: nn.Module) -> nn.Module:
    """A copy whose weights are no more computed of others, by weight or spectral norm and the like,
    but are what these come to; the network itself where there are none."""
    computed = [
        (module, hook)
        for module in network.modules()
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, (WeightNorm, SpectralNorm))
    ]
    if not computed and not any(map(parametrize.is_parametrized, network.modules())):
        return network
    for module, hook in computed:
        # What the last call has left cannot be copied while gradients are known of it.
        setattr(module, hook.name, getattr(module, hook.name).detach())
    found = copy.deepcopy(network).eval()
    for module in list(found.modules()):
        for norm in list(module._forward_pre_hooks.values()):
            if isinstance(norm, WeightNorm):
                remove_weight_norm(module, norm.name)
            elif isinstance(norm, SpectralNorm):
                remove_spectral_norm(module, norm.name)
        if parametrize.is_parametrized(module):
            # A copy has the class of what it was copied from, from which torch takes the weight.
            own = {key: one for key, one in vars(type(module)).items() if key not in INSTANCES}
            module.__class__ = type(type(module).__name__, type(module).__bases__, own)
            for kind in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, kind)
    modes = {name: module.training for name, module in network.named_modules()}
    for name, module in found.named_modules():
        module.training = modes[name]
    return found


def parameter_count(network: nn.Module) -> int:
    """Values of all parameters, those of weights that are held to a form as many as there are."""
    count = sum(parameter.numel() for parameter in network.parameters())
    for module in network.modules():
        for kind, forms in getattr(module, "parametrizations", {}).items():
            if any(isinstance(form, Hold) for form in forms):
                held = sum(parameter.numel() for parameter in forms.parameters())
                count += getattr(module, kind).numel() - held
    return count


def _flat_weights(module: Any) -> list[Tensor]:
    return [getattr(module, name) for name in module._flat_weights_names]


def layers_of(network: nn.Module, keep: Sequence[str] = ()) -> dict[str, nn.Module]:
    """Convolutions, dense and recurrent layers by name, without those that match `keep`.

    Raises:
        BadValue: a pattern matches none, or all of them are kept.
    """
    kinds = (*CONVOLUTIONS, nn.Linear, *RECURRENT)
    found: dict[str, nn.Module] = {
        name: one for name, one in network.named_modules() if isinstance(one, kinds)
    }
    for i, pattern in enumerate(keep):
        if not any(fnmatchcase(name, pattern) for name in found):
            raise BadValue(
                f"no layer is called `{pattern}`", keys=("keep", i), hint=nearest(pattern, found)
            )
    chosen = {
        name: one
        for name, one in found.items()
        if not any(fnmatchcase(name, pattern) for pattern in keep)
    }
    if not chosen:
        raise BadValue(
            "no layer with weights is left to shrink" if found else "no layer has weights",
            keys=("keep",),
            hint="keep fewer layers" if found else "leave the step out",
        )
    return chosen


def weights_of(network: nn.Module, keep: Sequence[str] = ()) -> list[Weight]:
    """The weights of `layers_of`, without those that layers share, or that are held already by
    something that is not ours.

    Raises:
        BadValue: a pattern matches no layer, or nothing is left.
    """
    shared = shared_weights(network)
    found = [
        Weight(layer, kind, module)
        for layer, module in layers_of(network, keep).items()
        for kind in kinds_of(module)
        if id(module._parameters.get(kind)) not in shared
    ]
    if not found:
        raise BadValue(
            "the weights of all chosen layers are shared with others, or parametrized",
            keys=("keep",),
            hint="leave the step out",
        )
    return found


def kinds_of(module: nn.Module) -> list[str]:
    """The names of a layer's weights; none where something that is not ours holds one of them."""
    if not all(isinstance(one, Hold) for _, forms in held(module) for one in forms):
        return []
    if isinstance(module, RECURRENT):
        return [name for name in module._flat_weights_names if name.startswith("weight")]
    return ["weight"]


def shared_weights(network: nn.Module) -> set[int]:
    """The ids of parameters that more than one module has."""
    seen = Counter(id(one) for module in network.modules() for one in module._parameters.values())
    return {one for one, times in seen.items() if times > 1}


def found_in(network: nn.Module, shapes: Mapping[str, Sequence[int]]) -> Iterator[Weight]:
    """The weights of these names, free.

    Raises:
        BadValue: the network has none of a name, or one of another shape.
    """
    release(network)
    ours = {weight.name: weight for weight in weights_of(network)}
    for name, shape in shapes.items():
        if name not in ours or list(ours[name].tensor.shape) != list(shape):
            there = f"is {list(ours[name].tensor.shape)} here" if name in ours else "is not here"
            raise BadValue(
                f"the step was decided for another network: its weight `{name}`, {list(shape)},"
                f" {there}",
                hint="build the network with the settings that it was trained with",
            )
        yield ours[name]


def held(module: nn.Module) -> list[tuple[str, Any]]:
    """The parametrized tensors of one module, with what they are held by."""
    forms = module._modules.get("parametrizations")
    return list(forms.items()) if isinstance(forms, nn.ModuleDict) else []


@torch.no_grad()
def release(network: nn.Module) -> None:
    """Make plain weights of all that steps hold, with the values that they are held to."""
    for module in list(network.modules()):
        forms = held(module)
        if not forms or not all(isinstance(one, Hold) for _, each in forms for one in each):
            continue
        values = {name: getattr(module, name).detach().clone() for name, _ in forms}
        learns = {name: bool(each.original.requires_grad) for name, each in forms}
        # Not by `remove_parametrizations`: that breaks every copy of the module, which has the
        # same class.
        del module._modules["parametrizations"]
        module.__class__ = module.__class__.__bases__[0]
        others = dict(module._parameters)
        module._parameters.clear()
        for name in module._flat_weights_names if isinstance(module, RECURRENT) else values:
            if name in values:
                weight = nn.Parameter(values[name], requires_grad=learns[name])
                module.register_parameter(name, weight)
            else:
                module.register_parameter(name, others.pop(name))
        for name, other in others.items():
            module.register_parameter(name, other)
        if isinstance(module, RECURRENT):
            module._init_flat_weights()
            module.flatten_parameters()
