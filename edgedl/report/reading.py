"""What a document of `bench` says, read so that a missing or null figure is None, never a crash."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from edgedl.core.units import format_bytes

Document = Mapping[str, Any]


def at(value: Any, *keys: str) -> Any:
    """What lies under the keys; None where one of them is missing."""
    for key in keys:
        # a dict is told at once, where any mapping takes ten times as long
        if not isinstance(value, dict) and not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def number(value: Any, *keys: str) -> float | None:
    """The finite number under the keys, or None."""
    found = at(value, *keys)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return None
    try:
        return float(found) if math.isfinite(found) else None
    except OverflowError:
        return None


def word(value: Any, *keys: str) -> str:
    """The text or number under the keys as text; empty where there is none."""
    found = at(value, *keys)
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, float) and not math.isfinite(found):
        return ""
    return str(found) if isinstance(found, (str, int, float)) else ""


def mappings(value: Any, *keys: str) -> list[Mapping[str, Any]]:
    """The objects in the list under the keys."""
    found = at(value, *keys)
    if not isinstance(found, (list, tuple)):
        return []
    return [item for item in found if isinstance(item, (dict, Mapping))]


def sentences(document: Document) -> list[str]:
    """The doubts."""
    found = document.get("doubts")
    if not isinstance(found, Sequence) or isinstance(found, str):
        return []
    return [doubt for doubt in found if isinstance(doubt, str)]


def name(row: Any) -> str:
    """The artifact of a row."""
    return word(row, "artifact") or "unnamed"


def is_valid(row: Any) -> bool:
    """Whether a row's figures may be used; only an explicit `false` says no."""
    return at(row, "valid") is not False


def reasons(rows: Sequence[Any], most: int = 3) -> str:
    """Why some of these rows are not valid, each reason once; empty where none is given."""
    found = dict.fromkeys(word(row, "problem") for row in rows if not is_valid(row))
    return "; ".join([reason for reason in found if reason][:most])


def figure(value: float | None) -> str:
    """Three significant digits without an exponent where people can read it; None is a dash."""
    if value is None:
        return "-"
    size = abs(value)
    if size >= 999.5:
        return f"{value:,.0f}" if size < 1e9 else f"{value:.3g}"
    if size == 0 or size < 1e-6:
        return f"{value:.3g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(size) + 1e-9))}f}"


def milliseconds(value: float) -> str:
    """`4.41 ms`, three significant digits always; microseconds below a tenth of a millisecond."""
    return f"{figure(value)} ms" if abs(value) >= 0.1 else f"{figure(1000 * value)} us"


def chance(p: float | None) -> str:
    """A p-value as it is printed in papers."""
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def times(ratio: float) -> str:
    """A ratio with two decimals, with three digits where it is far from 1."""
    return f"{ratio:.2f}" if 0.01 <= ratio < 100 else figure(ratio)


def interval(pair: Any, *, inverted: bool = False) -> str:
    """`2.50x [2.40, 2.60]`; inverted, how many times slower."""
    ratio, low, high = (number(pair, key) for key in ("ratio", "low", "high"))
    if ratio is None or (inverted and ratio <= 0):
        return ""
    text = f"{times(1 / ratio if inverted else ratio)}x"
    if low is None or high is None or (inverted and low <= 0):
        return text
    low, high = (1 / high, 1 / low) if inverted else (low, high)
    return f"{text} [{times(low)}, {times(high)}]"


def against(document: Document) -> list[Mapping[str, Any]]:
    """The pairs that compare with the first row, or all where none does."""
    rows, pairs = mappings(document, "rows"), mappings(document, "pairs")
    first = name(rows[0]) if rows else ""
    return [pair for pair in pairs if word(pair, "a") == first] or pairs


def verdict(pair: Any) -> str:
    """A pair as one sentence without its stop."""
    a, b, found = word(pair, "a"), word(pair, "b"), word(pair, "verdict")
    if found == "faster":
        return f"{b} is {interval(pair)} faster than {a}"
    if found == "slower":
        return f"{b} is {interval(pair, inverted=True)} slower than {a}"
    return f"{b} against {a}: {interval(pair)}, no difference beyond the noise"


