"""Where the time of one call goes, by the engine's own account."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgedl.core.errors import BadOption
from edgedl.runtime.session import Operator

ACCOUNTED = 0.95
NOT_ACCOUNTED = "not accounted for"
WORD = re.compile(r"[A-Za-z0-9.]+")


@dataclass(frozen=True)
class ProfileRow:
    """Operators of one kind and precision: how many, their microseconds in one call, their share.

    `fallback` marks those that a reference kernel computed, or float between two conversions;
    conversions have that word as their precision.
    """

    kind: str
    precision: str
    count: int
    us: float
    share: float
    fallback: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "precision": self.precision,
            "count": self.count,
            "us": self.us,
            "share": self.share,
            "fallback": self.fallback,
        }


@dataclass(frozen=True)
class Profile:
    """One artifact's rows, and the microseconds of one call without a profiler."""

    artifact: str
    engine: str
    total_us: float
    rows: tuple[ProfileRow, ...]

    @property
    def accounted(self) -> float:
        """The operators' time as a share of the call's; above 1 where profiling slows them."""
        return sum(row.us for row in self.rows if row.kind != NOT_ACCOUNTED) / self.total_us

    def to_json(self) -> dict[str, Any]:
        return {
            "artifact": self.artifact,
            "engine": self.engine,
            "total_us": self.total_us,
            "accounted": self.accounted,
            "rows": [row.to_json() for row in self.rows],
        }


def profile(operators: Sequence[Operator], total_us: float) -> list[ProfileRow]:
    """Rows by kind, precision and fallback, those that take longest first.

    Shares are of the call of `total_us`, measured without a profiler, or of the operators' sum
    where that is larger, so that they add up to 1 at most. What is missing from the call is a last
    row of its own where the operators sum up to less than 95 % of it.

    Raises:
        BadOption: an operator was not timed, or the call takes no time.
    """
    if not total_us > 0:
        raise BadOption(f"a call of {total_us:g} us is no call", hint="measure it first")
    groups: dict[tuple[str, str, bool], list[float]] = {}
    for operator in operators:
        key = (operator.kind, operator.precision, operator.fallback)
        groups.setdefault(key, []).append(_time(operator))
    known_us = sum(sum(times) for times in groups.values())
    whole_us = max(total_us, known_us)
    rows = [
        ProfileRow(kind, precision, len(times), sum(times), sum(times) / whole_us, fallback)
        for (kind, precision, fallback), times in groups.items()
    ]
    rows.sort(key=lambda row: -row.us)
    if known_us < ACCOUNTED * total_us:
        rest_us = total_us - known_us
        rows.append(ProfileRow(NOT_ACCOUNTED, "", 0, rest_us, rest_us / whole_us, False))
    return rows


def slowest(
    operators: Sequence[Operator], n: int, names: Mapping[str, str] | None = None
) -> list[Operator]:
    """The `n` operators that take longest, the longest first.

    Args:
        names: original names by the short ones of a bundle's payload (`Bundle.names()`); words of
            an operator's name that stand there are put back, what the engine added stays.

    Raises:
        BadOption: an operator was not timed.
    """
    longest = sorted(operators, key=lambda operator: -_time(operator))[:n]
    return [replace(operator, name=_original(operator.name, names or {})) for operator in longest]


def _time(operator: Operator) -> float:
    if operator.us is None:
        raise BadOption(
            f"operator `{operator.name or operator.kind}` was not timed",
            hint="`operators(..., runs=50)` times them",
        )
    return operator.us


def _original(name: str, names: Mapping[str, str]) -> str:
    return names.get(name) or WORD.sub(lambda word: names.get(word[0], word[0]), name)
