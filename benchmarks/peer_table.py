"""The peers' table for people: the summary, a row a cell, and what failed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from peer_settings import DEFAULT, SETTINGS
from peer_time import OURS

from edgedl.core.units import format_bytes, format_ms
from edgedl.report.table import markdown

Row = Mapping[str, Any]
GOAL = 1.02
REASON = 160


def document(rows: Sequence[Row]) -> str:
    """All of it as Markdown."""
    return _joined(short(rows), table(rows), failures(rows), doubtful(rows))


def short(rows: Sequence[Row]) -> str:
    """The summary as Markdown."""
    return _joined(summary(rows), against_default(rows))


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def peer(row: Row, name: str | None) -> dict[str, Any] | None:
    found: dict[str, Any] | None = next((e for e in row["peers"] if e["name"] == name), None)
    return found


def beside(row: Row, key: str) -> dict[str, float] | None:
    """Time of edgedl over that of the row's best peer, or of its best of any agreement."""
    entry = peer(row, row.get(key))
    return entry["ratio"] if entry is not None else None


def summary(rows: Sequence[Row]) -> str:
    """By engine, threads and instruction set: how edgedl stands to the best peer that counts."""
    head = ["engine", "threads", "instructions", "models", "geometric mean", "worst"]
    lines = [[*head, f"over {GOAL}", "without an answer", "geometric mean, any agreement"]]
    for engine, threads, isa in dict.fromkeys((r["engine"], r["threads"], r["isa"]) for r in rows):
        group = [r for r in rows if (r["engine"], r["threads"], r["isa"]) == (engine, threads, isa)]
        found = {r["model"]: ratio["ratio"] for r in group if (ratio := beside(r, "best"))}
        loose = [ratio["ratio"] for r in group if (ratio := beside(r, "best_of_any"))]
        lost = [r["model"] + _nor_peers(r) for r in group if r[OURS]["problem"]]
        if not found:
            lines.append([engine, str(threads), isa or "all", "0", *[""] * 3, ", ".join(lost), ""])
            continue
        worst = max(found, key=lambda model: found[model])
        over = [model for model, ratio in found.items() if ratio > GOAL]
        lines.append(
            [
                engine,
                str(threads),
                isa or "all",
                str(len(found)),
                f"{geometric_mean(list(found.values())):.3f}",
                f"{found[worst]:.3f} ({worst})",
                f"{len(over)}" + (f" ({', '.join(over)})" if over else ""),
                ", ".join(lost) or "none",
                f"{geometric_mean(loose):.3f}",
            ]
        )
    text = "Time of edgedl over the time of the best peer setting with no worse agreement; less"
    return f"{text} than 1 is faster:\n\n" + markdown(lines, right=(1, 3, 4, 8))


def _nor_peers(row: Row) -> str:
    return "" if any(not entry["problem"] for entry in row["peers"]) else " (nor from any peer)"


def against_default(rows: Sequence[Row]) -> str:
    """How much faster `--target cpu` is than `quantize_static` as documented, on onnxruntime."""
    sentences = []
    group = [r for r in rows if r["engine"] == "cpu" and not r[OURS]["problem"]]
    for threads in dict.fromkeys(r["threads"] for r in group):
        entries = [
            (row["model"], entry)
            for row in group
            if row["threads"] == threads
            for entry in row["peers"]
            if entry["setting"] == DEFAULT
        ]
        faster = {model: 1 / e["ratio"]["ratio"] for model, e in entries if e["ratio"]}
        # Too slow to be timed beside the others: the rough figure is the best there is.
        rough = {
            row["model"]: entry["rough_ms"] / row[OURS]["p50_ms"]
            for row in group
            if row["threads"] == threads and row[OURS]["p50_ms"]
            for entry in row["peers"]
            if entry["setting"] == DEFAULT and not entry["ratio"] and not entry["problem"]
        }
        every = faster | rough
        broken = [model for model, e in entries if e["problem"] and not e["skipped"]]
        if not every:
            continue
        sentence = (
            f"Beside `quantize_static` as documented, on onnxruntime, {_threads(threads)}:"
            f" `--target cpu` is {geometric_mean(list(every.values())):.2f} times faster"
            f" (geometric mean of {len(every)} models, {min(every.values()):.2f} to"
            f" {max(every.values()):.2f})"
        )
        if broken:
            sentence += f"; its file does not run for {', '.join(broken)}"
        sentences.append(sentence + ".")
    return "\n".join(sentences)


