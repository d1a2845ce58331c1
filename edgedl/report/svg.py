"""Pictures as inline SVG 2: text that fits, axes, lanes, and a title for those who cannot see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from edgedl.report.scale import Scale, ticks

TEXT_PX = 12.0
TICK_PX = 11.0
WIDE, NARROW = 960.0, 328.0
Drawing = tuple[list[str], float]
_NARROW_LETTERS = frozenset("iljtfrI.,:;'|!()[]/ -")
_WIDE_LETTERS = frozenset("mwMW@%")


def text_width(text: str, size: float = TEXT_PX) -> float:
    """Pixels that a text may take, for the widest of the common sans-serif fonts."""
    em = 0.0
    for letter in text:
        if ord(letter) > 0x2E7F:
            em += 1.05
        elif letter in _NARROW_LETTERS:
            em += 0.42
        elif letter in _WIDE_LETTERS:
            em += 1.02
        else:
            em += 0.72 if letter.isupper() else 0.65
    return em * size


def elide(text: str, room: float, size: float = TEXT_PX) -> str:
    """The text, or its beginning and its end, so that it takes no more than `room` pixels."""
    if text_width(text, size) <= room:
        return text
    for kept in range(min(len(text) - 1, 200), 1, -1):
        head = kept // 3
        short = text[:head] + "…" + text[len(text) - (kept - head) :]
        if text_width(short, size) <= room:
            return short
    return "…"


def place(value: float) -> str:
    """A coordinate in tenths of a pixel."""
    return f"{round(value, 1) + 0.0:.1f}".removesuffix(".0")


def element(tag: str, content: str = "", /, **attributes: str | float) -> str:
    """An element; `class_` is `class`, other underscores are hyphens, text values are escaped."""
    words = [
        f' {key.rstrip("_").replace("_", "-")}="'
        + (escape(value) if isinstance(value, str) else place(value))
        + '"'
        for key, value in attributes.items()
    ]
    return f"<{tag}{''.join(words)}>{content}</{tag}>"


def label(
    x: float, y: float, text: str, kind: str = "", anchor: str = "start", full: str = ""
) -> str:
    """Text at a place; `full` is shown where the pointer rests."""
    tip = element("title", escape(full)) if full and full != text else ""
    words: dict[str, str | float] = {"x": x, "y": y}
    if kind:
        words["class_"] = kind
    if anchor != "start":
        words["text_anchor"] = anchor
    return element("text", tip + escape(text), **words)


def tipped(shape: str, tip: str) -> str:
    """A shape that shows a text where the pointer rests."""
    return element("g", element("title", escape(tip)) + shape)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return element(
        "path", d=f"M{place(x1)} {place(y1)}L{place(x2)} {place(y2)}", class_=f"{kind} line"
    )


def polyline(points: Iterable[tuple[float, float]], kind: str) -> str:
    """A line through points."""
    path = "L".join(f"{place(x)} {place(y)}" for x, y in points)
    return element("path", d="M" + path, class_=f"{kind} line") if path else ""


def dots(points: Iterable[tuple[float, float]], kind: str) -> str:
    """Many small dots as one path."""
    path = "".join(f"M{place(x)} {place(y)}h0" for x, y in points)
    return element("path", d=path, class_=f"{kind} dots")


def rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A filled box."""
    return element("rect", x=x, y=y, width=max(width, 0.5), height=height, class_=kind)


def picture(
    parts: Iterable[str], width: float, height: float, *, title: str, description: str, key: str
) -> str:
    """One `<svg>` with its title and description; `key` is unique on the page."""
    kind = "wide" if width > 600 else "narrow"
    words = element("title", escape(title), id=f"{key}-{kind}-title")
    words += element("desc", escape(description), id=f"{key}-{kind}-desc")
    return element(
        "svg",
        words + "".join(parts),
        class_=kind,
        viewBox=f"0 0 {place(width)} {place(height)}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=f"{key}-{kind}-title {key}-{kind}-desc",
    )


