"""Plots of one lane a row: pairs, operators, cold starts and memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from edgedl.core.units import format_bytes
from edgedl.report.palette import of_verdict, of_work
from edgedl.report.reading import (
    Document,
    against,
    chance,
    interval,
    is_valid,
    mappings,
    milliseconds,
    name,
    number,
    short_names,
    subset,
    telling,
    verdict,
    word,
)
from edgedl.report.scale import spanning
from edgedl.report.svg import (
    Drawing,
    Figure,
    drawn,
    elide,
    label,
    lanes,
    legend,
    line,
    rect,
    text_width,
    tipped,
    x_axis,
)

MOST_PAIRS = 16
SMALLEST_SHARE = 0.015


def titles(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The short and the full name of each row; rows that are not valid say so."""
    short = short_names([name(row) for row in rows])
    notes = ["" if is_valid(row) else " (invalid)" for row in rows]
    return [
        (short[name(row)] + note, name(row) + note) for row, note in zip(rows, notes, strict=True)
    ]


def forest(document: Document) -> Figure | None:
    """Each pair's ratio and interval around 1x, the noise floor as a band."""
    every = [pair for pair in mappings(document, "pairs") if (number(pair, "ratio") or 0) > 0]
    if not every:
        return None
    first = against({**document, "pairs": every})
    rest = [pair for pair in every if pair not in first] if len(every) <= 200 else []
    pairs = [*first, *rest]
    if len(pairs) > MOST_PAIRS:
        far = sorted(pairs, key=lambda pair: -abs(math.log(number(pair, "ratio") or 1)))
        pairs = far[:MOST_PAIRS]
    floor = number(document, "noise_floor") or 0.0
    caption = (
        f"Dot and line: ratio of the medians and its 95 % interval. Band: the noise floor, "
        f"{100 * floor:.1f} %. An interval must leave the band before anything is claimed."
    )
    if len(pairs) < len(every):
        caption = f"{len(pairs)} of {len(every):,} pairs, those furthest from 1x. " + caption
    said = ". ".join(verdict(pair) for pair in pairs)
    return drawn("pairs", "Pairs", caption, said, lambda width: _forest(pairs, floor, width))


def _bounds(pair: Any) -> tuple[float, float, float]:
    """Low end, ratio and high end of a pair; the ends are the ratio where they are missing."""
    ratio = number(pair, "ratio") or 1.0
    low, high = number(pair, "low"), number(pair, "high")
    return (low if low and low > 0 else ratio, ratio, high if high and high > 0 else ratio)


def _forest(pairs: Sequence[Any], floor: float, width: float) -> Drawing:
    wide = width > 600
    short = short_names([word(pair, side) for pair in pairs for side in ("a", "b")])
    bases = {word(pair, "a") for pair in pairs}
    title = "times faster" + (f" than {elide(short[bases.pop()], 180)}" if len(bases) == 1 else "")
    names, figures = [], []
    for pair in pairs:
        b, a = short[word(pair, "b")], short[word(pair, "a")]
        shown = f"{elide(b, 106)} / {elide(a, 106)}" if wide else f"{b} / {a}"
        shown = shown if bases else b
        names.append((shown, f"{word(pair, 'b')} against {word(pair, 'a')}"))
        words = ", ".join(w for w in (word(pair, "verdict"), chance(number(pair, "p"))) if w)
        figures.append([interval(pair), words] if words else [interval(pair)])
    plan = lanes(width, names, figures, 26 if wide else 14, gap=12 if wide else 10)
    ends = [value for pair in pairs for value in _bounds(pair)]
    scale = spanning(
        [*ends, 1 / (1 + 2 * floor + 0.02), 1 + 2 * floor + 0.02], plan.left, plan.right, log=True
    )
    band = scale(max(1 - floor, scale.low)), scale(1 + floor)
    parts = [rect(band[0], 0, band[1] - band[0], plan.bottom + 4, "band")]
    axis, height = x_axis(
        scale,
        0,
        plan.bottom + 4,
        width,
        title,
        unit="x",
    )
    parts += axis
    parts.append(line(scale(1), 0, scale(1), plan.bottom + 4, "one"))
    parts += plan.parts
    for pair, top in zip(pairs, plan.tops, strict=True):
        low, ratio, high = _bounds(pair)
        y, colour = top + plan.height / 2, of_verdict(word(pair, "verdict"))
        shape = line(scale(low), y, scale(high), y, f"{colour} whisker")
        for end in (low, high):
            shape += line(scale(end), y - 4, scale(end), y + 4, f"{colour} whisker")
        shape += f'<circle cx="{scale(ratio):.1f}" cy="{y:.1f}" r="4.5" class="{colour} mark"/>'
        parts.append(tipped(shape, verdict(pair)))
    return parts, height


def operators(document: Document) -> Figure | None:
    """Where each row's time goes: shares by kind of operator, coloured by precision."""
    rows = [row for row in mappings(document, "rows") if mappings(row, "profile")]
    if not rows:
        return None
    shown = telling(rows)
    caption = (
        subset(len(shown), len(rows)) + " Share of the time by kind of operator, largest "
        "first; conversions between precisions stand last. Kinds below 1.5 % are taken together."
    )
    said = ". ".join(
        f"{name(row)}: "
        + ", ".join(
            f"{kind} {precision} {100 * share:.0f} %"
            for kind, precision, share, _ in _kinds(row)[:5]
        )
        for row in shown
    )
    return drawn(
        "operators", "Operators", caption.strip(), said, lambda width: _operators(shown, width)
    )


