"""How long compressing took on this machine before, to tell how long it will take."""

from __future__ import annotations

from statistics import median

from edgedl.core.ledger import Ledger
from edgedl.recipe import Compress
from edgedl.search.memory import machine_parts

# Models so many times as large, or small, are alike.
ALIKE = 4.0
LATEST = 9


def remember(asked: Compress, size: int, seconds: float) -> None:
    """Keep how long a float model of so many bytes took."""
    _ledger(asked).add([{"bytes": size, "seconds": seconds}])


def expected(asked: Compress, size: int) -> float | None:
    """The median of the latest 9 that took as much effort for the same target here, of models from
    a quarter to four times the size; None where there was none."""
    rows = [row for row in _ledger(asked).rows() if _alike(row.get("bytes"), size)]
    seconds = [row["seconds"] for row in rows if isinstance(row.get("seconds"), (int, float))]
    return float(median(seconds[-LATEST:])) if seconds else None


def _alike(known: object, size: int) -> bool:
    return isinstance(known, int) and known * ALIKE >= size and known <= size * ALIKE


def _ledger(asked: Compress) -> Ledger:
    parts = {"target": asked.target, "precision": asked.precision, "effort": asked.effort}
    return Ledger.of("compressed", machine=machine_parts(), **parts)
