"""The line on real models: float and compressed on both engines, beside each engine's own tool.

    python benchmarks/line.py [NAME ...] [--cache DIR] [--peers PYTHON] [--seconds 5]

For every model of the zoo and every engine: `edgedl compress --int8 --target ENGINE` in a fresh
process, then the float model, the bundle and the peer's int8 (where PYTHON, an interpreter with
nncf and onnxruntime, can make one) are timed in one interleaved comparison on held-back samples,
one thread. Writes `benchmarks/results/line.json` and `line.md`, row after row, so that what was
finished is kept, and the README's table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from readme import README, fill
from zoo import RECIPES, Entry, fetch

from edgedl.benchmark.accuracy import agreement
from edgedl.benchmark.compare import compare
from edgedl.benchmark.machine import this_machine
from edgedl.core.errors import EdgeError
from edgedl.core.samples import open_npz
from edgedl.core.units import format_bytes, format_ms
from edgedl.report.table import markdown
from edgedl.runtime import engine
from edgedl.runtime.artifact import find_artifact
from edgedl.runtime.session import Session

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ENGINES = ("onnxruntime", "openvino")
PEERS = {"onnxruntime": ("ort-u8s8", ".onnx"), "openvino": ("nncf-performance", ".xml")}
PEER_LIMIT_SECONDS = 900


def run_json(command: list[str]) -> tuple[dict[str, Any] | None, str]:
    """The last line of a command's stdout as JSON, or None and the last line of its stderr."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PEER_LIMIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"not finished in {PEER_LIMIT_SECONDS} s"
    if done.returncode not in (0, 3):
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["failed"]
        return None, lines[-1].strip()[:200].replace(f"{Path.cwd()}/", "")
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document, ""


def measure(
    entry: Entry, name: str, work: Path, peers: str | None, seconds: float
) -> dict[str, Any]:
    """One model on one engine."""
    shapes = [f"{input_name}={shape}" for input_name, shape in entry.shapes.items()]
    bundle = work / f"{entry.name}-{name}.edl"
    command = [sys.executable, "-m", "edgedl", "compress", str(entry.model), "--int8", "--json"]
    command += ["--samples", str(entry.samples), "--target", name, "-o", str(bundle)]
    command += ["--seconds", str(seconds)]
    for shape in shapes:
        command += ["--shape", shape]
    found, problem = run_json(command)
    row: dict[str, Any] = {
        "model": entry.name,
        "engine": name,
        "compress": found,
        "problem": problem,
    }
    if found is None:
        return row
    found["output"] = bundle.name
    peer, suffix = PEERS[name]
    made, peer_problem = None, "no peer asked for"
    peer_file = work / f"{entry.name}-{peer}{suffix}"
    if peers:
        script = [peers, str(HERE / "peer_quantize.py"), peer, str(entry.model), str(entry.samples)]
        made, peer_problem = run_json([*script, str(peer_file), *shapes])
    row["peer"] = {"tool": peer, "made": made, "problem": peer_problem}
    artifact = find_artifact(bundle)
    sessions: dict[str, Session] = {"edgedl": artifact.open(1)}
    if made:
        try:
            sessions["peer"] = engine(name).open_model(peer_file, settings={}, threads=1)
        except EdgeError as error:
            row["peer"]["problem"] = error.message
    bound = open_npz(entry.samples).bind(sessions["edgedl"].signature)
    held = bound.take(range(len(bound) - min(48, len(bound) // 2), len(bound)))
    if "peer" in sessions:
        try:
            timed = compare(sessions, list(held)[:32], seconds=seconds)
            ratio = timed.ratio("peer", "edgedl")
            row["peer"] |= {
                "p50_ms": timed.measurements["peer"].latency_ms()["p50"],
                "edgedl_p50_ms": timed.measurements["edgedl"].latency_ms()["p50"],
                "edgedl_faster": {**ratio.to_json(), "verdict": ratio.verdict(timed.noise_floor)},
                "bytes": _bytes(peer_file),
            }
            with engine(name).open_model(entry.model, settings={}, threads=1) as reference:
                for who, session in sessions.items():
                    row["peer"][f"{who}_agreement"] = agreement(reference, session, held).to_json()
        except EdgeError as error:
            row["peer"]["problem"] = error.message
    for session in sessions.values():
        session.close()
    return row


def _bytes(path: Path) -> int:
    weights = path.with_suffix(".bin")
    return path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" else 0)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    head = ["model", "engine", "float32", "edgedl", "gain", "computes in", "cosine", "top-1"]
    lines = [[*head, "bytes", "peer's int8", "edgedl against it", "its cosine"]]
    for row in rows:
        found, peer = row["compress"], row.get("peer", {})
        if found is None:
            lines.append([row["model"], row["engine"], row["problem"], *[""] * 9])
            continue
        speed, same = found["speedup"], found["agreement"]
        against = peer.get("edgedl_faster")
        lines.append(
            [
                row["model"],
                row["engine"],
                format_ms(found["latency_ms"]["baseline"]["p50"]),
                format_ms(found["latency_ms"]["result"]["p50"]),
                f"{speed['ratio']:.2f}x [{speed['low']:.2f}, {speed['high']:.2f}]",
                found["precision"],
                f"{same['cosine']:.4f}",
                "" if same["top1"] is None else f"{same['top1']:.3f}",
                f"{format_bytes(found['baseline_bytes'])} -> {format_bytes(found['bytes'])}",
                format_ms(peer["p50_ms"]) if against else peer.get("problem", "")[:60],
                f"{against['ratio']:.2f}x" if against else "",
                f"{peer['peer_agreement']['cosine']:.4f}" if "peer_agreement" in peer else "",
            ]
        )
    return markdown(lines, right=(2, 3, 4, 6, 7))


def save(rows: list[dict[str, Any]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    document = {"machine": this_machine().to_json(), "rows": rows}
    (RESULTS / "line.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "line.md").write_text(table(rows) + "\n")
    README.write_text(fill(README.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(RECIPES))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "edgedl" / "zoo")
    parser.add_argument("--peers", help="a Python interpreter that has nncf and onnxruntime")
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    results = RESULTS / "line.json"
    kept = json.loads(results.read_text())["rows"] if results.exists() else []
    rows = [row for row in kept if row["model"] not in arguments.names]
    work = arguments.cache / "line"
    work.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        entry = fetch(name, arguments.cache)
        for engine_name in ENGINES:
            row = measure(entry, engine_name, work, arguments.peers, arguments.seconds)
            rows.append(row)
            order = {model: i for i, model in enumerate(RECIPES)}
            rows.sort(key=lambda r: (order.get(r["model"], 99), r["engine"]))
            save(rows)
            print(table([row]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
