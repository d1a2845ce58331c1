"""What `bench` found, as one HTML page that needs nothing but a browser."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from edgedl.report.bars import cold, forest, memory, operators
from edgedl.report.curves import history as history_figure
from edgedl.report.curves import load, pareto
from edgedl.report.listing import Column, columns, ratios, words
from edgedl.report.palette import DARK, LIGHT, SERIES, series
from edgedl.report.reading import (
    Document,
    figure,
    headline,
    is_valid,
    lede,
    mappings,
    name,
    number,
    reasons,
    sentences,
    short_names,
    times,
    winner,
    word,
)
from edgedl.report.section import doubts, machine, raw, section
from edgedl.report.spread import distribution
from edgedl.report.staged import HEADING, NOTE, staged
from edgedl.report.svg import Figure

CHUNK = 200
LONGEST_NAME = 72
BREAKS = re.compile(r"([/_-])(?=[^;]{3})")
MOST_BESIDE_THE_HEADLINE = 3


def page(
    document: Document,
    samples: Mapping[str, np.ndarray],
    history: Sequence[Document],
) -> str:
    """The report as one self-contained HTML page that asks nothing of any network.

    Args:
        document: what `bench --json` prints; figures that are missing or null are left out.
        samples: raw latencies in ms by artifact, any number of them.
        history: earlier documents of the same kind, in any order.
    """
    figures: list[Figure | None] = [
        forest(document),
        distribution(document, samples),
        pareto(document),
        operators(document),
        load(document),
    ]
    later = [history_figure(document, history), cold(document), memory(document)]
    sections = [
        _rows(document),
        *(figure_section(found) for found in figures if found),
        _stages(document),
        _rates(document),
        *(figure_section(found) for found in later if found),
        machine(document),
        doubts(document),
        raw(document),
    ]
    title = escape(headline(document))
    return whole(title, (_head(document), *sections), script=_file("page.js"))


def whole(title: str, parts: Iterable[str], script: str = "") -> str:
    """A page of these parts, all it needs inside; it asks nothing of any network.

    Args:
        title: as HTML.
        script: what runs in it; without one, none may.
    """
    scripts = " script-src 'unsafe-inline';" if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"style-src 'unsafe-inline';{scripts} img-src data:\">\n"
        f'<link rel="icon" href="data:,">\n<title>{title}</title>\n'
        f"<style>\n{style()}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + (f"\n<script>\n{script}</script>" if script else "")
        + "\n</main>\n</body>\n</html>\n"
    )


def _file(name_: str) -> str:
    return files("edgedl.report").joinpath(name_).read_text(encoding="utf-8")


def style() -> str:
    """The palette as variables, light and dark, and the sheet."""
    light, dark = (
        ";".join(f"--{key}:{value}" for key, value in colours.items()) for colours in (LIGHT, DARK)
    )
    tints = "".join(f".s{i}{{color:var(--s{i})}}" for i in range(SERIES))
    return (
        f":root{{color-scheme:light dark;{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
        f"{tints}\n{_file('page.css')}"
    )


def _head(document: Document) -> str:
    when = word(document, "time").replace("T", " ").replace("Z", " UTC")
    kicker = "<b>edgedl bench</b>" + (f" &nbsp;{escape(when)}" if when else "")
    text = escape(headline(document)) + "."
    found = winner(document)
    if found is not None and "[" in text:
        before, _, rest = text.rpartition(" [")
        inside, _, after = rest.partition("]")
        text = f'{before} <span class="range">[{inside}]</span>{after}'
    parts = [f'<p class="kicker">{kicker}</p>', f"<h1>{text}</h1>"]
    if below := lede(document):
        parts.append(f'<p class="lede">{escape(below)}</p>')
    if command := word(document, "command"):
        parts.append(f'<p class="command"><code>{escape(command)}</code></p>')
    return f"<header>{''.join(parts)}{_notice(document)}</header>"


def _notice(document: Document) -> str:
    """Rows that are not valid, and the first doubts, beside the headline."""
    rows = mappings(document, "rows")
    broken = [name(row) for row in rows if not is_valid(row)]
    said = sentences(document)
    parts = []
    if broken:
        some = ", ".join(broken[:5]) + (f" and {len(broken) - 5:,} more" if broken[5:] else "")
        what = "1 row is" if len(broken) == 1 else f"{len(broken):,} rows are"
        parts.append(
            f"<p><strong>{what} not valid</strong> and must not be used: {escape(some)}.</p>"
        )
        parts += [f"<p>{escape(why)}</p>"] if (why := reasons(rows)) else []
    if said:
        count = "1 doubt" if len(said) == 1 else f"{len(said):,} doubts"
        parts.append(f'<p><strong><a href="#doubts">{count}</a></strong></p>')
        shown = said[:MOST_BESIDE_THE_HEADLINE]
        parts.append("<ul>" + "".join(f"<li>{escape(doubt)}</li>" for doubt in shown) + "</ul>")
    return f'<aside class="notice" aria-label="Caution">{"".join(parts)}</aside>' if parts else ""


def figure_section(found: Figure) -> str:
    """A figure with its caption as a section of a page."""
    caption = f"<figcaption>{escape(found.caption)}</figcaption>" if found.caption else ""
    return section(found.key, found.heading, f"<figure>{found.drawing}{caption}</figure>")


def _rows(document: Document) -> str:
    rows = mappings(document, "rows")
    if not rows:
        return ""
    found, labels, pairs = columns(rows), words(rows), ratios(document)
    threads = {number(row, "threads") for row in rows}
    if len(threads) == 1:
        found = [column for column in found if column.head != "threads"]
    head = _table_head(found, labels, bool(pairs))
    best = min(
        (p50 for row in rows if is_valid(row) and (p50 := number(row, "latency_ms", "p50"))),
        default=None,
    )
    short = short_names([name(row) for row in rows])
    few = len(rows) <= CHUNK
    body = []
    for i, row in enumerate(rows):
        head_cell = _name(row, short[name(row)], series(i) if few else "")
        speed = _speed(pairs.get(name(row)), first=i == 0) if pairs else ""
        body.append(_row(row, head_cell, found, labels, speed, best))
    if few:
        tables = [f"<table>{head}<tbody>{''.join(body)}</tbody></table>"]
    else:
        widths = '<colgroup><col style="width:240px">' + (
            f'<col span="{len(labels) + len(found) + bool(pairs)}" style="width:92px"></colgroup>'
        )
        tables = [
            f'<div class="chunk"><table>{widths}{head}<tbody>{"".join(body[i : i + CHUNK])}'
            "</tbody></table></div>"
            for i in range(0, len(body), CHUNK)
        ]
    tools = (
        '<div class="tools" hidden><input type="search" placeholder="filter rows"'
        ' aria-label="filter rows"><output></output></div>'
    )
    joined = "\n".join(tables)
    return section(
        "rows",
        f"{len(rows):,} rows" if len(rows) > CHUNK else "Rows",
        f'{tools}<div class="scroll" tabindex="0" role="group" aria-label="table of rows">'
        f"{joined}</div>{_below(rows, threads)}",
    )


def _table_head(found: Sequence[Column], labels: Sequence[str], compared: bool) -> str:
    cells = ['<th scope="col">artifact</th>']
    cells += [f'<th scope="col" class="word">{escape(text)}</th>' for text in labels]
    for column in found:
        unit = f"<small>{escape(column.unit)}</small>" if column.unit else ""
        cells.append(f'<th scope="col">{escape(column.head)}{unit}</th>')
        if compared and column.keys == ("latency_ms", "p50"):
            cells.append('<th scope="col">speed<small>x the first</small></th>')
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def _name(row: Any, short: str, colour: str) -> str:
    """The first cell: a swatch where the plots use its colour, the name, and what is wrong."""
    shown = short if len(short) <= LONGEST_NAME else f"{short[:24]}…{short[25 - LONGEST_NAME :]}"
    text = escape(shown)
    swatch = ""
    if colour:
        text = BREAKS.sub(r"\1<wbr>", text)
        swatch = f'<span class="swatch {colour}"></span>'
    badge = "" if is_valid(row) else '<span class="badge">invalid</span>'
    tip = f' title="{escape(name(row))}"' if short != name(row) or len(short) > 28 else ""
    return f'<th scope="row" class="word"{tip}>{swatch}{text}{badge}</th>'


def _row(
    row: Any,
    head: str,
    found: Sequence[Column],
    labels: Sequence[str],
    speed: str,
    best: float | None,
) -> str:
    cells = [head]
    cells += [f'<td class="word">{escape(word(row, key)) or "-"}</td>' for key in labels]
    for column in found:
        if column.keys == ("latency_ms", "p50"):
            kind = ' class="best"' if best is not None and column.value(row) == best else ""
            cells.append(f"<td{kind}>{column.text(row)}</td>{speed}")
        else:
            cells.append(f"<td>{column.text(row)}</td>")
    kind = "" if is_valid(row) else ' class="invalid"'
    return f"<tr{kind}>{''.join(cells)}</tr>"


def _speed(pair: Any, *, first: bool) -> str:
    ratio = number(pair, "ratio")
    if ratio is None:
        return "<td>1</td>" if first else "<td>-</td>"
    kind = word(pair, "verdict")
    known = f' class="{kind}"' if kind in ("faster", "slower") else ""
    return f"<td{known}>{times(ratio)}</td>"


def _below(rows: Sequence[Any], threads: Collection[float | None]) -> str:
    """What holds for all rows: how many threads, and how the energy was metered."""
    parts = []
    if len(threads) == 1 and (count := next(iter(threads))):
        parts.append(f"{count:.0f} thread{'s' * (count != 1)} each.")
    row = next((row for row in rows if isinstance(row.get("energy"), Mapping)), None)
    if row is not None:
        parts.append(_energy(row["energy"]))
    return f'<p class="note">{escape(" ".join(parts))}</p>' if parts else ""


def _energy(energy: Mapping[str, Any]) -> str:
    parts = ["Energy is per answer"]
    if (idle := number(energy, "idle_w")) is not None:
        parts.append(f"net of {figure(idle)} W at idle")
    if (window := number(energy, "window_s")) is not None:
        parts.append(f"over {figure(window)} s")
    windows = energy.get("windows_mj")
    if isinstance(windows, Sequence) and len(windows) > 1:
        parts.append(f"the median of {len(windows)} such windows")
    rails = energy.get("rails")
    if isinstance(rails, (Mapping, Sequence)) and rails and not isinstance(rails, str):
        parts.append("on " + ", ".join(str(rail) for rail in rails))
    if mode := word(energy, "power_mode"):
        parts.append(f"in power mode {mode}")
    return ", ".join(parts) + "."


def _stages(document: Document) -> str:
    """Samples on their way from their files to their answers."""
    rows = mappings(document, "rows")[:CHUNK]
    lines = staged(rows)
    if not lines:
        return ""
    head, *body = lines
    short = short_names([line[0] for line in body])
    cells = "".join(f'<th scope="col">{escape(text)}</th>' for text in head[1:])
    texts = []
    for line in body:
        text = BREAKS.sub(r"\1<wbr>", escape(short[line[0]]))
        figures = "".join(f"<td>{escape(cell)}</td>" for cell in line[1:])
        texts.append(f'<tr><th scope="row" class="word">{text}</th>{figures}</tr>')
    return section(
        "stages",
        HEADING.capitalize(),
        '<div class="scroll" tabindex="0" role="group" aria-label="table of stages"><table>'
        f'<thead><tr><th scope="col">artifact</th>{cells}</tr></thead>'
        f'<tbody>{"".join(texts)}</tbody></table></div><p class="note">{escape(NOTE)}</p>',
    )


def _rates(document: Document) -> str:
    """Throughput by batch and streams."""
    rows = [row for row in mappings(document, "rows") if mappings(row, "rates")][:CHUNK]
    kinds = sorted(
        {
            (number(rate, "batch") or 0, number(rate, "streams") or 0)
            for row in rows
            for rate in mappings(row, "rates")
        }
    )
    if not kinds:
        return ""
    cells = "".join(
        f'<th scope="col">{batch:.0f} x {streams:.0f}<small>per s</small></th>'
        for batch, streams in kinds
    )
    body, short = [], short_names([name(row) for row in rows])
    for row in rows:
        known = {
            (number(rate, "batch") or 0, number(rate, "streams") or 0): number(rate, "per_s")
            for rate in mappings(row, "rates")
        }
        figures = "".join(f"<td>{figure(known.get(kind))}</td>" for kind in kinds)
        text = BREAKS.sub(r"\1<wbr>", escape(short[name(row)]))
        body.append(f'<tr><th scope="row" class="word">{text}</th>{figures}</tr>')
    return section(
        "throughput",
        "Throughput",
        '<div class="scroll" tabindex="0" role="group" aria-label="table of throughput"><table>'
        f'<thead><tr><th scope="col">artifact</th>{cells}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
        '<p class="note">Samples a second by batch x streams.</p>',
    )
