"""Batch norms of a float model, and how unlike the factors are that they give to channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgedl.core.model import Model
from edgedl.passes.graph import read


@dataclass(frozen=True)
class Norms:
    """Factors by channel: gain over the root of the variance; by tensor behind the norm or its
    activation, and by the node whose result it normalises."""

    of: Mapping[str, tuple[str, np.ndarray]]

    def get(self, *names: str) -> tuple[str, np.ndarray] | None:
        """The first of these names that a norm stands behind: the norm's name, and what it
        multiplies each channel by, [channels]; None where none has one."""
        return next((self.of[name] for name in names if name in self.of), None)


def batch_norms(model: Model) -> Norms:
    """The batch norms with constant statistics."""
    found: dict[str, tuple[str, np.ndarray]] = {}
    for node in read(model.path).graph:
        if node.op_type != "BatchNormalization":
            continue
        values = [v.const_value.numpy() if v and v.const_value else None for v in node.inputs[1:5]]
        gain, _, _, variance = values
        if gain is None or variance is None:
            continue
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        factors = np.abs(gain) / np.sqrt(variance + epsilon)
        entry = (node.name or node.outputs[0].name or "", factors)
        source = node.inputs[0].producer() if node.inputs[0] is not None else None
        if source is not None:
            found[source.name or ""] = entry
            found[source.outputs[0].name or ""] = entry
        behind = [node.outputs[0]]
        for _ in range(3):
            for value in behind:
                found.setdefault(value.name or "", entry)
            behind = [
                u.node.outputs[0] for v in behind for u in v.uses() if _shapes(u.node.op_type)
            ]
    return Norms(found)


def _shapes(kind: str) -> bool:
    return kind in ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Mul", "HardSwish", "PRelu")


def tensor_names(model: Model) -> frozenset[str]:
    """The names of all tensors that are inputs or that a node makes."""
    graph = read(model.path).graph
    made = {value.name or "" for node in graph for value in node.outputs}
    return frozenset(made | {value.name or "" for value in graph.inputs})
