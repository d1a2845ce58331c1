"""What is known of a pair of models when causes are sought, and what a cause proposes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgedl.diagnosis.walk import Walked
from edgedl.passes.normal import Norms
from edgedl.passes.quantizers import Found, Grid, codes_of, dequantized
from edgedl.passes.switches import Setting, Switchboard

MOVES = frozenset(
    {
        "Identity", "Relu", "Clip", "LeakyRelu", "Reshape", "Transpose", "Flatten", "Squeeze",
        "Unsqueeze", "MaxPool", "Slice", "Split", "Resize", "Pad",
    }
)  # fmt: skip
# A range of which less than half is used wastes a bit.
HALF = 0.5
MOST_NAMED = 4


@dataclass(frozen=True)
class Case:
    """The facts that causes are judged by.

    Attributes:
        board: the switches.
        walked: what was seen of each quantized activation, by switch.
        norms: batch norms of the float model, by the names of tensors and nodes they follow.
        alone: the loss of each switch on alone, where it was measured.
        command: `edgedl compress` with this model and these samples.
    """

    board: Switchboard
    walked: Mapping[int, Walked]
    norms: Norms
    alone: Mapping[int, float]
    command: Callable[..., str]

    @property
    def activations(self) -> list[int]:
        """Switches of activations with one fixed grid for the whole tensor, that were seen."""
        return [
            i
            for i, w in sorted(self.walked.items())
            if (g := self.board.found[i].grid) is not None and g.axis is None and w.low is not None
        ]

    @property
    def weights(self) -> list[int]:
        """Switches of weights that the float model has."""
        return [
            i
            for i, one in enumerate(self.board.found)
            if one.kind == "weight" and i not in self.board.unmatched
        ]

    def grid(self, switch: int) -> Grid:
        """The grid of a switch whose scale is fixed."""
        grid = self.board.found[switch].grid
        assert grid is not None
        return grid

    def name(self, switch: int) -> str:
        """The tensor's original name."""
        return self.board.name_of(self.board.found[switch].tensor)

    def operator(self, switch: int) -> str:
        """The operator that a switch counts to, with its type."""
        one = self.board.found[switch]
        if one.operator == "input":
            return f"the input `{self.board.name_of(one.node)}`"
        return f"{one.operator} `{self.board.name_of(one.node)}`"

    def maker(self, switch: int) -> str:
        """The type of the operator that makes a tensor, through what only moves or clips it."""
        name = self.board.inputs_of[self.board.found[switch].stored][0]
        for _ in range(12):
            node = self.board.producers.get(name)
            if node is None:
                return "input"
            if self.board.operators[node] not in MOVES:
                return self.board.operators[node]
            name = self.board.inputs_of[node][0]
        return ""

    def worst(self, switches: tuple[int, ...] | list[int]) -> list[int]:
        """Those that do most harm alone, the worst first, `MOST_NAMED` at most."""
        unique = list(dict.fromkeys(switches))
        return sorted(unique, key=lambda i: -self.alone.get(i, 0.0))[:MOST_NAMED]

    def listed(self, switches: list[int]) -> str:
        """The names of the worst two, and how many more there are."""
        named = [f"`{self.name(i)}`" for i in self.worst(switches)[:2]]
        more = len(switches) - len(named)
        return ", ".join(named) + (f" and {more} more" if more > 0 else "")

    def range_line(self, switch: int) -> str:
        """The range that an activation was seen to span, and that of its codes."""
        walked, grid = self.walked[switch], self.grid(switch)
        low, high = walked.used
        line = (
            f"`{self.name(switch)}` spans {low:.3g} to {high:.3g}, its codes {grid.low:.3g} to"
            f" {grid.high:.3g}"
        )
        share = f", {100 * walked.saturated:.1f} % of its values clipped"
        return line + (share if walked.clipped else "")

    def alone_line(self, switch: int) -> str:
        """Where a quantizer stands, and the noise that it makes alone where that was measured."""
        kind = self.board.found[switch].kind
        what = "" if kind == "activation" else f"the {kind} "
        line = f"{what}`{self.name(switch)}` at {self.operator(switch)}"
        alone = self.alone.get(switch)
        return line if alone is None else f"{line}: alone it makes {100 * alone:.2g} % noise"


@dataclass(frozen=True, eq=False)
class Proposal:
    """A cause that may be, and what would undo it.

    Attributes:
        cause: its name in the table of causes.
        repair: settings in place of the given ones; None switches a quantizer off.
        sentence: what is wrong, one line, without a figure of its share.
        evidence: figures, a line each.
        command: what mends it.
        rank: causes of a later rank take only what earlier ones leave.
    """

    cause: str
    repair: Mapping[int, Setting | None]
    sentence: str
    evidence: tuple[str, ...]
    command: str
    rank: int = 0


def covering(low: float, high: float, like: Grid) -> Grid:
    """The grid with the codes of another that covers a range and zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    if like.least < 0 and int(like.zero.max()) == 0:
        scale = max(-low / -like.least, high / like.most, 1e-30)
        return Grid(np.float32(scale).reshape(()), like.zero, like.least, like.most)
    scale = max((high - low) / (like.most - like.least), 1e-30)
    zero = np.asarray(np.clip(round(like.least - low / scale), like.least, like.most), np.int64)
    return Grid(np.float32(scale).reshape(()), zero, like.least, like.most)


def by_channel(low: np.ndarray, high: np.ndarray, like: Grid, axis: int) -> Grid:
    """The grid with the codes of another and a range of its own for each channel."""
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    scale = np.maximum((high - low) / (like.most - like.least), 1e-30).astype(np.float32)
    zero = np.clip(np.rint(like.least - low / scale), like.least, like.most).astype(np.int64)
    return Grid(scale, zero, like.least, like.most, axis)


def weights_by_channel(array: np.ndarray, axis: int, least: int, most: int) -> np.ndarray:
    """Weights rounded symmetrically with a scale for each channel of an axis, float32."""
    others = tuple(i for i in range(array.ndim) if i != axis)
    top = np.maximum(np.abs(array).max(axis=others), 1e-30)
    largest = (most - least) // 2
    grid = Grid(
        (top / largest).astype(np.float32), np.zeros(top.shape, np.int64), -largest, largest, axis
    )
    return dequantized(codes_of(array, grid), grid)


def spans(walked: Walked) -> np.ndarray:
    """The largest magnitude of each channel, [channels]."""
    assert walked.low is not None
    assert walked.high is not None
    return np.asarray(np.maximum(np.abs(walked.low), np.abs(walked.high)))


def channel_axis(board: Switchboard, one: Found, rank: int) -> int | None:
    """The axis of a weight's output channels."""
    if one.operator in ("Conv",):
        return 0
    if one.operator == "ConvTranspose":
        return 1
    if one.operator == "Gemm":
        return 0 if board.attributes[one.node].get("transB", 0) else 1
    return rank - 1 if one.operator == "MatMul" and rank >= 2 else None