def table(rows: Sequence[Row]) -> str:
    """A row a cell; of two figures in one, the first is edgedl's and the second the peer's."""
    head = ["model", "engine", "threads", "float32", OURS, "best peer", f"{OURS} / peer"]
    head += ["peer of any agreement", "top-1", "cosine", "dB", "accuracy, float's last", "bytes"]
    head += ["seconds", "peak memory", "failed"]
    return markdown([head, *(_line(row) for row in rows)], right=(2, 3, 4, 6))


def _line(row: Row) -> list[str]:
    ours, floats = row[OURS], _floats(row)
    best, loose = peer(row, row.get("best")), peer(row, row.get("best_of_any"))
    tried = [e for e in row["peers"] if SETTINGS[e["setting"]].is_made and not e["skipped"]]
    failed = sum(bool(e["problem"]) for e in tried)
    both = (ours, best)
    return [
        row["model"],
        row["engine"] + (f", {row['isa']}" if row["isa"] else ""),
        str(row["threads"]),
        _ms(floats),
        _cell(ours["problem"][:80]) or _ms(ours),
        f"{best['name']} {_ms(best)}" if best else "",
        _ratio(best),
        f"{loose['name']} {_ratio(loose, short=True)}" if loose and loose is not best else "",
        _pair(_alike(entry, "top1", ".3f") for entry in both),
        _pair(_alike(entry, "cosine", ".4f") for entry in both),
        _pair(_alike(entry, "sqnr_db", ".1f") for entry in both),
        _pair(_accuracy(entry) for entry in (*both, floats)),
        _pair(_amount(entry, "bytes", format_bytes) for entry in both),
        _pair(_amount(entry, "seconds", "{:.1f}".format) for entry in both),
        _pair(_amount(entry, "peak_rss_bytes", format_bytes) for entry in both),
        f"{failed} of {len(tried)}",
    ]


def _floats(row: Row) -> dict[str, Any] | None:
    found = [e for e in row["peers"] if e["setting"] == "float32" and e["p50_ms"] is not None]
    return min(found, key=lambda e: float(e["p50_ms"]), default=None)


def _ms(entry: Mapping[str, Any] | None) -> str:
    return format_ms(entry["p50_ms"]) if entry and entry["p50_ms"] is not None else ""


def _ratio(entry: Mapping[str, Any] | None, *, short: bool = False) -> str:
    if entry is None or entry["ratio"] is None:
        return ""
    found = entry["ratio"]
    text = f"{found['ratio']:.3f}"
    return text if short else f"{text} [{found['low']:.3f}, {found['high']:.3f}]"


def _pair(texts: Iterable[str]) -> str:
    """Figures side by side; a dash where there is none, nothing where there is not one."""
    found = list(texts)
    return " / ".join(text or "-" for text in found) if any(found) else ""


def _alike(entry: Mapping[str, Any] | None, key: str, form: str) -> str:
    found = entry["agreement"] if entry is not None else None
    return format(found[key], form) if found is not None and found[key] is not None else ""


def _accuracy(entry: Mapping[str, Any] | None) -> str:
    return f"{entry['accuracy']:.3f}" if entry and entry["accuracy"] is not None else ""


def _amount(entry: Mapping[str, Any] | None, key: str, form: Callable[[Any], str]) -> str:
    return form(entry[key]) if entry and entry[key] is not None else ""


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def failures(rows: Iterable[Row]) -> str:
    """What did not run, by reason."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        for entry in (row[OURS], *row["peers"]):
            if entry["problem"] and not entry["skipped"]:
                where = "making it" if entry["failed_in"] == "making" else entry["engine"]
                key = (entry["setting"], where, entry["problem"][:REASON])
                models = found.setdefault(key, [])
                if row["model"] not in models:
                    models.append(row["model"])
    if not found:
        return ""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for (setting, where, reason), models in found.items():
        alike.setdefault((", ".join(models), where, reason), []).append(setting)
    lines = [["failed", "in", "models", "reason"]]
    for (models, where, reason), settings in alike.items():
        lines.append([", ".join(settings), where, models, _cell(reason)])
    return "What failed, with its reason:\n\n" + markdown(lines)


def doubtful(rows: Iterable[Row]) -> str:
    """What makes times doubtful, and of which cells."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for doubt in row.get("doubts", ()):
            cell = " ".join(filter(None, (row["model"], row["engine"], row["isa"])))
            found.setdefault(doubt, []).append(f"{cell} {row['threads']}")
    lines = [f"- {doubt}: {', '.join(cells)}" for doubt, cells in found.items()]
    return "Doubts about the times:\n\n" + "\n".join(lines) if lines else ""
