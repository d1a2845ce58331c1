"""A program as a torch module, its values rounded as a quantized model rounds them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgedl.core.program import CodedTensor, CodedWeight, Coding, Operation, Program
from edgedl.train.operators import functions_of, last_reads
from edgedl.train.operators_base import tensor_of

# Operators whose third input is a bias.
BIASED = frozenset({"Conv", "ConvTranspose", "Gemm"})
NORMS = frozenset({"LayerNormalization"})
SMALLEST = 1e-30


class Coded(torch.nn.Module):
    """The program of a float model, with what training may move as parameters.

    These are the weights that are rounded, the biases and norms beside them, and of the tensors'
    scales the logarithms of what they are multiplied with. A weight's own scales follow from its
    largest magnitudes, as they do where the plan is placed. Rounding passes gradients on as if it
    were not there (Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons,
    2013), and scales have theirs as in Esser et al., Learned Step Size Quantization (ICLR 2020).

    Attributes:
        moved: names of the constants that are parameters, in the order of `values`.
        groups: groups of tensors, in the order of `logarithms`.

    Raises:
        Unsupported: an operation cannot be carried out here; its name is said.
    """

    def __init__(self, program: Program, coding: Coding) -> None:
        super().__init__()
        self.program, self.coding = program, coding
        self._functions = functions_of(program)
        self.moved = [name for name in _movable(program, coding) if _is_real(program, name)]
        self.values = torch.nn.ParameterList(
            torch.nn.Parameter(tensor_of(program.constants[name])) for name in self.moved
        )
        first: dict[str, float] = {}
        for one in coding.tensors.values():
            first.setdefault(one.group, one.scale)
        self.groups = list(first)
        self._scales = list(first.values())
        self.logarithms = torch.nn.ParameterList(torch.nn.Parameter(torch.zeros(())) for _ in first)
        self._place = {name: i for i, name in enumerate(self.moved)}
        self._group = {name: i for i, name in enumerate(self.groups)}
        self._fixed = {
            name: tensor_of(array)
            for name, array in program.constants.items()
            if name not in self._place
        }
        self._last = last_reads(program)

    def begin_with(self, constants: Mapping[str, np.ndarray]) -> None:
        """Give parameters other values, by the names of constants; others are left alone."""
        with torch.no_grad():
            for name, array in constants.items():
                if name in self._place:
                    self.values[self._place[name]].copy_(tensor_of(array))

    def forward(self, feed: Mapping[str, Tensor], rounded: bool = True) -> dict[str, Tensor]:
        """The outputs by name.

        Args:
            rounded: whether values are rounded to codes; else as the float model computes.
        """
        known: dict[str, Tensor] = dict(feed)
        codes: dict[str, Tensor] = {}
        outputs = {tensor.name for tensor in self.program.signature.outputs}
        for i, operation in enumerate(self.program.operations):
            given = list(self._inputs(operation, known, codes, rounded))
            made = self._functions[i](operation, given, self.program.opset)
            results = made if isinstance(made, tuple) else (made,)
            known |= dict(zip(operation.outputs, results, strict=False))
            for name in self._last[i]:
                known.pop(name, None)
                codes.pop(name, None)
        return {
            name: self._constant(name) if name not in known else known[name] for name in outputs
        }

    def _inputs(
        self,
        operation: Operation,
        known: Mapping[str, Tensor],
        codes: dict[str, Tensor],
        rounded: bool,
    ) -> Iterator[Tensor | None]:
        weight = self.coding.weights.get(operation.name) if rounded else None
        for position, name in enumerate(operation.inputs):
            if not name:
                yield None
            elif name not in known:
                value = self._constant(name)
                own = weight is not None and weight.position == position
                yield _round_weight(value, weight) if own and weight is not None else value
            else:
                coded = self.coding.tensors.get(name) if rounded else None
                if coded is None or operation.name not in coded.readers:
                    yield known[name]
                    continue
                if name not in codes:
                    codes[name] = self._round(known[name], coded)
                yield codes[name]

    def _constant(self, name: str) -> Tensor:
        value: Tensor = self.values[self._place[name]] if name in self._place else self._fixed[name]
        return value

    def _round(self, value: Tensor, coded: CodedTensor) -> Tensor:
        place = self._group[coded.group]
        rounded: Tensor = _Rounded.apply(  # type: ignore[no-untyped-call]
            value, self.logarithms[place], self._scales[place], coded
        )
        return rounded

    def state(self) -> list[Tensor]:
        """Copies of all parameters."""
        return [one.detach().clone() for one in self.parameters()]

    def go_back(self, state: Sequence[Tensor]) -> None:
        """Take the parameters of a `state`."""
        with torch.no_grad():
            for one, then in zip(self.parameters(), state, strict=True):
                one.copy_(then)

    def constants(self) -> dict[str, np.ndarray]:
        """The parameters that are constants of the program, by name."""
        return {
            name: value.detach().numpy().astype(self.program.constants[name].dtype)
            for name, value in zip(self.moved, self.values, strict=True)
        }

    def scales(self) -> dict[str, float]:
        """The scale of each tensor that is rounded."""
        known = [
            scale * math.exp(float(one.detach()))
            for scale, one in zip(self._scales, self.logarithms, strict=True)
        ]
        return {name: known[self._group[one.group]] for name, one in self.coding.tensors.items()}


def _is_real(program: Program, name: str) -> bool:
    array = program.constants.get(name)
    return array is not None and array.dtype == np.float32 and bool(np.isfinite(array).all())


def _movable(program: Program, coding: Coding) -> list[str]:
    """Constants that training may move, in the order of the operations that read them."""
    makers = {name: operation for operation in program.operations for name in operation.outputs}
    found: dict[str, None] = {}
    for operation in program.operations:
        weight = coding.weights.get(operation.name)
        if weight is not None:
            found[operation.inputs[weight.position]] = None
        if weight is not None and operation.kind in BIASED:
            found |= dict.fromkeys(operation.inputs[2:3])
        if operation.kind in NORMS:
            found |= dict.fromkeys(operation.inputs[1:3])
        if operation.kind == "Add" and any(
            name in makers and makers[name].kind == "MatMul" for name in operation.inputs
        ):
            biases = [n for n in operation.inputs if n in program.constants]
            found |= {n: None for n in biases if _is_row(program.constants[n])}
    kept = {tensor.name for tensor in program.signature.outputs}
    return [name for name in found if name in program.constants and name not in kept]


def _is_row(array: np.ndarray) -> bool:
    return array.ndim > 0 and array.size == array.shape[-1]


class _Rounded(torch.autograd.Function):
    """Values on a grid, with gradients for them and for the logarithm of the grid's scale."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, logarithm: Tensor, scale: float, coded: CodedTensor
    ) -> Tensor:
        scale *= math.exp(float(logarithm))
        low, high = coded.lowest - coded.zero_point, coded.highest - coded.zero_point
        rounded = (value / scale).round_().clamp_(low, high).mul_(scale)
        ctx.save_for_backward(value, rounded)
        ctx.low, ctx.high = scale * low, scale * high
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        value, rounded = ctx.saved_tensors
        outside = (value < ctx.low) | (value > ctx.high)
        passed = gradient.masked_fill(outside, 0.0)
        # By the logarithm, a value inside has its rounding error, one outside the grid's end.
        whole = torch.dot(gradient.reshape(-1), rounded.reshape(-1))
        return passed, whole - torch.dot(passed.reshape(-1), value.reshape(-1)), None, None


def _round_weight(weight: Tensor, coded: CodedWeight) -> Tensor:
    others = [i for i in range(weight.ndim) if i != coded.axis]
    magnitudes = weight.detach().abs()
    if coded.axis is None:
        largest = magnitudes.max()
    else:
        largest = magnitudes.amax(dim=others, keepdim=True) if others else magnitudes
    scale = (largest / coded.largest).clamp_min(SMALLEST)
    codes = weight / scale
    return (codes + (codes.round() - codes).detach()) * scale