def _kinds(row: Any) -> list[tuple[str, str, float, str]]:
    """(kind, precision, share, tip) by share, conversions last, small ones together."""
    found, small = [], 0.0
    for entry in mappings(row, "profile"):
        share = number(entry, "share") or 0.0
        kind, precision = word(entry, "kind") or "unnamed", word(entry, "precision")
        if share < SMALLEST_SHARE:
            small += max(share, 0.0)
            continue
        count, us = number(entry, "count"), number(entry, "us")
        tip = f"{kind} {precision}: {100 * share:.1f} %"
        tip += f", {count:.0f} nodes" if count is not None else ""
        tip += f", {milliseconds(us / 1000)}" if us is not None else ""
        found.append((kind, precision, share, tip))
    found.sort(key=lambda item: (of_work(item[0], item[1])[1] == "conversion", -item[2]))
    if small:
        rest = ("other", "other", small, f"other: {100 * small:.1f} %")
        wasted = sum(of_work(kind, p)[1] == "conversion" for kind, p, *_ in found)
        found.insert(len(found) - wasted, rest)
    return found


def _operators(rows: Sequence[Any], width: float) -> Drawing:
    kinds = [_kinds(row) for row in rows]
    entries = dict.fromkeys(of_work(kind, p) for shares in kinds for kind, p, *_ in shares)
    key, below = legend(list(entries), width)
    figures = [[_waste(shares)] for shares in kinds]
    plan = lanes(width, titles(rows), figures, 26, top=below + 8)
    parts = [*key, *plan.parts]
    for shares, top in zip(kinds, plan.tops, strict=True):
        total = max(1.0, sum(share for _, _, share, _ in shares))
        x = plan.left
        for kind, precision, share, tip in shares:
            length = (plan.right - plan.left) * share / total
            shape = rect(x, top, length - 1.5, plan.height, of_work(kind, precision)[0] + " fill")
            for text in (f"{kind} {100 * share:.0f} %", kind):
                if text_width(text) + 12 <= length:
                    shape += label(x + 6, top + plan.height / 2 + 4, text, "on")
                    break
            parts.append(tipped(shape, tip))
            x += length
    return parts, plan.bottom + 4


def _waste(shares: Sequence[tuple[str, str, float, str]]) -> str:
    """How much of the time goes into conversions."""
    share = sum(s for kind, p, s, _ in shares if of_work(kind, p)[1] == "conversion")
    return f"{100 * share:.0f} % conversions" if share else "no conversions"


def _stacked(
    rows: Sequence[Any],
    amounts: Sequence[Sequence[float]],
    colours: Sequence[tuple[str, str]],
    figures: Sequence[Sequence[str]],
    tips: Sequence[Sequence[str]],
    axis_title: str,
    width: float,
) -> Drawing:
    """Stacked bars from 0, a lane a row."""
    key, below = legend(colours, width) if len(colours) > 1 else ([], 0.0)
    plan = lanes(width, titles(rows), figures, 20 if width > 600 else 16, top=below + 8)
    scale = spanning([0.0, *(sum(bar) for bar in amounts)], plan.left, plan.right, zero=True)
    axis, height = x_axis(scale, below, plan.bottom + 6, width, axis_title)
    parts = [*axis, *key, *plan.parts]
    for bar, hints, top in zip(amounts, tips, plan.tops, strict=True):
        before = 0.0
        for amount, hint, (colour, _) in zip(bar, hints, colours, strict=True):
            x = scale(before)
            before += amount
            if amount > 0:
                parts.append(
                    tipped(rect(x, top, scale(before) - x, plan.height, f"{colour} fill"), hint)
                )
    return parts, height


def cold(document: Document) -> Figure | None:
    """Import, load and first answer of a fresh process, stacked, in ms."""
    parts = (
        _Part("import_ms", "import", "s0"),
        _Part("load_ms", "load", "s1"),
        _Part("first_ms", "first answer", "s5"),
    )
    caption = "One fresh process a row, from start to first answer."
    return _of_parts(document, "cold", "Cold start", caption, parts, "ms", 1, milliseconds)


def memory(document: Document) -> Figure | None:
    """Peak memory of the process, and of the GPU where it is known, in MB."""
    parts = _Part("peak_rss_bytes", "process", "s1"), _Part("gpu_bytes", "GPU", "s7")
    caption = "Peak resident memory beyond the imports."
    return _of_parts(
        document, "memory", "Memory", caption, parts, "MB", 1e6,
        lambda megabytes: format_bytes(1e6 * megabytes),
    )  # fmt: skip


class _Part(NamedTuple):
    """A figure of a row: its key, what it is called, and its colour in the page."""

    key: str
    called: str
    colour: str


def _of_parts(
    document: Document,
    kind: str,
    title: str,
    caption: str,
    parts: Sequence[_Part],
    unit: str,
    size: float,
    written: Callable[[float], str],
) -> Figure | None:
    """Bars of rows that have any of the parts, stacked; `size` of what is reported are a `unit`."""
    every = [
        row
        for row in mappings(document, "rows")
        if any(number(row, part.key) is not None for part in parts)
    ]
    if not every:
        return None
    rows = telling(every)
    there = [one for one in parts if any(number(row, one.key) is not None for row in rows)]
    amounts = [[max(number(row, one.key) or 0.0, 0.0) / size for one in there] for row in rows]
    colours = [(one.colour, one.called) for one in there]
    said = [
        [f"{one.called} {written(value)}" for one, value in zip(there, bar, strict=True)]
        for bar in amounts
    ]
    figures = [[written(sum(bar))] for bar in amounts]
    whole = f"{subset(len(rows), len(every))} {caption}".strip()
    described = ". ".join(
        f"{name(row)}: {', '.join(words)}" for row, words in zip(rows, said, strict=True)
    )
    return drawn(
        kind, title, whole, described,
        lambda width: _stacked(rows, amounts, colours, figures, said, unit, width),
    )  # fmt: skip
