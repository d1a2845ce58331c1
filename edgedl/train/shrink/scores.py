"""What each channel is worth, by which the least is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgedl.core.errors import BadValue
from edgedl.train.augment import Batch
from edgedl.train.shrink.groups import Part, Structure
from edgedl.train.shrink.trace import tensors_of

Score = Literal["l1", "l2", "bn", "taylor", "activation", "random"]
Loss = Callable[[Any, Tensor], Tensor]
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def scores_of(
    network: nn.Module,
    structure: Structure,
    score: Score,
    *,
    batches: Sequence[Batch] = (),
    loss: Loss | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """For each group the worth of each unit, float64 [units], 0 or more; a unit's channels sum.

    - `l1`: magnitudes of all weights that make a channel (Li et al., Pruning Filters for Efficient
      ConvNets, 2017), of all layers that make it.
    - `l2`: the root of their squares' sum (He et al., Soft Filter Pruning, 2018).
    - `bn`: the magnitude of its scales in batch normalisations (Liu et al., Network Slimming,
      2017); `l2` for groups that have none.
    - `taylor`: the square of what the loss would change by to first order, the mean over batches
      (Molchanov et al., Importance Estimation for Neural Network Pruning, 2019): gradient times
      weight, summed over the scales and shifts of a channel's batch normalisation, which gate it,
      or where there is none over all that makes it. A layer that makes it beside another (a sum)
      adds to it; one that only passes it on (depthwise) does not count twice.
    - `activation`: the mean magnitude of what the next layers read of it (Molchanov et al., Pruning
      Convolutional Neural Networks for Resource Efficient Inference, 2017).
    - `random`: uniform, for comparison.

    So that groups compare, scores are divided by their mean within a group; those of `taylor`, all
    of one loss, by their mean over all groups.

    Args:
        batches: for `taylor` and `activation`.
        loss: for `taylor`: the mean loss of outputs for targets.

    Raises:
        BadValue: `bn` where there is no batch normalisation, or there are no batches.
    """
    if score in ("taylor", "activation") and not batches:
        raise BadValue(f"score `{score}` needs samples", hint="or score: l2")
    if score == "random":
        random = np.random.default_rng(seed)
        found = {g.name: random.random(g.size // g.unit) for g in structure.groups}
    elif score == "taylor":
        if loss is None:
            raise BadValue("score `taylor` needs a loss", hint="or score: activation")
        found = _taylor(network, structure, batches, loss)
        every = np.concatenate([np.zeros(0), *found.values()])
        return {name: one / (every.mean() or 1.0) for name, one in found.items()}
    elif score == "activation":
        found = _activation(network, structure, batches)
    else:
        found = _weights(network, structure, score)
    return {name: one / (one.mean() or 1.0) for name, one in found.items()}


def _weights(network: nn.Module, structure: Structure, score: Score) -> dict[str, np.ndarray]:
    tensors, modules = dict(tensors_of(network)), dict(network.named_modules())
    found, scaled = {}, False
    for name, parts in structure.parts.items():
        gates = [part for part in parts if _is_gate(part, modules) and _key(part) == "weight"]
        if score == "bn" and gates:
            scaled = True
            found[name] = sum((_of(tensors[p.tensor].abs(), p) for p in gates), np.zeros(1))
            continue
        makes = [part for part in parts if part.role == "makes"]
        power = 1 if score == "l1" else 2
        total = sum((_of(tensors[p.tensor].abs() ** power, p) for p in makes), np.zeros(1))
        found[name] = total if score == "l1" else np.sqrt(total)
    if score == "bn" and not scaled and found:
        message = "score `bn` goes by batch normalisations, and the network has none to go by"
        raise BadValue(message, keys=("score",), hint="score: taylor, or l2")
    return found


def _taylor(
    network: nn.Module, structure: Structure, batches: Sequence[Batch], loss: Loss
) -> dict[str, np.ndarray]:
    modules = dict(network.named_modules())
    parameters = dict(network.named_parameters())
    chosen: dict[str, list[list[Part]]] = {}
    weights: dict[str, float] = {}
    for name, parts in structure.parts.items():
        makers = _by_module([p for p in parts if p.role == "makes" and p.tensor in parameters])
        gates = _by_module([p for p in parts if _is_gate(p, modules) and p.tensor in parameters])
        chosen[name] = list((gates or makers).values())
        own = sum(not _passes(modules[module]) for module in makers)
        weights[name] = (own or 1) / max(1, len(makers))
    found = {g.name: np.zeros(g.size // g.unit) for g in structure.groups}
    wanted = sorted({part.tensor for rows in chosen.values() for row in rows for part in row})
    with _still(network, wanted):
        for batch in batches:
            value = loss(network(*batch.inputs), batch.targets).mean()
            given = torch.autograd.grad(value, [parameters[n] for n in wanted], allow_unused=True)
            moved = {
                name: parameters[name].detach() * gradient.detach()
                for name, gradient in zip(wanted, given, strict=True)
                if gradient is not None
            }
            for name in found:
                for row in chosen[name]:
                    change = sum(
                        (_of(moved[p.tensor], p) for p in row if p.tensor in moved), np.zeros(1)
                    )
                    found[name] += weights[name] * change**2 / len(batches)
    return found


def _activation(
    network: nn.Module, structure: Structure, batches: Sequence[Batch]
) -> dict[str, np.ndarray]:
    modules = dict(network.named_modules())
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def note(path: str, of_input: bool) -> Any:
        def hook(module: nn.Module, given: Any, out: Any) -> None:
            x = given[0] if of_input else out[0] if isinstance(out, tuple) else out
            axis = 1 if _is_convolution(module) or _is_normal(module) else x.dim() - 1
            over = [i for i in range(x.dim()) if i != axis]
            mean = x.detach().abs().float().mean(over)
            key = f"{path}<" if of_input else path
            sums[key] = sums.get(key, 0) + mean
            counts[key] = counts.get(key, 0) + 1

        return hook

    chosen: dict[str, list[tuple[str, Part]]] = {}
    for name, parts in structure.parts.items():
        readers = [p for p in parts if p.role == "reads" and _reads_plainly(p, modules)]
        makers = [p for p in parts if p.role == "makes" and _key(p).startswith("weight")]
        chosen[name] = [(f"{_path(p)}<", p) for p in readers] or [(_path(p), p) for p in makers]
    keys = {key for rows in chosen.values() for key, _ in rows}
    handles = [
        modules[key.removesuffix("<")].register_forward_hook(
            note(key.removesuffix("<"), key.endswith("<"))
        )
        for key in sorted(keys)
    ]
    try:
        with _still(network, ()), torch.no_grad():
            for batch in batches:
                network(*batch.inputs)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for group in structure.groups:
        found[group.name] = np.zeros(group.size // group.unit)
        for key, part in chosen[group.name]:
            if key in sums and part.indices.max() < len(sums[key]):
                mean = (sums[key] / counts[key]).cpu().double().numpy()
                found[group.name] += mean[part.indices].sum(1)
    return found


def _of(values: Tensor, part: Part) -> np.ndarray:
    """The sum of a tensor's values at each unit's places."""
    rest = [axis for axis in range(values.dim()) if axis != part.axis]
    along = values.detach().double()
    along = along.sum(rest) if rest else along
    found: np.ndarray = along.cpu().numpy()[part.indices].sum(1)
    return found


def _key(part: Part) -> str:
    return part.tensor.rpartition(".")[2]


def _path(part: Part) -> str:
    return part.tensor.rpartition(".")[0]


def _by_module(parts: Sequence[Part]) -> dict[str, list[Part]]:
    found: dict[str, list[Part]] = {}
    for part in parts:
        found.setdefault(_path(part), []).append(part)
    return found


def _is_convolution(module: nn.Module) -> bool:
    return hasattr(module, "kernel_size")


def _is_normal(module: nn.Module) -> bool:
    return isinstance(module, BATCH_NORMS)


def _is_gate(part: Part, modules: Mapping[str, nn.Module]) -> bool:
    return part.role == "norm" and _is_normal(modules[_path(part)])


def _passes(module: nn.Module) -> bool:
    """Whether a layer only passes channels on, each by itself."""
    own: Any = module
    return _is_convolution(module) and own.groups == own.in_channels and own.groups > 1


def _reads_plainly(part: Part, modules: Mapping[str, nn.Module]) -> bool:
    """Whether places along a weight's axis are those along the layer's input."""
    module: Any = modules[_path(part)]
    if isinstance(module, (nn.LSTM, nn.GRU)):
        return _key(part) == "weight_ih_l0"
    return isinstance(module, nn.Linear) or (_is_convolution(module) and module.groups == 1)


@contextmanager
def _still(network: nn.Module, wanted: Sequence[str]) -> Iterator[None]:
    """In evaluation mode, gradients of these parameters on; then as it was."""
    modes = [(module, module.training) for module in network.modules()]
    asked = [(one, one.requires_grad) for one in network.parameters()]
    parameters = dict(network.named_parameters())
    network.eval()
    try:
        for name in wanted:
            parameters[name].requires_grad_(True)
        # cuDNN has no gradients of recurrent layers in evaluation mode.
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for one, grad in asked:
            one.requires_grad_(grad)
