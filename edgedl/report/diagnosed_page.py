"""What `diagnose` found, as Markdown and as one HTML page with the error along the graph."""

from __future__ import annotations

import json
from html import escape

from edgedl.report.diagnosed import (
    Cause,
    Diagnosis,
    TensorRow,
    percent,
    share_text,
    short,
    shown_tensors,
    tensor_cells,
)
from edgedl.report.page import whole
from edgedl.report.scale import spanning
from edgedl.report.svg import (
    Drawing,
    Figure,
    drawn,
    element,
    label,
    legend,
    polyline,
    tipped,
    x_axis,
    y_axis,
)
from edgedl.report.table import markdown

HEIGHT_PX = 280.0
MOST_MARKS = 200
MOST_ROWS = 400


def page(found: Diagnosis) -> str:
    """The diagnosis as one self-contained HTML page that asks nothing of any network."""
    title = escape(f"{found.model} against {found.compressed}")
    sections = [
        *(_cause(cause) for cause in found.causes),
        *(_cause(cause, "Elsewhere") for cause in found.warnings),
        _along(found),
        _operators(found),
        _tensors(found),
        _listed("Doubts", found.doubts),
        _document(found),
    ]
    head = (
        f'<header><p class="kicker"><b>edgedl diagnose</b> &nbsp;{title}</p>'
        f'<h1>{escape(found.verdict)}.</h1><p class="lede">{escape(_lede(found))}</p></header>'
    )
    return whole(title, (head, *sections))


def _lede(found: Diagnosis) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.quantizers.items() if count)
    return f"{found.engine}, {found.samples['answers']} samples; quantizers: {kinds or 'none'}."


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>\n{content}</section>" if content else ""


def _cause(cause: Cause, before: str = "") -> str:
    share = "" if cause.share is None else f" ({share_text(cause.share)} of the loss)"
    heading = f"{before + ': ' if before else ''}{cause.name.replace('_', ' ')}{share}"
    items = "".join(f"<li>{escape(line)}</li>" for line in cause.evidence)
    command = (
        f'<p class="command"><code>{escape(cause.command)}</code></p>' if cause.command else ""
    )
    return _section(heading, f"<p>{escape(cause.sentence)}.</p><ul>{items}</ul>{command}")


def _along(found: Diagnosis) -> str:
    figure = along(found.tensors)
    if figure is None:
        return ""
    return _section(
        figure.heading,
        f"<figure>{figure.drawing}<figcaption>{escape(figure.caption)}</figcaption></figure>",
    )


def along(rows: tuple[TensorRow, ...]) -> Figure | None:
    """Noise over signal along the graph: what is there, and what each place adds."""
    if len(rows) < 2:
        return None
    said = ". ".join(f"{row.tensor}: {row.sqnr_db:.1f} dB" for row in shown_tensors(rows))
    return drawn(
        "along", "Error along the graph",
        "Signal to quantization noise in decibels, tensor by tensor, from the input to the output;"
        " lower is worse. Hollow marks: what the quantizers at this place would leave by"
        " themselves.",
        said, lambda width: _plot(rows, width),
    )  # fmt: skip


def _plot(rows: tuple[TensorRow, ...], width: float) -> Drawing:
    here = [max(min(row.sqnr_db, 80.0), -20.0) for row in rows]
    own = [max(min(_decibels(row.added), 80.0), -20.0) for row in rows]
    key, below = legend([("s2", "with all quantizers on"), ("s0", "added here")], width)
    left, right, top = 54.0, width - 10, below + 26
    bottom = top + (HEIGHT_PX if width > 600 else 220)
    x_scale = spanning([0.0, float(len(rows) - 1)], left + 8, right - 8, pad=0.02)
    y_scale = spanning([*here, *own], bottom, top, pad=0.06)
    parts = [*key, *y_axis(y_scale, left, right, "SQNR, dB")]
    axis, height = x_axis(x_scale, top, bottom, width, "tensors in graph order")
    parts += axis
    places = [(x_scale(i), y_scale(value)) for i, value in enumerate(here)]
    parts.append(polyline(places, "s2"))
    for i, row in enumerate(rows[:MOST_MARKS]):
        tip = f"{row.tensor}: {row.sqnr_db:.1f} dB, added here {percent(row.added)}"
        x, y = places[i]
        parts.append(tipped(element("circle", cx=x, cy=y, r=2.5, class_="s2 mark"), tip))
        mark = element("circle", cx=x, cy=y_scale(own[i]), r=2.5, class_="s0 hollow")
        parts.append(tipped(mark, tip))
    worst = min(range(len(rows)), key=lambda i: own[i])
    x = x_scale(worst)
    anchor = "end" if x > width / 2 else "start"
    words = short(rows[worst].tensor, 28)
    parts.append(label(x, y_scale(own[worst]) + 14, words, "key", anchor, rows[worst].tensor))
    return parts, height


