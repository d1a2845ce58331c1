"""What became of a recipe, as JSON and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgedl.core.units import format_bytes, format_seconds
from edgedl.report.table import table


@dataclass(frozen=True)
class Stage:
    """One stage of the line: what came out, and how long it took, None where nobody knows; `kept`
    where nothing had to be done."""

    name: str
    about: str
    seconds: float | None
    kept: bool

    @property
    def time(self) -> str:
        """How long it took, as people read it."""
        if self.kept:
            return "kept"
        return "unknown" if self.seconds is None else format_seconds(self.seconds)

    @property
    def guess(self) -> str:
        """How long it is expected to take, as people read it."""
        return "unknown" if self.seconds is None else f"about {format_seconds(self.seconds)}"

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Forecast:
    """What a recipe would take: its stages with the seconds that they are expected to last."""

    name: str
    recipe: str
    stages: tuple[Stage, ...]
    doubts: tuple[str, ...]

    @property
    def broken(self) -> tuple[str, ...]:
        """None: nothing was made."""
        return ()

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "recipe": self.recipe,
            "stages": [stage.to_json() for stage in self.stages],
            "doubts": list(self.doubts),
        }

    def text(self) -> str:
        """The page."""
        rows = [[stage.name, stage.guess, stage.about] for stage in self.stages]
        parts = [f"{self.recipe}: what it would take", table(rows, right=(1,))]
        return "\n\n".join([*parts, *_doubts(self.doubts)])


@dataclass(frozen=True)
class Shrink:
    """A network after one step of shrinking, as it would ship then.

    Attributes:
        step: its name; `train` for the network as it was trained.
        metric, float_figure, figure: by what it is judged on test samples, in float and as it would
            ship; None without labels.
        agreement: of the shipped answers with this network's own in float.
        original: of the shipped answers with those of the file that was brought, or teaches samples
            without labels; None where there is none.
        bytes, float_bytes: of the bundle, and of the float model.
        latency_ms, float_ms: medians of a call, as it would ship and in float32.
        speedup: against what would have shipped before the step: `ratio`, `low`, `high`, `verdict`.
        undone: why the step was taken back; None where it stands.
    """

    step: str
    parameters: int
    metric: str | None
    float_figure: float | None
    figure: float | None
    agreement: Mapping[str, Any]
    engine: str
    precision: str
    bytes: int
    float_bytes: int
    latency_ms: float
    float_ms: float
    speedup: Mapping[str, Any] | None
    undone: str | None
    original: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Made:
    """What became of a recipe.

    Attributes:
        output: the bundle, or the ONNX file; None where the line ended with training.
        weights: the trained weights, a safetensors file; None where nothing was trained.
        history: figures of each epoch of training by name, as the run's log has them.
        shrink: the network as it was trained, and after each step of the recipe's.
        compressed, bench: what these stages say as JSON, None where they were not reached.
        original: of the ONNX file that was brought, its name as `file`, the `agreement` with its
            answers of what was made, and how many times faster that is, as `speedup` against the
            file in float32 and as `own` against what would ship of it unshrunk; None without one.
        doubts: sentences about the data and the export.
    """

    name: str
    recipe: str
    output: str | None
    weights: str | None
    history: tuple[Mapping[str, Any], ...]
    stages: tuple[Stage, ...]
    shrink: tuple[Shrink, ...]
    compressed: Mapping[str, Any] | None
    bench: Mapping[str, Any] | None
    doubts: tuple[str, ...]
    original: Mapping[str, Any] | None = None

    @property
    def broken(self) -> tuple[str, ...]:
        """Limits of the recipe that cannot be kept."""
        return () if self.compressed is None else tuple(self.compressed["broken"])

    def to_json(self) -> dict[str, Any]:
        compressed = self.compressed
        return {
            "name": self.name,
            "recipe": self.recipe,
            "output": self.output,
            "weights": self.weights,
            "history": [dict(row) for row in self.history],
            "stages": [stage.to_json() for stage in self.stages],
            "shrink": [row.to_json() for row in self.shrink],
            "compressed": None
            if compressed is None
            else {key: value for key, value in compressed.items() if key != "text"},
            "bench": self.bench,
            "original": self.original,
            "doubts": list(self.doubts),
        }

    def text(self) -> str:
        """The page."""
        rows = [[stage.name, stage.time, stage.about] for stage in self.stages]
        parts = [
            f"{self.recipe} -> {self.output or self.weights or 'nothing'}",
            table(rows, right=(1,)),
        ]
        if self.shrink:
            parts.append(shrink_table(self.shrink))
        if self.original is not None:
            parts.append(original_text(self.original))
        parts += _doubts(self.doubts)
        if self.compressed is not None:
            parts.append(self.compressed["text"])
        return "\n\n".join(parts)


SHRINK_HEAD = (
    "step", "parameters", "float32", "ships", "as original", "precision", "bytes", "latency",
    "faster", "smaller",
)  # fmt: skip


def original_text(original: Mapping[str, Any]) -> str:
    """How what was made answers and how fast it is, beside the file that was brought."""
    same = original["agreement"]
    share = "" if same["top1"] is None else f"top-1 agrees in {same['top1']:.4f}, "
    lines = [
        f"what was made, beside {original['file']}",
        f"{share}cosine {same['cosine']:.4f}, {same['sqnr_db']:.1f} dB on {same['samples']:,} test"
        " samples",
    ]
    for key, words in (("speedup", "it in float32"), ("own", "what would ship of it unshrunk")):
        pair = original.get(key)
        if pair is not None:
            lines.append(
                f"{pair['ratio']:.2f}x [{pair['low']:.2f}, {pair['high']:.2f}] the speed of {words}"
                f": {pair['verdict']}"
            )
    return "\n  ".join(lines)


def shrink_table(rows: Sequence[Shrink]) -> str:
    """Each step's effect; what is faster and smaller is so against the trained network in
    float32, step by step."""
    head, cells = shrink_columns(rows)
    notes = [f"{row.step} was undone: {row.undone}" for row in rows if row.undone is not None]
    return "\n  ".join([table([head, *cells], right=range(1, len(head))), *notes])


def shrink_columns(rows: Sequence[Shrink]) -> tuple[list[str], list[list[str]]]:
    """The table's head and its cells, without columns that say nothing."""
    cells = shrink_cells(rows)
    said = [i for i in range(len(SHRINK_HEAD)) if any(one[i] for one in cells)]
    return [SHRINK_HEAD[i] for i in said], [[one[i] for i in said] for one in cells]


def shrink_cells(rows: Sequence[Shrink]) -> list[list[str]]:
    """The table's cells."""
    first = rows[0]
    faster = first.float_ms / first.latency_ms
    times = []
    for row in rows:
        # each ratio is of one interleaved run; medians of different runs would not compare
        ratio = 1.0 if row.speedup is None else float(row.speedup["ratio"])
        times.append(faster * ratio)
        faster = faster if row.undone is not None else faster * ratio
    return [
        [
            row.step + (" (undone)" if row.undone is not None else ""),
            f"{row.parameters:,}",
            "" if row.float_figure is None else f"{row.metric} {row.float_figure:.4f}",
            "" if row.figure is None else f"{row.figure:.4f}",
            _as_original(row.original),
            row.precision,
            format_bytes(row.bytes),
            f"{row.latency_ms:.3g} ms",
            f"{times[i]:.2f}x",
            f"{first.float_bytes / row.bytes:.1f}x",
        ]
        for i, row in enumerate(rows)
    ]


def _as_original(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"cosine {found['cosine']:.4f}" if found["top1"] is None else f"{found['top1']:.4f}"


def _doubts(doubts: tuple[str, ...]) -> list[str]:
    return ["\n  ".join(("doubts", *doubts))] if doubts else []
