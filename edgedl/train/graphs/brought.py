"""A graph brought back into torch: a network that can be trained, cut and exported again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgedl.core.program import Operation
from edgedl.train.graphs.sizes import as_tensor
from edgedl.train.operators_base import tensor_of
from edgedl.train.shapes import TensorShape


@dataclass(frozen=True, eq=False)
class Step:
    """One thing that a network does.

    Attributes:
        inputs: names of values; empty where an optional one is left out.
        outputs: names of values; empty where one is not wanted.
        layer: the name of the layer that is called; None for a function.
        call: how the layer is called, or the function itself; None for a layer as it stands.
        steered: positions of inputs that may be sizes; others have to be tensors.
        operation: what of the file it comes from.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operation: Operation
    layer: str | None = None
    call: Callable[..., Any] | None = None
    steered: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Function:
    """A function of an operation with those of its inputs that steer it and are known."""

    function: Callable[..., Any]
    operation: Operation
    opset: int
    known: Mapping[int, np.ndarray] = field(default_factory=dict)

    def __call__(self, *given: Any) -> Any:
        values = list(given)
        for position, array in self.known.items():
            values[position] = array
        return self.function(self.operation, self.opset, *values)


class Brought(nn.Module):
    """A graph as a network.

    What has weights is a layer of torch, all else a function that goes by the shapes of what it is
    given: of any batch, and of other widths once layers are cut. A layer's name is that of its
    node: `layers.features_0_conv`.

    Attributes:
        layers: by name, in the order in which they are first called.
        inputs: what it is fed, in the order of `forward`.
        outputs: names of what it gives, in the file's order.
        heads: of layers whose channels are those of several heads, how many channels are one:
            others cannot be cut by themselves.
        whole: layers whose channels cannot be cut, and why: they are what the network answers, or
            some function between layers takes them by number.
    """

    def __init__(
        self,
        inputs: Mapping[str, TensorShape],
        outputs: Sequence[str],
        steps: Sequence[Step],
        layers: Mapping[str, nn.Module],
        constants: Mapping[str, np.ndarray],
        heads: Mapping[str, int],
        whole: Mapping[str, str],
    ) -> None:
        super().__init__()
        self.whole = dict(whole)
        self.inputs, self.outputs, self.heads = dict(inputs), tuple(outputs), dict(heads)
        self.steps = tuple(steps)
        self.layers = nn.ModuleDict(layers)
        self.constants = nn.Module()
        self._places: dict[str, str] = {}
        for name, array in constants.items():
            place = f"of_{len(self._places)}"
            self._places[name] = place
            self.constants.register_buffer(place, tensor_of(array), persistent=False)
        self._last = _last_reads(self.steps, {*self.outputs, *self._places})

    def forward(self, *inputs: Tensor) -> Any:
        """The output, or several by name, of inputs that each have a batch axis in front."""
        values: dict[str, Any] = dict(zip(self.inputs, inputs, strict=True))
        for step, done in zip(self.steps, self._last, strict=True):
            given = [self._given(name, i, step, values) for i, name in enumerate(step.inputs)]
            if step.layer is None:
                assert step.call is not None
                made = step.call(*given)
            else:
                layer = self.layers[step.layer]
                made = layer(*given) if step.call is None else step.call(layer, *given)
            results = made if isinstance(made, (tuple, list)) else (made,)
            values |= dict(zip(step.outputs, results, strict=False))
            del given, made, results
            for name in done:
                values.pop(name, None)
        found = {name: self._given(name, 0, None, values) for name in self.outputs}
        return found[self.outputs[0]] if len(found) == 1 else found

    def deployed(self) -> tuple[nn.Module, Mapping[str, TensorShape]]:
        """The same, its outputs by the file's names."""
        return _Named(self), self.inputs

    def _given(self, name: str, position: int, step: Step | None, values: dict[str, Any]) -> Any:
        if not name:
            return None
        if name not in values:
            return getattr(self.constants, self._places[name])
        value = values[name]
        steers = step is not None and position in step.steered
        return as_tensor(value) if isinstance(value, np.ndarray) and not steers else value


class _Named(nn.Module):
    def __init__(self, network: Brought) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The outputs by name."""
        given = self.network(*inputs)
        return given if isinstance(given, dict) else {self.network.outputs[0]: given}


def used(steps: Sequence[Step], outputs: Sequence[str]) -> list[Step]:
    """The steps that the outputs need."""
    wanted, kept = set(outputs), []
    for step in reversed(steps):
        if wanted & {name for name in step.outputs if name}:
            kept.append(step)
            wanted |= set(step.inputs)
    return kept[::-1]


def _last_reads(steps: Sequence[Step], kept: set[str]) -> tuple[tuple[str, ...], ...]:
    known, done = {"", *kept}, []
    for step in reversed(steps):
        names = dict.fromkeys((*step.inputs, *step.outputs))
        done.append(tuple(name for name in names if name not in known))
        known.update(names)
    return tuple(reversed(done))


def first_difference(
    network: Brought, one: Sequence[Tensor], several: Sequence[Tensor], tolerance: float
) -> Operation | None:
    """The first operation whose result on one sample is not its row among several; None: none."""
    alone, together = _recorded(network, one), _recorded(network, several)
    for step in network.steps:
        for name in step.outputs:
            first, other = alone.get(name), together.get(name)
            if first is None or other is None or not first.is_floating_point():
                continue
            rows = other[: first.shape[0]] if other.dim() else other
            size = max(1e-12, float(first.abs().max())) if first.numel() else 1.0
            if (
                rows.shape != first.shape
                or not float((rows - first).abs().max()) <= tolerance * size
            ):
                return step.operation
    return None


def _recorded(network: Brought, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    values: dict[str, Any] = dict(zip(network.inputs, inputs, strict=True))
    with torch.no_grad():
        for step in network.steps:
            given = [network._given(n, i, step, values) for i, n in enumerate(step.inputs)]
            layer = None if step.layer is None else network.layers[step.layer]
            call: Any = step.call if step.call is not None else layer
            try:
                made = call(*given) if layer is None or step.call is None else call(layer, *given)
            except (RuntimeError, ValueError, IndexError):
                made = torch.zeros(())
            results = made if isinstance(made, (tuple, list)) else (made,)
            values |= dict(zip(step.outputs, results, strict=False))
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}