def _decibels(ratio: float) -> float:
    from edgedl.core.stats import decibels

    return decibels(1.0, ratio)


def _table(head: list[str], body: list[list[str]], words: int = 1) -> str:
    cells = "".join(
        f'<th scope="col"{" class=word" if i < words else ""}>{escape(text)}</th>'
        for i, text in enumerate(head)
    )
    lines = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=word' if i < words else ''}>{escape(text)}</td>"
            for i, text in enumerate(row)
        )
        + "</tr>"
        for row in body
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _operator_rows(found: Diagnosis) -> list[list[str]]:
    return [
        [row.operator, row.kind, percent(row.alone), f"{100 * row.share:.1f} %"]
        for row in found.operators[:MOST_ROWS]
    ]


def _operators(found: Diagnosis) -> str:
    rows = _operator_rows(found)
    return _section(
        "Operators, one at a time",
        _table(["operator", "kind", "noise alone", "share"], rows, 2) if rows else "",
    )


TENSOR_HEAD = [
    "tensor", "made by", "matched by", "SQNR", "cosine", "added", "inherited", "range used",
    "range of codes", "clipped", "dead codes",
]  # fmt: skip


def _tensor_rows(rows: list[TensorRow]) -> list[list[str]]:
    return [[row.tensor, row.operator, row.matched, *tensor_cells(row)] for row in rows]


def _tensors(found: Diagnosis) -> str:
    rows = _tensor_rows(list(found.tensors[:MOST_ROWS]))
    return _section("Tensor by tensor", _table(TENSOR_HEAD, rows, 3) if rows else "")


def _listed(heading: str, lines: tuple[str, ...]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return _section(heading, f'<ul class="doubts">{items}</ul>' if items else "")


def _document(found: Diagnosis) -> str:
    text = json.dumps(found.to_json(), indent=2)
    return _section(
        "Document",
        "<details><summary>What <code>diagnose --json</code> prints</summary>"
        f"<pre>{escape(text, quote=False)}</pre></details>",
    )


def to_markdown(found: Diagnosis) -> str:
    """The diagnosis as Markdown: verdict, causes, commands, operators, tensors."""
    parts = [f"# {_plain(found.model)} against {_plain(found.compressed)}", _plain(found.verdict)]
    for heading, causes in (("Causes", found.causes), ("Elsewhere", found.warnings)):
        if causes:
            parts.append(f"## {heading}")
        for cause in causes:
            share = "" if cause.share is None else f", {share_text(cause.share)} of the loss"
            lines = "\n".join(f"- {_plain(line)}" for line in cause.evidence)
            parts.append(f"**{cause.name.replace('_', ' ')}**{share}: {_plain(cause.sentence)}")
            parts += [lines] if lines else []
            parts += [f"    {cause.command}"] if cause.command else []
    if rows := _operator_rows(found)[:20]:
        head = ["operator", "kind", "noise alone", "share"]
        parts.append(markdown([head, *map(_cells, rows)], right=(2, 3)))
    if found.tensors:
        body = [_cells(row) for row in _tensor_rows(shown_tensors(found.tensors, 20))]
        parts.append(markdown([TENSOR_HEAD, *body], right=(3, 4, 5, 6, 9, 10)))
    if found.doubts:
        parts.append("**Doubts**\n\n" + "\n".join(f"- {_plain(doubt)}" for doubt in found.doubts))
    return "\n\n".join(parts) + "\n"


def _cells(row: list[str]) -> list[str]:
    return [_plain(cell).replace("|", "\\|") for cell in row]


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;").replace(">", "&gt;")
