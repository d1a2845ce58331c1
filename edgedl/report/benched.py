"""What `bench` found, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgedl.core.units import format_bytes, format_ms
from edgedl.report.profiled import text as profile_text
from edgedl.report.reading import short_names
from edgedl.report.staged import staged
from edgedl.report.table import table

Document = Mapping[str, Any]


def text(document: Document) -> str:
    """The contract's document of `bench` as tables."""
    names = short_names([row["artifact"] for row in document["rows"]])
    rows = [{**row, "artifact": names[row["artifact"]]} for row in document["rows"]]
    parts = [_main(rows), _pairs(document, names)]
    sections = (
        _alone(rows),
        table(staged(rows), right=range(1, 6)),
        _rates(rows),
        _load(rows),
        _energy(rows),
        _profile(rows),
    )
    parts += [section for section in sections if section]
    if document["doubts"]:
        parts.append("\n".join(f"doubt: {doubt}" for doubt in document["doubts"]))
    return "\n\n".join(parts)


def _main(rows: Sequence[Document]) -> str:
    lines = [["artifact", "engine", "precision", "p50", "p90", "p99", "accuracy", "bytes", ""]]
    for row in rows:
        latency = row["latency_ms"] or {}
        lines.append(
            [
                row["artifact"],
                row["engine"],
                row["precision"],
                *(_ms(latency.get(name)) for name in ("p50", "p90", "p99")),
                _answers(row),
                format_bytes(row["bytes"]),
                "" if row["valid"] else "not valid",
            ]
        )
    problems = [f"{row['artifact']}: {row['problem']}" for row in rows if not row["valid"]]
    return "\n".join([table(lines, right=range(3, 8)), *problems])


def _answers(row: Document) -> str:
    accuracy, agreement = row.get("accuracy"), row.get("agreement")
    if accuracy is not None:
        figure = accuracy.get("figure") or {"name": accuracy["metric"], "value": accuracy["value"]}
        return f"{figure['name']} {figure['value']:.4f}"
    return "" if agreement is None else f"cosine {agreement['cosine']:.4f}"


def _pairs(document: Document, names: Mapping[str, str]) -> str:
    lines = [_against(pair, names) for pair in document["pairs"]]
    if document.get("confirmed"):
        lines.append(f"on new rounds: {_against(document['confirmed'], names)}")
    if document["noise_floor"] is not None:
        count = document["processes"]
        floor = f"noise floor {100 * document['noise_floor']:.1f} %"
        lines.append(f"{floor}, from {count} fresh process{'es' * (count != 1)}")
    return "\n".join(lines)


def _against(pair: Document, names: Mapping[str, str]) -> str:
    ratio = f"{pair['ratio']:.2f}x [{pair['low']:.2f}, {pair['high']:.2f}]"
    return f"{names[pair['b']]} against {names[pair['a']]}: {ratio} {pair['verdict']}"


def _alone(rows: Sequence[Document]) -> str:
    head = ["alone, in a fresh process", "import", "load", "first", "end to end", "calls/s"]
    lines = [[*head, "memory", "compressed"]]
    for row in rows:
        if row["load_ms"] is None:
            continue
        whole, memory = row["end_to_end_ms"], row["peak_rss_bytes"]
        lines.append(
            [
                row["artifact"],
                *(format_ms(row[f"{name}_ms"]) for name in ("import", "load", "first")),
                "" if whole is None else _ms(whole["p50"]),
                _rate(row["throughput_per_s"]),
                "-" if memory is None else format_bytes(memory),
                format_bytes(row["compressed_bytes"]),
            ]
        )
    return table(lines, right=range(1, 8)) if len(lines) > 1 else ""


def _rates(rows: Sequence[Document]) -> str:
    lines = [["throughput", "batch", "streams", "samples/s", ""]]
    for row in rows:
        for rate in row.get("rates") or ():
            speed = "-" if rate["per_s"] is None else _rate(rate["per_s"])
            problem = rate["problem"] or ""
            cells = [str(rate["batch"]), str(rate["streams"]), speed, problem]
            lines.append([row["artifact"], *cells])
    return table(lines, right=(1, 2, 3)) if len(lines) > 1 else ""


def _load(rows: Sequence[Document]) -> str:
    lines = [["under load", "offered/s", "answered/s", "p50", "p90", "p99", ""]]
    after = []
    for row in rows:
        lines += [
            [
                row["artifact"],
                _rate(point["rate_per_s"]),
                _rate(point["achieved_per_s"]),
                *(_ms(point[f"{name}_ms"]) for name in ("p50", "p90", "p99")),
                "" if point["kept"] else "falls behind",
            ]
            for point in row.get("load") or ()
        ]
        best = row.get("highest_rate")
        if best is not None:
            limit = f"p99 within {format_ms(best['p99_ms'])}"
            rate = best["rate_per_s"]
            found = "no rate" if rate is None else f"up to {_rate(rate)} calls/s"
            reason = f" ({best['reason']})" if best["reason"] else ""
            after.append(f"{row['artifact']}: {found} with {limit}{reason}")
    if len(lines) == 1 and not after:
        return ""
    return "\n".join([table(lines, right=range(1, 6)), *after])


def _energy(rows: Sequence[Document]) -> str:
    lines = [["energy a call", "net", "gross", "idle", "rails"]]
    for row in rows:
        energy = row.get("energy")
        if energy is not None:
            lines.append(
                [
                    row["artifact"],
                    f"{energy['net_mj']:.3g} mJ{_windows(energy)}",
                    f"{energy['gross_mj']:.3g} mJ",
                    f"{energy['idle_w']:.3g} W",
                    ", ".join(energy["rails"]),
                ]
            )
    return table(lines, right=(1, 2, 3)) if len(lines) > 1 else ""


def _windows(energy: Mapping[str, Any]) -> str:
    """How far the windows of work were apart, where the figure is the median of several."""
    count = len(energy["windows_mj"])
    least, most = energy["least_mj"], energy["most_mj"]
    return f" (median of {count}, {least:.3g} to {most:.3g})" if count > 1 else ""


def _profile(rows: Sequence[Document]) -> str:
    known = [row for row in rows if row.get("profile")]
    if not known:
        return ""
    profiles = [
        {"artifact": r["artifact"], "engine": r["engine"], "rows": r["profile"], **r["profiled"]}
        for r in known
    ]
    parts = [profile_text({"profiles": profiles})]
    for row in known:
        if row.get("slowest"):
            lines = [[f"slowest of {row['artifact']}", "kind", "precision", "us"]]
            lines += [
                [o["name"], o["kind"], o["precision"], f"{o['us']:.1f}"] for o in row["slowest"]
            ]
            parts.append(table(lines, right=(3,)))
    return "\n\n".join(parts)


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else format_ms(milliseconds)


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.3g}"
