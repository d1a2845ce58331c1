"""How like float int8 answers, before and after repair, beside the peers.

    python benchmarks/faithful.py [NAME ...] [--engines ...] [--effort fast normal] [--cache DIR]

Each model is compressed with each effort, with the samples of `benchmarks/peers.py`, and judged on
those that it holds back. The peers' figures are those of `benchmarks/results/peers.json`: the
setting whose answers are nearest to float's, and the fastest. Writes `results/faithful.json` and
`faithful.md`, row by row.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peer_make import HERE, compress, prepare
from peer_settings import F32, SETTINGS
from peer_time import OURS, Candidate, answer, reference
from peers import put
from zoo import RECIPES, fetch

from edgedl.benchmark.machine import this_machine
from edgedl.report.table import markdown

RESULTS = HERE / "results"
# The others have random weights: their answers say little.
TRAINED = (
    "mobilenetv2", "efficientnet-lite0", "minilm", "silero-vad", "ppocr-det", "ppocr-rec",
    "magika", "blazeface", "basic-pitch",
)  # fmt: skip


def peers_of(name: str, engine: str) -> dict[str, Any]:
    """Of the peers' int8 settings, the fastest and the one nearest to float."""
    path = RESULTS / "peers.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    mine = [r for r in rows if (r["model"], r["engine"], r["threads"], r["isa"]) ==
            (name, engine, 1, "")]  # fmt: skip
    made = [e for r in mine for e in r["peers"] if SETTINGS[e["setting"]].is_made]
    known = [e for e in made if e["agreement"] is not None]
    timed = [e for e in known if e["p50_ms"] is not None]
    fields = ("name", "agreement", "accuracy")

    def short(entry: Mapping[str, Any] | None) -> dict[str, Any] | None:
        return None if entry is None else {field: entry[field] for field in fields}

    return {
        "fastest": short(min(timed, key=lambda e: float(e["p50_ms"]), default=None)),
        "nearest": short(max(known, key=lambda e: float(e["agreement"]["sqnr_db"]), default=None)),
    }


def said(entry: Mapping[str, Any] | None) -> str:
    """An agreement, and an accuracy where there is one, in a cell."""
    if entry is None or entry.get("agreement") is None:
        return ""
    same = entry["agreement"]
    parts = [f"{same['top1']:.3f}" if same["top1"] is not None else f"cosine {same['cosine']:.4f}"]
    parts.append(f"{same['sqnr_db']:.1f} dB")
    if entry.get("accuracy") is not None:
        parts.append(f"accuracy {entry['accuracy']:.3f}")
    return ", ".join(parts)


def document(rows: Sequence[Mapping[str, Any]]) -> str:
    efforts = list(dict.fromkeys(effort for row in rows for effort in row["made"]))
    head = ["model", "engine"]
    for effort in efforts:
        head += [f"{effort}: agreement", "gain", "seconds"]
    head += ["fastest peer", "peer nearest to float"]
    lines = [head]
    for row in rows:
        line = [row["model"], row["engine"]]
        for effort in efforts:
            made = row["made"].get(effort)
            if made is None or made["problem"]:
                line += ["" if made is None else made["problem"][:60], "", ""]
                continue
            line += [said(made), f"{made['gain']:.2f}x", f"{made['seconds']:.0f}"]
        for which in ("fastest", "nearest"):
            peer = row[which]
            line.append(f"{peer['name']}: {said(peer)}" if peer is not None else "")
        lines.append(line)
    words = (
        "Agreement with float on samples held back: the share of float's classes, or the cosine"
        " where there are none, and signal to noise; gains are over float32 on the same engine.\n\n"
    )
    return words + markdown(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(TRAINED))
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--effort", nargs="+", default=["fast", "normal"])
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "edgedl" / "zoo")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    path = given.results / "faithful.json"
    kept = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = {(row["model"], row["engine"]): row for row in kept}
    failed = False
    for name in given.names:
        for engine in given.engines:
            try:
                case = prepare(fetch(name, given.cache), given.cache.expanduser() / "peers")
                reference(case)
                made = dict(rows.get((name, engine), {}).get("made", {}))
                for effort in given.effort:
                    done = compress(case, engine, 1, "", 3.0, 900.0, cold=False, effort=effort)
                    files = tuple(case.folder / file for file in done.files)
                    found = answer(case, Candidate(OURS, OURS, engine, F32, files, done), 1)
                    made[effort] = {
                        "problem": done.problem or found.problem,
                        "agreement": found.told.get("agreement"),
                        "accuracy": found.told.get("accuracy"),
                        "gain": (done.told.get("speedup") or {}).get("ratio"),
                        "seconds": done.seconds,
                    }
                    print(name, engine, effort, said(made[effort]), file=sys.stderr, flush=True)
            except Exception:
                traceback.print_exc()
                failed = True
                continue
            rows[name, engine] = {
                "model": name, "engine": engine, "made": made, **peers_of(name, engine)
            }  # fmt: skip
            order = sorted(rows.values(), key=lambda r: list(RECIPES).index(r["model"]))
            given.results.mkdir(parents=True, exist_ok=True)
            machine = this_machine().to_json()
            put(path, json.dumps({"machine": machine, "rows": order}, indent=1) + "\n")
            put(path.with_suffix(".md"), document(order) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
