"""What became of a recipe, as JSON and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgedl.report.table import table


@dataclass(frozen=True)
class Stage:
    """One stage of the line: what came out, and how long it took; `kept` where nothing had to be
    done."""

    name: str
    about: str
    seconds: float
    kept: bool

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
        rows = [[stage.name, f"about {stage.seconds:.0f} s", stage.about] for stage in self.stages]
        parts = [f"{self.recipe}: what it would take", table(rows, right=(1,))]
        return "\n\n".join([*parts, *_doubts(self.doubts)])


@dataclass(frozen=True)
class Made:
    """What became of a recipe.

    Attributes:
        output: the bundle, or the ONNX file; None where the line ended with training.
        weights: the trained weights, a safetensors file.
        history: figures of each epoch of training by name, as the run's log has them.
        compressed, bench: what these stages say as JSON, None where they were not reached.
        doubts: sentences about the data and the export.
    """

    name: str
    recipe: str
    output: str | None
    weights: str
    history: tuple[Mapping[str, Any], ...]
    stages: tuple[Stage, ...]
    compressed: Mapping[str, Any] | None
    bench: Mapping[str, Any] | None
    doubts: tuple[str, ...]

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
            "compressed": None
            if compressed is None
            else {key: value for key, value in compressed.items() if key != "text"},
            "bench": self.bench,
            "doubts": list(self.doubts),
        }

    def text(self) -> str:
        """The page."""
        rows = [
            [stage.name, "kept" if stage.kept else f"{stage.seconds:.1f} s", stage.about]
            for stage in self.stages
        ]
        parts = [f"{self.recipe} -> {self.output or self.weights}", table(rows, right=(1,))]
        parts += _doubts(self.doubts)
        if self.compressed is not None:
            parts.append(self.compressed["text"])
        return "\n\n".join(parts)


def _doubts(doubts: tuple[str, ...]) -> list[str]:
    return ["\n  ".join(("doubts", *doubts))] if doubts else []
