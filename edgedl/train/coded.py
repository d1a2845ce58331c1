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

    Args:
        also: names of further constants that may move.

    Attributes:
        moved: names of the constants that are parameters, in the order of `values`.
        groups: groups of tensors, in the order of `logarithms`.

    Raises:
        Unsupported: an operation cannot be carried out here; its name is said.
    """

    def __init__(self, program: Program, coding: Coding, *, also: Sequence[str] = ()) -> None:
        super().__init__()
        self.program, self.coding = program, coding
        self._functions = functions_of(program)
        names = dict.fromkeys((*_movable(program, coding), *_unkept(program, also)))
        self.moved = [name for name in names if _is_real(program, name)]
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
        self._fixed: dict[str, Tensor] = {}
        # What is real goes where the network goes; shapes and axes stay on the processor.
        self._buffer: dict[str, str] = {}
        for name, array in program.constants.items():
            if name in self._place:
                continue
            tensor = tensor_of(array)
            if tensor.is_floating_point():
                self._buffer[name] = f"fixed_{len(self._buffer)}"
                self.register_buffer(self._buffer[name], tensor, persistent=False)
            else:
                self._fixed[name] = tensor
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
        outputs = [tensor.name for tensor in self.program.signature.outputs]
        self._steps = self.steps() if rounded else []
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
                if weight is not None and weight.position == position:
                    yield self._weight(name, weight)
                else:
                    yield self._constant(name)
            else:
                coded = self.coding.tensors.get(name) if rounded else None
                if coded is None or operation.name not in coded.readers:
                    yield known[name]
                    continue
                if name not in codes:
                    codes[name] = self._round(known[name], coded)
                yield codes[name]

    def _constant(self, name: str) -> Tensor:
        value: Tensor
        if name in self._place:
            value = self.values[self._place[name]]
        elif name in self._buffer:
            value = getattr(self, self._buffer[name])
        else:
            value = self._fixed[name]
        return value

    def _weight(self, name: str, coded: CodedWeight) -> Tensor:
        """A constant, rounded."""
        value = self._constant(name)
        return round_weight(value, scale_of_weight(value, coded))

    def _round(self, value: Tensor, coded: CodedTensor) -> Tensor:
        place = self._group[coded.group]
        return round_tensor(value, self.logarithms[place], self._steps[place], coded)

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
            name: value.detach().cpu().numpy().astype(self.program.constants[name].dtype)
            for name, value in zip(self.moved, self.values, strict=True)
        }

    def steps(self) -> list[float]:
        """The scale of each group as it is now; on a GPU, one wait for all of them."""
        if not self._scales:
            return []
        moved = torch.stack([one.detach() for one in self.logarithms]).tolist()
        return [s * math.exp(one) for s, one in zip(self._scales, moved, strict=True)]

    def scales(self) -> dict[str, float]:
        """The scale of each tensor that is rounded."""
        known = self.steps()
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
    return _unkept(program, [name for name in found if name in program.constants])


def _unkept(program: Program, names: Sequence[str]) -> list[str]:
    """Those that are no outputs of the program themselves."""
    kept = {tensor.name for tensor in program.signature.outputs}
    return [name for name in names if name not in kept]


def _is_row(array: np.ndarray) -> bool:
    return array.ndim > 0 and array.size == array.shape[-1]


def round_tensor(
    value: Tensor, logarithm: Tensor, scale: float, coded: CodedTensor, share: float = 1.0
) -> Tensor:
    """Values on the grid of a scale, in their shape, still real numbers.

    Args:
        logarithm: what takes the gradient of the scale's logarithm; nothing where it needs none.
        share: of that gradient, what it takes.
    """
    rounded: Tensor = _Rounded.apply(value, logarithm, scale, coded, share)  # type: ignore[no-untyped-call]
    return rounded


def round_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """Weights on a grid that holds the largest of them; gradients pass.

    Args:
        scale: in a shape that divides the weight.
    """
    rounded: Tensor = _RoundedWeight.apply(weight, scale)  # type: ignore[no-untyped-call]
    return rounded


@torch.no_grad()
def scale_of_weight(weight: Tensor, coded: CodedWeight) -> Tensor:
    """What follows from a weight's largest magnitudes, in a shape that divides the weight."""
    others = [i for i in range(weight.ndim) if i != coded.axis]
    magnitudes = weight.abs()
    if coded.axis is None:
        largest = magnitudes.max()
    else:
        largest = magnitudes.amax(dim=others, keepdim=True) if others else magnitudes
    return (largest / coded.largest).clamp_min(SMALLEST)


class _Rounded(torch.autograd.Function):
    """Values on a grid, with gradients for them and for the logarithm of the grid's scale."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, _: Tensor, scale: float, coded: CodedTensor, share: float
    ) -> Tensor:
        low, high = coded.lowest - coded.zero_point, coded.highest - coded.zero_point
        rounded = (value / scale).round_().clamp_(low, high).mul_(scale)
        ctx.learned = ctx.needs_input_grad[1]
        ctx.save_for_backward(value, *([rounded] if ctx.learned else []))
        ctx.below = float(np.nextafter(np.float32(scale * low), np.float32(-np.inf)))
        ctx.above = float(np.nextafter(np.float32(scale * high), np.float32(np.inf)))
        ctx.share = share
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        value, *rounded = ctx.saved_tensors
        # One pass, which leaves the ends out.
        passed = torch.ops.aten.hardtanh_backward(gradient, value, ctx.below, ctx.above)
        if not rounded:
            return passed, None, None, None, None
        # By the logarithm, a value inside has its rounding error, one outside the grid's end.
        whole = _dot(gradient, rounded[0]) - _dot(passed, value)
        return passed, whole * ctx.share, None, None, None


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """The sum of all products, without a copy where both lie alike in memory."""
    if first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last):
        first, second = first.permute(0, 2, 3, 1), second.permute(0, 2, 3, 1)
    return torch.dot(first.reshape(-1), second.reshape(-1))


class _RoundedWeight(torch.autograd.Function):
    """Weights on a grid, with their gradients as if they were not."""

    @staticmethod
    def forward(_: Any, weight: Tensor, scale: Tensor) -> Tensor:
        return (weight / scale).round_().mul_(scale)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