def winner(document: Document) -> Mapping[str, Any] | None:
    """The pair that the headline speaks of: the fastest against the first row, else the slowest."""
    broken = {name(row) for row in mappings(document, "rows") if not is_valid(row)}
    usable = [
        pair
        for pair in against(document)
        if number(pair, "ratio") is not None and not {word(pair, "a"), word(pair, "b")} & broken
    ]
    faster = [pair for pair in usable if word(pair, "verdict") == "faster"]
    slower = [pair for pair in usable if word(pair, "verdict") == "slower"]
    if faster:
        return max(faster, key=lambda pair: number(pair, "ratio") or 0)
    return min(slower, key=lambda pair: number(pair, "ratio") or 0, default=None)


def headline(document: Document) -> str:
    """The finding in one sentence without its stop."""
    rows = mappings(document, "rows")
    if not rows:
        return "Nothing was timed"
    valid = [row for row in rows if is_valid(row)]
    if not valid:
        return "No figure here is valid"
    if found := winner(document):
        return verdict(found)
    if mappings(document, "pairs") and len(valid) > 1:
        floor = number(document, "noise_floor")
        return "Nothing differs beyond the noise" + (f" of {100 * floor:.1f} %" if floor else "")
    p50 = number(valid[0], "latency_ms", "p50")
    engine = word(valid[0], "engine")
    if p50 is None:
        return f"{name(valid[0])} was timed with too few samples for a median"
    return f"{name(valid[0])} answers in {milliseconds(p50)}" + (f" on {engine}" if engine else "")


def lede(document: Document) -> str:
    """The sentences below the headline: what the winner costs, and how the others fared."""
    rows = {name(row): row for row in mappings(document, "rows")}
    parts = []
    found = winner(document)
    if found and word(found, "a") in rows and word(found, "b") in rows:
        parts = _compared(rows[word(found, "a")], rows[word(found, "b")])
    pairs = against(document)
    if len(pairs) > 1:
        counts = Counter(word(pair, "verdict") for pair in pairs)
        same = len(pairs) - counts["faster"] - counts["slower"]
        parts.append(
            f"Of {len(pairs):,} others, {counts['faster']:,} faster, {counts['slower']:,} slower,"
            f" {same:,} within the noise."
        )
    return " ".join(parts)


def _compared(a: Any, b: Any) -> list[str]:
    """What changed from one row to another, a sentence a figure."""
    parts = []
    before, after = number(a, "latency_ms", "p50"), number(b, "latency_ms", "p50")
    if before is not None and after is not None:
        parts.append(f"Median {milliseconds(after)} instead of {milliseconds(before)}.")
    before, after = number(a, "bytes"), number(b, "bytes")
    if before and after:
        parts.append(f"{format_bytes(after)} instead of {format_bytes(before)}.")
    before, after = number(a, "accuracy", "value"), number(b, "accuracy", "value")
    metric = word(b, "accuracy", "metric")
    if before is not None and after is not None:
        kind = f" ({metric})" if metric else ""
        parts.append(f"Accuracy{kind} {after:.4f} instead of {before:.4f}.")
    elif (alike := number(b, "agreement", "cosine")) is not None:
        parts.append(f"Answers agree with a cosine of {alike:.4f}.")
    return parts


def telling(rows: Sequence[Mapping[str, Any]], most: int = 12) -> list[Mapping[str, Any]]:
    """At most so many rows, in their order: the first and the fastest others."""
    if len(rows) <= most:
        return list(rows)

    def speed(i: int) -> tuple[bool, bool, float]:
        p50 = number(rows[i], "latency_ms", "p50")
        return (i > 0, not is_valid(rows[i]) or p50 is None, p50 or 0.0)

    return [rows[i] for i in sorted(sorted(range(len(rows)), key=speed)[:most])]


def subset(shown: int, total: int) -> str:
    """What a plot of `telling` rows leaves out, as a sentence; empty where that is nothing."""
    if shown >= total:
        return ""
    return f"{shown:,} of {total:,} rows: the first and the {shown - 1:,} fastest others."


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names without the folders that all of them share."""
    folders = [text.split("/")[:-1] for text in names]
    shared = 0
    while folders and all(
        folder[shared : shared + 1] == folders[0][shared : shared + 1] != [] for folder in folders
    ):
        shared += 1
    return {text: "/".join(text.split("/")[shared:]) or text for text in names}
