"""A quantization as plain data: which operators compute in int8, at which scales, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Quantizer:
    """Real value = (code - zero_point) * scale, for a whole tensor."""

    dtype: Literal["uint8", "int8"]
    scale: float
    zero_point: int

    def to_json(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "scale": self.scale, "zero_point": self.zero_point}


State = Literal["float", "int8"]


@dataclass(frozen=True)
class Decision:
    """What becomes of one operator, and why."""

    node: str
    operator: str
    precision: State
    reason: str

    def to_json(self) -> dict[str, str]:
        return {
            "node": self.node,
            "operator": self.operator,
            "precision": self.precision,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Cost:
    """One operator's microseconds in float and in int8, and what was chosen for it."""

    node: str
    operator: str
    float_us: float | None
    int8_us: float | None
    chosen: State

    def to_json(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "operator": self.operator,
            "float_us": self.float_us,
            "int8_us": self.int8_us,
            "chosen": self.chosen,
        }


@dataclass(frozen=True)
class Plan:
    """A quantization, decided.

    Attributes:
        scheme: the name of the target's scheme.
        decisions: every operator that the scheme or a person could have put into int8, in graph
            order.
        activations: quantizers by tensor name.
        readers: by tensor, the nodes that read its quantized values; others read it as it was.
        weights: by node, the position of its constant operand and the axis of its scales (None:
            one scale for all).
        tables: nodes that look rows up in a constant table, stored in int8 and expanded row by row.
        shifted: nodes whose weights and their zero points are written one less, which is the same
            arithmetic and another kernel of the engine.
        narrow: nodes whose weights have 7 bits, because their sums would overflow.
        bits: nodes whose weights have fewer bits than 8, stored in int8 all the same, and how many.
    """

    scheme: str
    decisions: tuple[Decision, ...]
    activations: Mapping[str, Quantizer]
    readers: Mapping[str, tuple[str, ...]]
    weights: Mapping[str, tuple[int, int | None]]
    tables: tuple[str, ...] = ()
    shifted: tuple[str, ...] = ()
    narrow: tuple[str, ...] = ()
    bits: Mapping[str, int] = field(default_factory=dict)

    def largest_code(self, node: str) -> int:
        """The largest code of a node's weights; the least is as far below zero."""
        bits = min(self.bits.get(node, 8), 7 if node in self.narrow else 8)
        return (1 << bits - 1) - 1

    @property
    def int8(self) -> tuple[str, ...]:
        """Names of the nodes that compute in int8, in graph order."""
        return tuple(d.node for d in self.decisions if d.precision == "int8")

    def to_json(self) -> dict[str, Any]:
        return {
            "scheme": self.scheme,
            "decisions": [decision.to_json() for decision in self.decisions],
            "activations": {name: q.to_json() for name, q in self.activations.items()},
            "readers": {name: list(nodes) for name, nodes in self.readers.items()},
            "weights": {name: list(entry) for name, entry in self.weights.items()},
            "tables": list(self.tables),
            "shifted": list(self.shifted),
            "narrow": list(self.narrow),
            **({"bits": dict(self.bits)} if self.bits else {}),
        }
