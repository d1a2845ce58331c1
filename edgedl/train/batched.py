"""A program for one sample at a time, carried out for many at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from edgedl.core.errors import EdgeError, Unsupported
from edgedl.core.program import Operation, Program
from edgedl.train.operators import constants_of, functions_of

# By how much of its largest magnitude a value for two samples may miss those for each.
ALIKE = 1e-3
AS_IT_IS = (
    "the model stays as it was compressed; exported with a free first axis, it can be trained"
)
Feed = Mapping[str, Tensor]


def batched(program: Program, first: Feed, second: Feed) -> Program:
    """The program with a free first axis: proven on two samples, together and apart.

    Shapes that a Reshape has as a constant, and that begin with 1, take the first axis of what they
    reshape instead.

    Args:
        first, second: inputs of one sample each, by name.

    Raises:
        Unsupported: it mixes samples or takes one alone; the first operator that does is named.
    """
    for tensor in program.signature.inputs:
        if not tensor.has_batch_axis:
            raise Unsupported(f"input `{tensor.name}` has no axis for samples", hint=AS_IT_IS)
    freed = _freed(program)
    apart = [_Walk(freed, feed) for feed in (first, second)]
    both = _Walk(freed, {name: torch.cat([first[name], second[name]]) for name in first})
    for operation in freed.operations:
        ones = [walk.step(operation) for walk in apart]
        try:
            together = both.step(operation)
        except (EdgeError, RuntimeError, IndexError, ValueError) as error:
            raise _refused(operation) from error
        for one, other, whole in zip(*ones, together, strict=True):
            if whole.is_floating_point() and not _same(one, other, whole):
                raise _refused(operation)
    return freed


class _Walk:
    """A program on its way, one operation after another."""

    def __init__(self, program: Program, feed: Feed) -> None:
        self.opset = program.opset
        self.functions = dict(zip(map(id, program.operations), functions_of(program), strict=True))
        self.values: dict[str, Tensor] = {**constants_of(program), **feed}

    @torch.no_grad()
    def step(self, operation: Operation) -> tuple[Tensor, ...]:
        given = [self.values[name] if name else None for name in operation.inputs]
        made = self.functions[id(operation)](operation, given, self.opset)
        results = made if isinstance(made, tuple) else (made,)
        self.values.update(zip(operation.outputs, results, strict=False))
        return results


def _freed(program: Program) -> Program:
    constants, operations = dict(program.constants), []
    for operation in program.operations:
        shape = operation.inputs[1] if operation.kind == "Reshape" else ""
        array = program.constants.get(shape)
        if array is not None and array.size and array[0] == 1 and (array != 0).all():
            # A zero takes the axis of what is reshaped, unless zeros are allowed.
            constants[f"{shape} of many"] = np.concatenate([[0], array[1:]]).astype(array.dtype)
            operation = replace(
                operation,
                inputs=(operation.inputs[0], f"{shape} of many"),
                attributes={**operation.attributes, "allowzero": 0},
            )
        operations.append(operation)
    return replace(program, constants=constants, operations=tuple(operations))


def _same(one: Tensor, other: Tensor, whole: Tensor) -> bool:
    """Whether a value for two samples is those for each, or one that no sample has a part in."""
    if whole.shape == one.shape and _alike(whole, one) and _alike(whole, other):
        return True
    if not one.dim() or one.shape != other.shape:
        return False
    apart = torch.cat([one, other])
    return whole.shape == apart.shape and _alike(whole, apart)


def _alike(made: Tensor, wanted: Tensor) -> bool:
    if not wanted.numel():
        return True
    size = float(wanted.abs().max()) or 1.0
    return float((made - wanted).abs().max()) <= ALIKE * size


def _refused(operation: Operation) -> Unsupported:
    return Unsupported(
        f"{operation.kind} node `{operation.name}` does not take samples together",
        hint=AS_IT_IS,
    )