@dataclass(frozen=True)
class Figure:
    """A section of the page: its anchor, its heading, pictures as SVG, and the words below them."""

    key: str
    heading: str
    drawing: str
    caption: str


def drawn(
    key: str, heading: str, caption: str, description: str, draw: Callable[[float], Drawing]
) -> Figure:
    """A figure drawn twice: for a desk, and for a phone, of which the page shows one."""
    pictures = []
    for width in (WIDE, NARROW):
        parts, height = draw(width)
        pictures.append(
            picture(parts, width, height, title=heading, description=description, key=key)
        )
    return Figure(key, heading, "".join(pictures), caption)


@dataclass(frozen=True)
class Lanes:
    """Rows of a plot, each with a name and a figure beside it, or above it where it is narrow.

    `tops` are the upper edges of the bands, `height` px each, between `left` and `right`.
    """

    left: float
    right: float
    tops: tuple[float, ...]
    height: float
    bottom: float
    parts: tuple[str, ...]


def lanes(
    width: float,
    names: Sequence[tuple[str, str]],
    figures: Sequence[Sequence[str]],
    height: float,
    *,
    top: float = 4.0,
    gap: float = 12.0,
) -> Lanes:
    """Lay out lanes with (short, full) names and lines of figures, the first of them strong."""
    parts, tops, y = [], [], top
    wide = width > 600
    for (short, full), lines in zip(names, figures, strict=True):
        if wide:
            middle = y + height / 2 + 4
            parts.append(label(0, middle, elide(short, 232), "name", full=full))
            first = middle - 7.5 * (len(lines) - 1)
            for i, text in enumerate(lines):
                kind = "figure" if i == 0 else "figure soft"
                parts.append(label(width, first + 15 * i, text, kind, "end"))
            tops.append(y)
            y += height + gap
        else:
            text = lines[0] if lines else ""
            room = width - text_width(text) - 12
            parts.append(label(0, y + 11, elide(short, room), "name", full=full))
            parts.append(label(width, y + 11, text, "figure", "end"))
            tops.append(y + 18)
            y += 18 + height + gap
    left, right = (244.0, width - 150) if wide else (6.0, width - 6)
    return Lanes(left, right, tuple(tops), height, y - gap, tuple(parts))


def x_axis(
    scale: Scale,
    top: float,
    bottom: float,
    width: float,
    title: str,
    *,
    unit: str = "",
) -> Drawing:
    """Ticks, thin rules, labels and the axis' title below; and the y of the lower edge."""
    parts = []
    for value, words in ticks(scale, lambda t: text_width(t, TICK_PX) + 10, unit):
        x = scale(value)
        half = text_width(words, TICK_PX) / 2
        parts.append(line(x, top, x, bottom + 4, "rule"))
        centre = min(max(x, half), width - half)
        parts.append(label(centre, bottom + 17, words, "tick", "middle"))
    parts.append(label((scale.start + scale.end) / 2, bottom + 34, title, "axis", "middle"))
    return parts, bottom + 40


def y_axis(
    scale: Scale,
    left: float,
    right: float,
    title: str,
) -> list[str]:
    """Ticks, thin rules and labels to the left; the title stands above."""
    parts = [label(0, scale.end - 12, title, "axis")]
    for value, words in ticks(scale, lambda _: 24.0, most=7):
        y = scale(value)
        parts.append(line(left, y, right, y, "rule"))
        parts.append(label(left - 6, y + 4, words, "tick", "end"))
    return parts


def legend(
    entries: Sequence[tuple[str, str]], width: float, top: float = 0.0
) -> tuple[list[str], float]:
    """Swatches (colour's name, text), wrapped into the width; and the y below them."""
    parts, x, y = [], 0.0, top
    for colour, text in entries:
        short = elide(text, min(width - 18, 240))
        need = 16 + text_width(short) + 14
        if x and x + need - 14 > width:
            x, y = 0.0, y + 18
        parts.append(rect(x, y + 2, 10, 10, f"{colour} fill"))
        parts.append(label(x + 16, y + 11, short, "key", full=text))
        x += need
    return parts, y + 18 if entries else top
