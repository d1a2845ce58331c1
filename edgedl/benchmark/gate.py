"""A gate for continuous integration: what is slower than when the baseline was taken."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.benchmark.compare import LEAST_FLOOR
from edgedl.benchmark.result import FORMAT_VERSION, BenchReport
from edgedl.benchmark.unlike import unlike
from edgedl.core.errors import BadOption, EdgeError, Unsupported
from edgedl.core.stats import Interval, student_quantile

NEEDED = ("machine", "inputs", "noise_floor")
NEEDED_OF_ROWS = ("artifact", "engine", "threads", "valid", "latency_ms", "yardsticks")
AGAIN = "take a new baseline: edgedl bench {names} --json > {path}"


@dataclass(frozen=True)
class Gated:
    """One artifact against the baseline.

    `slowdown` is the new time over the old one, both in units of the yardstick that was timed
    beside them, so that a machine that is slower today does not count. `red` where it passes the
    limit and its interval lies beyond 1 and the noise.
    """

    artifact: str
    engine: str
    before_ms: float | None
    after_ms: float | None
    slowdown: Interval
    red: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "artifact": self.artifact,
            "engine": self.engine,
            "before_ms": self.before_ms,
            "after_ms": self.after_ms,
            "slowdown": self.slowdown.to_json(),
            "red": self.red,
        }


@dataclass(frozen=True)
class Against:
    """A report held against a baseline.

    Attributes:
        limit: the slow-down that is allowed, as a fraction.
        rows: one for each of the report's; none where `refused`.
        again: whether all of them were timed twice, since something was red at first.
        library_differences: libraries in another version than the baseline's, as sentences.
        refused: why the two cannot be compared; the report stands all the same.
    """

    report: BenchReport
    baseline: Path
    limit: float
    rows: tuple[Gated, ...] = ()
    again: bool = False
    library_differences: tuple[str, ...] = ()
    refused: EdgeError | None = None

    @property
    def red(self) -> bool:
        """Whether anything is slower than it may be."""
        return any(row.red for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        return {
            "baseline": str(self.baseline),
            "limit": self.limit,
            "rows": [row.to_json() for row in self.rows],
            "again": self.again,
            "library_differences": list(self.library_differences),
            "refused": None if self.refused is None else str(self.refused),
        }


def read_baseline(path: Path) -> dict[str, Any]:
    """The document of an earlier `edgedl bench --json`.

    Raises:
        BadOption: the file is missing, is no such document, or one of another format.
    """
    again = f"edgedl bench MODEL --json > {path}"
    try:
        lines = path.read_text().strip()
    except OSError as error:
        raise BadOption(
            f"the baseline cannot be read ({error.strerror})", where=str(path), hint=again
        ) from error
    try:
        try:
            document: Any = json.loads(lines)
        except ValueError:
            document = json.loads(lines.splitlines()[-1] if lines else "")
    except ValueError as error:
        raise BadOption("is no JSON document", where=str(path), hint=again) from error
    rows = document.get("rows") if isinstance(document, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadOption("is not what `edgedl bench --json` prints", where=str(path), hint=again)
    if document.get("format_version") != FORMAT_VERSION:
        raise BadOption(
            f"has format version {document.get('format_version')}, this edgedl reads"
            f" {FORMAT_VERSION}",
            where=str(path),
            hint=f"take it anew: {again}",
        )
    absent = [f"`{key}`" for key in NEEDED if key not in document]
    absent += [f"`{key}` of a row" for key in NEEDED_OF_ROWS if any(key not in r for r in rows)]
    if absent:
        raise BadOption(f"lacks {absent[0]}", where=str(path), hint=f"take it anew: {again}")
    return dict(document)


def gate(
    new: Mapping[str, Any], old: Mapping[str, Any], limit: float, path: Path
) -> tuple[Gated, ...]:
    """Each row of `new` against the one of the same artifact, engine and threads in `old`.

    Args:
        limit: the slow-down that is allowed, as a fraction.
        path: where `old` came from, for the hints.

    Raises:
        BadOption: a row has no counterpart, or was timed on other inputs. Unsupported: the
            baseline was taken on another kind of machine, or one of the two is not valid.
    """
    names = " ".join(row["artifact"] for row in new["rows"])
    again = AGAIN.format(names=names, path=path)
    if differences := unlike(old["machine"], new["machine"]):
        raise Unsupported(
            f"the baseline was taken on another machine: {'; '.join(differences)}",
            where=str(path),
            hint=again,
        )
    if old["inputs"]["digest"] != new["inputs"]["digest"]:
        raise BadOption("the baseline was timed on other inputs", where=str(path), hint=again)
    before = {(r["artifact"], r["engine"], r["threads"]): r for r in old["rows"]}
    floor = max(LEAST_FLOOR, old["noise_floor"] or 0, new["noise_floor"] or 0)
    found = []
    for row in new["rows"]:
        was = before.get((row["artifact"], row["engine"], row["threads"]))
        if was is None:
            raise BadOption(
                f"`{row['artifact']}` on {row['engine']} with {row['threads']} threads is not in"
                " the baseline",
                where=str(path),
                hint=again,
            )
        for one, when in ((was, "in the baseline"), (row, "now")):
            if not one["valid"] or len(one["yardsticks"]) < 2:
                reason = one.get("problem") or "too few processes"
                raise Unsupported(
                    f"`{row['artifact']}` is not valid {when}: {reason}",
                    where=str(path),
                    hint=again if one is was else "run it again when the machine is quiet",
                )
        slowdown = unpaired_ratio(row["yardsticks"], was["yardsticks"])
        found.append(
            Gated(
                row["artifact"],
                row["engine"],
                was["latency_ms"]["p50"],
                row["latency_ms"]["p50"],
                slowdown,
                red=slowdown.ratio > 1 + limit and slowdown.low > 1 + floor,
            )
        )
    return tuple(found)


def unpaired_ratio(a: Sequence[float], b: Sequence[float]) -> Interval:
    """The geometric mean of A over that of B, with Welch's 95 % interval of their logarithms.

    The degrees of freedom are the lesser of the two, which is on the safe side.
    """
    x, y = np.log(np.asarray(a, dtype=float)), np.log(np.asarray(b, dtype=float))
    centre = float(np.mean(x) - np.mean(y))
    spread = math.sqrt(float(np.var(x, ddof=1)) / len(x) + float(np.var(y, ddof=1)) / len(y))
    freedom = min(len(x), len(y)) - 1
    half = spread * student_quantile(freedom)
    return Interval(math.exp(centre), math.exp(centre - half), math.exp(centre + half), freedom)
