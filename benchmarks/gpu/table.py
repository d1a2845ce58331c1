"""The GPU benchmark's document as Markdown; what was not measured says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

PEERS = ("torch-eager", "torch-compile", "onnxruntime")


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    head, *body = rows
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)]


def state(found: dict[str, Any], text: str) -> str:
    return f"not measured: {found['failed'][:90]}" if found.get("failed") else text


def latency(step: dict[str, Any], kind: str) -> str:
    if step.get("failed"):
        return "-"
    if kind not in step:
        return ""
    return f"{step[kind]['p50']:.3f} ({step[kind]['p99']:.3f})"


def markdown(document: dict[str, Any]) -> str:
    machine, steps = document["machine"], document["steps"]
    gpu = machine.get("gpu")
    if gpu:
        where = (
            f"{gpu}, compute capability {machine['compute_capability']}, driver of CUDA "
            f"{machine['driver_cuda']}"
        )
    else:
        where = f"No GPU: {machine.get('reason') or machine.get('failed')}. Nothing was measured."
    versions = ", ".join(f"{k} {v}" for k, v in machine.get("packages", {}).items())
    lines = ["# On a GPU", "", where, "", f"{machine.get('system')}; {versions}", ""]
    lines += ["## Does the library accept the GPU; the engine tests", ""]
    rows = [["step", "what came of it"]]
    for one in of(steps, "accept", "tests"):
        text = one.get("summary") or (
            f"{one.get('version')} accepts it, largest difference "
            f"{one.get('largest_difference', 0):.2g}"
        )
        rows.append([" ".join(one["step"]), state(one, text)])
    lines += [*table(rows), "", "## Latency of a call in ms, p50 (p99), batch 1", ""]
    lines += ["From arrays of the host and back to them; weights are random.", ""]
    rows = [["model", "who", "precision", "run", "run_into, pinned", "state"]]
    for one in of(steps, "ours", "ours-onnxruntime", *PEERS):
        who, name, *rest = one["step"]
        who, precision = (rest[0], rest[1]) if who.startswith("ours") else (who, rest[0])
        graph = one.get("graph", {})
        note = one.get("note") or (f"as a graph: {latency(graph, 'run_into')}" if graph else "")
        rows.append(
            [name, who, precision, latency(one, "run"), latency(one, "run_into"), state(one, note)]
        )
    lines += [*table(rows), "", "## Agreement with float32 on the processor", ""]
    rows = [["model", "who", "cosine", "SQNR in dB", "same top 1", "samples"]]
    for one in of(steps, "agreement"):
        name = one["step"][1]
        if one.get("failed"):
            rows.append([name, state(one, ""), "", "", "", ""])
        for who, found in one.items():
            if isinstance(found, dict):
                sqnr = "exact" if found["sqnr_db"] is None else f"{found['sqnr_db']:.1f}"
                cells = [f"{found['cosine']:.5f}", sqnr, f"{found['top1']:.2f}"]
                rows.append([name, who, *cells, str(found["samples"])])
    lines += [*table(rows), "", "## Our calls over the bare loop (graph, pinned buffers), fp16", ""]
    rows = [["model", "library", "bare, us", "run_into", "run", "state"]]
    for one in of(steps, "overhead"):
        _, name, library = one["step"]
        if one.get("failed"):
            rows.append([name, library, "-", "-", "-", state(one, "")])
            continue
        shares = [f"{one[f'{who}_overhead']:+.1%}" for who in ("run_into", "run")]
        rows.append([name, library, f"{one['median_us']['bare']:.1f}", *shares, ""])
    lines += [*table(rows), "", "## Files", ""]
    rows = [["model", "step", "float32", "float16", "int8", "fp8"]]
    for one in of(steps, "export", "parse"):
        cells = [cell(one, precision) for precision in ("float32", "float16", "int8", "fp8")]
        rows.append([one["step"][1], one["step"][0], *cells])
    return "\n".join([*lines, *table(rows)])


def cell(step: dict[str, Any], precision: str) -> str:
    if step.get("failed"):
        return state(step, "")
    found = step.get(precision, {})
    if "failed" in found:
        return str(found["failed"])[:80]
    return f"{(found.get('bytes') or found.get('plan_bytes') or 0) / 1e6:.1f} MB"


def of(steps: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [one for one in steps if one["step"][0] in kinds]
