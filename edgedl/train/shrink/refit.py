"""What a cut leaves behind, solved for what stood there before: weights by least squares."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedl.core.progress import Progress, silent
from edgedl.train.augment import Batch
from edgedl.train.shrink.cutting import apply_cut

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Values of all inputs that go through the network at once: 64 pictures of 224 x 224.
MOST_VALUES = 64 * 3 * 224 * 224
FEWEST_SAMPLES, MOST_SAMPLES = 16, 512
# Rows of a layer's equations for each of its unknowns, and bounds of both.
ROWS_EACH, LEAST_ROWS, MOST_ROWS = 4, 2048, 16_384
MOST_UNKNOWNS = 4608
# The share of samples that say how far weights may go from what they were.
HELD_BACK = 0.25
# Penalties on a weight's change, in shares of what its layer reads in the mean square.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True, eq=False)
class _Wanted:
    """What a layer gave before the cut, at some places.

    Attributes:
        places: of samples and positions, one index tensor an axis, each [rows].
        values: [rows, channels that stay].
        samples: how many there were.
    """

    places: tuple[Tensor, ...]
    values: Tensor
    samples: int


@torch.no_grad()
def refit(
    network: nn.Module,
    plan: Mapping[str, Any],
    batches: Sequence[Batch],
    *,
    seed: int = 0,
    keeps_zeros: bool = False,
    progress: Progress = silent,
) -> dict[str, Tensor]:
    """Weights and biases for a network that is cut, with which its layers give what they gave.

    Layer by layer, in the order in which they run, the layer's weights become those that bring its
    results nearest to what they were before the cut, from what the layers before it now give: He,
    Zhang and Sun, Channel Pruning for Accelerating Very Deep Neural Networks, 2017 (3.1, with the
    uncut network's results as targets). A penalty keeps weights near what they were, as strong as
    is best on samples that the equations do not have; where none helps there, they stay.

    Dense layers and convolutions in one group are solved that run once and have at most 4,608
    weights a channel. The network is left as it is, and looked at as in service (`eval`).

    Args:
        plan: of the cut, as `plan_of` gives it.
        batches: samples.
        keeps_zeros: whether layers that have zeros among their weights stay as they are: solved
            weights would be none any more.

    Returns:
        New values by the names of parameters, in the shapes that they have once cut.
    """
    inputs = _inputs(batches)
    before, after = (copy.deepcopy(network).eval() for _ in range(2))
    apply_cut(after, plan)
    kept = _kept_outputs(before, plan)
    generator = torch.Generator().manual_seed(seed)
    wanted: dict[str, _Wanted] = {}
    calls: Counter[str] = Counter()

    def record(name: str, layer: Layer, result: Tensor) -> None:
        calls[name] += 1
        if calls[name] == 1 and (not keeps_zeros or bool(layer.weight.all())):
            wanted[name] = _drawn(layer, result, kept.get(name), generator)

    with _watched(before, behind=record):
        before(*inputs)
    found: dict[str, Tensor] = {}
    solved: set[str] = set()

    def solve(name: str, layer: Layer, given: Tensor) -> None:
        if calls[name] != 1 or name not in wanted:
            return
        progress("fitting layers again", len(solved), len(wanted))
        solved.add(name)
        due = wanted[name]
        made = _solved(layer, _rows(layer, given, due.places), due)
        if made is None:
            return
        weight, bias = made
        found[f"{name}.weight"] = layer.weight.data = weight
        if bias is not None and layer.bias is not None:
            found[f"{name}.bias"] = layer.bias.data = bias

    with _watched(after, ahead=solve):
        after(*inputs)
    return found


def _inputs(batches: Sequence[Batch]) -> tuple[Tensor, ...]:
    """As many samples as may go through the network at once."""
    every = tuple(torch.cat(some) for some in zip(*(one.inputs for one in batches), strict=True))
    each = max(1, sum(one[0].numel() for one in every))
    count = min(max(MOST_VALUES // each, FEWEST_SAMPLES), MOST_SAMPLES)
    return tuple(one[:count] for one in every)


def _layers(network: nn.Module) -> dict[str, Layer]:
    """What can be solved, by its name; weights that are there by two names are left alone."""
    names = Counter(id(one) for _, one in network.named_parameters(remove_duplicate=False))
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, *CONVOLUTIONS))
        and _is_plain(module)
        and all(names[id(one)] == 1 for one in module.parameters())
    }


def _is_plain(layer: Layer) -> bool:
    if hasattr(layer, "parametrizations") or layer.weight[0].numel() > MOST_UNKNOWNS:
        return False
    if isinstance(layer, nn.Linear):
        return True
    return (
        layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    )


def _kept_outputs(network: nn.Module, plan: Mapping[str, Any]) -> dict[str, Tensor]:
    """The channels that stay of the layers that lose some."""
    tensors = dict(network.named_parameters())
    found = {}
    for entry in plan["tensors"]:
        for tensor, axis in entry["of"]:
            if axis == 0 and tensor.endswith(".weight") and tensor in tensors:
                stays = torch.ones(len(tensors[tensor]), dtype=torch.bool)
                stays[entry["indices"]] = False
                found[tensor.removesuffix(".weight")] = torch.nonzero(stays)[:, 0]
    return found


@contextmanager
def _watched(
    network: nn.Module,
    *,
    ahead: Callable[[str, Layer, Tensor], None] | None = None,
    behind: Callable[[str, Layer, Tensor], None] | None = None,
) -> Iterator[None]:
    """Within it, functions are called with what layers are about to read, and with what they
    gave."""
    handles = []
    for name, layer in _layers(network).items():
        if ahead is not None:
            handles.append(layer.register_forward_pre_hook(_told(ahead, name)))
        if behind is not None:
            handles.append(layer.register_forward_hook(_told(behind, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _told(call: Callable[[str, Layer, Tensor], None], name: str) -> Callable[..., None]:
    """A hook that calls with the last of what it is given, alone or as the first of several."""

    def hook(layer: Layer, *given: Any) -> None:
        last = given[-1]
        if isinstance(last, Tensor):
            call(name, layer, last)
        elif last:
            call(name, layer, last[0])

    return hook


def _drawn(
    layer: Layer, result: Tensor, kept: Tensor | None, generator: torch.Generator
) -> _Wanted:
    """Some of a layer's results, at places that are drawn."""
    if not isinstance(layer, nn.Linear):
        result = result.movedim(1, -1)
    count = ROWS_EACH * (layer.weight[0].numel() + 1)
    sizes = result.shape[:-1]
    drawn = torch.randperm(sizes.numel(), generator=generator)
    chosen = drawn[: min(max(count, LEAST_ROWS), MOST_ROWS)].sort().values
    places = torch.unravel_index(chosen.to(result.device), sizes)
    values = result[places]
    if kept is not None:
        values = values[:, kept.to(result.device)]
    return _Wanted(places, values, sizes[0])


def _rows(layer: Layer, given: Tensor, places: tuple[Tensor, ...]) -> Tensor:
    """What a layer reads for some of its results: [rows, weights of a channel]."""
    if isinstance(layer, nn.Linear):
        return given[places]
    assert not isinstance(layer.padding, str)
    windows = functional.pad(given, [size for size in reversed(layer.padding) for _ in range(2)])
    for axis, size in enumerate(layer.kernel_size):
        step = layer.dilation[axis]
        reach = (size - 1) * step + 1
        windows = windows.unfold(2 + axis, reach, layer.stride[axis])[..., ::step]
    behind_places = windows.movedim(1, len(places))
    return behind_places[places].reshape(len(places[0]), -1)


def _solved(layer: Layer, rows: Tensor, due: _Wanted) -> tuple[Tensor, Tensor | None] | None:
    """The weight and the bias that bring a layer's results nearest; None where they stay."""
    weight, bias = layer.weight, layer.bias
    read, now = rows.double(), weight.reshape(len(weight), -1).double().T
    if bias is not None:
        read = torch.cat([read, read.new_ones(len(read), 1)], 1)
        now = torch.cat([now, bias.double()[None]])
    missing = due.values.double() - read @ now
    # whole samples are held back: places of one picture are alike
    held = due.places[0] >= due.samples * (1 - HELD_BACK)
    if not held.any() or held.all() or not missing.isfinite().all():
        return None
    learned = _Equations.of(read[~held], missing[~held])
    penalty = _best_penalty(learned, read[held], missing[held])
    if penalty is None:
        return None
    change = (learned + _Equations.of(read[held], missing[held])).solved(penalty)
    if change is None:
        return None
    made = (now + change).to(weight.dtype).T
    whole = made if bias is None else made[:, :-1]
    shift = None if bias is None else made[:, -1].contiguous()
    return whole.reshape(weight.shape).contiguous(), shift


@dataclass(frozen=True, eq=False)
class _Equations:
    """The normal equations of what to add to weights.

    Attributes:
        square: float64 [weights, weights]. right: float64 [weights, channels].
    """

    square: Tensor
    right: Tensor

    @classmethod
    def of(cls, read: Tensor, missing: Tensor) -> _Equations:
        return cls(read.T @ read, read.T @ missing)

    def __add__(self, other: _Equations) -> _Equations:
        return _Equations(self.square + other.square, self.right + other.right)

    def solved(self, penalty: float) -> Tensor | None:
        """[weights, channels]; None where they cannot be solved."""
        square = self.square.clone()
        ridge = penalty * square.diagonal().mean()
        if not ridge > 0:
            return None
        square.diagonal().add_(ridge)
        factor, wrong = torch.linalg.cholesky_ex(square)
        return None if int(wrong) else torch.cholesky_solve(self.right, factor)


def _best_penalty(learned: _Equations, other: Tensor, missed: Tensor) -> float | None:
    """The penalty that leaves least on samples held back; None where no change is better."""
    best, least = None, float(missed.square().sum())
    for penalty in PENALTIES:
        change = learned.solved(penalty)
        if change is None:
            continue
        left = float((missed - other @ change).square().sum())
        if left < least:
            best, least = penalty, left
    return best
