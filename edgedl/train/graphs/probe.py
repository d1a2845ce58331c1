"""A graph carried out once, to see the shapes of all that it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgedl.core.errors import EdgeError, Unsupported
from edgedl.core.program import Program
from edgedl.train.graphs.places import Place, times
from edgedl.train.graphs.reshapes import Reshaped, reshaped
from edgedl.train.operators import constants_of, functions_of, last_reads

SEVERAL = 3
ROUNDING = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
ROUNDED_PARTS = ("QLinear", "Integer", "QGemm")


@dataclass(frozen=True, eq=False)
class Seen:
    """What a graph's values were for some inputs.

    Attributes:
        shapes: of inputs, constants and all that is computed, by name.
        batch: samples that it was shown.
        fewer: the shapes for one sample less, where it was shown several.
        places: where the batch stands, of a graph for one sample that is brought by them.
    """

    shapes: Mapping[str, tuple[int, ...]]
    batch: int
    fewer: Mapping[str, tuple[int, ...]] | None = None
    places: Mapping[str, Place] | None = None

    def rank(self, name: str) -> int:
        """How many axes a value has."""
        return len(self.shapes[name])

    def reshaped(self, before: str, after: str) -> Reshaped | None:
        """What turns one value's shape into the other's; None where only these very sizes fit."""
        places = self.places or {}
        if before in places and after in places:
            first, second = self.shapes[before], self.shapes[after]
            more, less = (
                (times(first, places[before], n), times(second, places[after], n))
                for n in (SEVERAL, SEVERAL - 1)
            )
            return reshaped(*more, less, SEVERAL)
        fewer = None if self.fewer is None else (self.fewer[before], self.fewer[after])
        return reshaped(self.shapes[before], self.shapes[after], fewer, self.batch)


def seen(program: Program, feed: Mapping[str, Tensor], batch: int) -> Seen:
    """The shapes of all values, as the operators' functions give them.

    Raises:
        Unsupported: an operator has no function, rounds, or fails on these inputs; its name and its
            node's are said.
    """
    for operation in program.operations:
        rounds = any(part in operation.kind for part in ROUNDED_PARTS)
        if operation.kind in ROUNDING or rounds:
            raise Unsupported(
                f"the model is quantized: operator `{operation.kind}` of node `{operation.name}`",
                hint="give the float model that it was made of",
            )
    values: dict[str, Tensor] = {**constants_of(program), **feed}
    shapes = {name: tuple(value.shape) for name, value in values.items()}
    steps = zip(program.operations, functions_of(program), last_reads(program), strict=True)
    for operation, function, done in steps:
        given = [values[name] if name else None for name in operation.inputs]
        try:
            with torch.no_grad():
                made = function(operation, given, program.opset)
        except EdgeError:
            raise
        except Exception as error:
            first = str(error).strip().split("\n")[0]
            raise Unsupported(
                f"{operation.kind} node `{operation.name}` fails on a batch of {batch}: {first}",
                hint="are the samples of the shapes that the model takes?",
            ) from error
        results = made if isinstance(made, tuple) else (made,)
        found = dict(zip(operation.outputs, results, strict=False))
        values |= found
        shapes |= {name: tuple(value.shape) for name, value in found.items()}
        for name in done:
            values.pop(name, None)
    return Seen(shapes, batch)
