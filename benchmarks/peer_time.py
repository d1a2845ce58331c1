"""One cell of the peers' table: everything that one engine runs, answered and timed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from peer_answers import Job, bind, write_job
from peer_make import HERE, Case, Made
from peer_settings import BF16, DEFAULT, F32, SETTINGS
from processes import watched

from edgedl.benchmark.compare import Comparison
from edgedl.benchmark.contest import Contestant, contest
from edgedl.benchmark.cores import idle_cores
from edgedl.benchmark.watch import Watch, doubts, invalid
from edgedl.core.isa import ISA_VARIABLE
from edgedl.core.model import Signature

OURS = "edgedl"
ANSWER_SECONDS = 600.0
FEEDS = 32
HOPELESS = 2.5  # as often edgedl's own time: answered, not timed beside the others
ALWAYS = (OURS, "float32", DEFAULT)
FINALISTS = 3
COSINE_MARGIN = 0.001


@dataclass(frozen=True)
class Candidate:
    """Something to run: its files are tried in order, and `made` says what it cost."""

    name: str
    setting: str
    engine: str
    precision: str
    files: tuple[Path, ...]
    made: Made


@dataclass(frozen=True)
class Answered:
    """What a candidate answered in a process of its own, or why it did not."""

    file: Path | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def candidates(
    case: Case, engine: str, peers: Mapping[str, Made], precisions: Sequence[str]
) -> list[Candidate]:
    """Every peer setting that this engine runs, in every float precision that the machine has."""
    found = []
    for name, setting in SETTINGS.items():
        made = peers.get(name, Made())
        files = tuple(case.folder / file for file in made.files[:1])
        for precision in setting.engines.get(engine, ()):
            if precision == BF16 and BF16 not in precisions:
                continue
            called = name if precision == F32 or not setting.is_made else f"{name}, {precision}"
            given = files if setting.is_made else case.float_files
            found.append(Candidate(called, name, engine, precision, given, made))
    return found


def reference(case: Case) -> None:
    """Have the float model answer on onnxruntime, where it has not yet.

    Raises:
        RuntimeError: it does not run there.
    """
    if case.reference.exists():
        return
    plain = Candidate("float32", "float32", "onnxruntime", F32, case.float_files, Made())
    if problem := _answer(case, plain, 1, is_float=True).problem:
        raise RuntimeError(f"{case.entry.name} in float32 on onnxruntime: {problem}")


def answer(case: Case, candidate: Candidate, threads: int) -> Answered:
    """The answers to the samples held back, by the first of the candidate's files that runs.

    What a peer's file answered is kept beside it, by engine, its version and instruction set.
    """
    if candidate.name == OURS or not candidate.files:
        return _answer(case, candidate, threads)
    parts = [case.digest, candidate.engine, metadata.version(candidate.engine)]
    parts += [candidate.precision, os.environ.get(ISA_VARIABLE, "")]
    parts += [file.name for file in candidate.files]
    key = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]
    record = case.folder / f"{candidate.setting}-answers-{key}.json"
    if record.exists():
        kept = json.loads(record.read_text())
        file = None if kept["file"] is None else Path(kept["file"])
        return Answered(file, kept["told"], kept["problem"])
    found = _answer(case, candidate, threads)
    kept = {**vars(found), "file": None if found.file is None else str(found.file)}
    record.write_text(json.dumps(kept))
    return found


def _answer(case: Case, candidate: Candidate, threads: int, is_float: bool = False) -> Answered:
    result = Answered(problem=candidate.made.problem)
    for file in candidate.files:
        job = Job(
            str(file), candidate.engine, candidate.precision, threads, str(case.held),
            str(case.reference), case.signature, case.shapes, is_float,
        )  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="peer-answers-") as folder:
            given, out = Path(folder) / "job.json", Path(folder) / "out.json"
            write_job(given, job)
            command = [sys.executable, str(HERE / "peer_answers.py"), str(given), str(out)]
            done = watched(command, limit_seconds=ANSWER_SECONDS)
            if not done.problem:
                return Answered(file, json.loads(out.read_text()))
            result = result if result.problem else Answered(problem=done.problem)
    return result


def counts(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether a peer's agreement with the float model is no worse than edgedl's.

    By top-1 where both answer with classes, else by the cosine, on the same samples held back: the
    mean difference, sample by sample, must not be below edgedl's by more than its standard error.
    A mean cosine within 0.001 is no worse either.
    """
    key = "top1" if all(a["agreement"]["top1"] is not None for a in (theirs, ours)) else "cosine"
    pairs = zip(theirs["by_sample"], ours["by_sample"], strict=True)
    differences = np.array(
        [(a[key] or 0.0) - (b[key] or 0.0) for a, b in pairs if None not in (a[key], b[key])]
    )
    if not len(differences):
        return False
    spread = float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0
    margin = spread / math.sqrt(len(differences))
    if key == "cosine":
        margin = max(margin, COSINE_MARGIN)
    return float(differences.mean()) + margin >= -1e-12


def cell(
    case: Case,
    engine: str,
    threads: int,
    ours: Candidate,
    peers: Sequence[Candidate],
    seconds: float,
    earlier: Mapping[str, float],
) -> dict[str, Any]:
    """A row of the results: all that lasts in one interleaved run, then the finalists once more.

    Where `earlier` has the peers' times in milliseconds, these choose the finalists instead.
    """
    reference(case)
    answers = {one.name: answer(case, one, threads) for one in (ours, *peers)}
    own = answers[OURS].told
    entries = {c.name: _entry(c, answers[c.name], own) for c in (ours, *peers)}
    lasting = [c for c in (ours, *peers) if not entries[c.name]["problem"]]
    row: dict[str, Any] = {"model": case.entry.name, "engine": engine, "threads": threads}
    if lasting:
        timer = Timer(case, entries, answers, threads, seconds)
        row |= _timed(timer, lasting, own, earlier)
    return row | {OURS: entries.pop(OURS), "peers": list(entries.values())}


def _entry(candidate: Candidate, answered: Answered, own: Mapping[str, Any]) -> dict[str, Any]:
    told, made = answered.told, candidate.made
    entry = {
        "name": candidate.name,
        "setting": candidate.setting,
        "engine": candidate.engine,
        "precision": candidate.precision,
        "bytes": made.bytes or _float_bytes(answered.file),
        "seconds": made.seconds,
        "peak_rss_bytes": made.peak_rss_bytes,
        "notes": list(made.notes),
        "problem": answered.problem,
        "failed_in": "making" if made.problem else "running" if answered.problem else None,
        "skipped": made.skipped,
        "agreement": told.get("agreement"),
        "accuracy": told.get("accuracy"),
        "rough_ms": told.get("rough_ms"),
        "p50_ms": None,
        "ratio": None,
        "final": False,
        "counts": bool(told) and bool(own) and counts(told, own),
    }
    return entry | ({"told": dict(made.told)} if made.told else {})


def _float_bytes(file: Path | None) -> int | None:
    if file is None:
        return None
    parts = (file, file.with_name(file.name + ".data"))
    return sum(path.stat().st_size for path in parts if path.exists())


@dataclass(frozen=True)
class Timer:
    """What the contests of a cell share; `entries` are filled in by them."""

    case: Case
    entries: dict[str, dict[str, Any]]
    answers: Mapping[str, Answered]
    threads: int
    seconds: float


def _timed(
    timer: Timer,
    lasting: Sequence[Candidate],
    own: Mapping[str, Any],
    earlier: Mapping[str, float],
) -> dict[str, Any]:
    """Fill in the times of the entries, and name the fastest peers."""
    entries = timer.entries
    fastest = min(entries[c.name]["rough_ms"] for c in lasting)
    limit = HOPELESS * (own["rough_ms"] if own else fastest)
    hopeful = [c for c in lasting if c.setting in ALWAYS or entries[c.name]["rough_ms"] <= limit]
    with Watch() as watch:
        if earlier:
            for name in entries.keys() & earlier.keys():
                entries[name]["p50_ms"] = earlier[name]
        else:
            _contest(timer, hopeful, final=False)
        lasted = [c for c in lasting if c.name == OURS or entries[c.name]["p50_ms"] is not None]
        found = _contest(timer, _finalists(lasted, entries), final=True)
    seen = watch.conditions
    spoiled = invalid(seen)
    peers = [entry for name, entry in entries.items() if name != OURS and entry["final"]]
    best = min((e for e in peers if e["counts"]), key=slowness, default=None)
    any_best = min(peers, key=slowness, default=None)
    return {
        "best": best and best["name"],
        "best_of_any": any_best and any_best["name"],
        "noise_floor": found.noise_floor if found else None,
        "doubts": [*doubts(seen, timer.threads), *([spoiled] if spoiled else [])],
    }


def slowness(entry: Mapping[str, Any]) -> float:
    """An entry's time in units of edgedl's in the same rounds, or in ms where edgedl had none."""
    return 1 / float(entry["ratio"]["ratio"]) if entry["ratio"] else float(entry["p50_ms"])


def _finalists(
    lasted: Sequence[Candidate], entries: Mapping[str, Mapping[str, Any]]
) -> list[Candidate]:
    """edgedl, the fastest peers that count, the fastest of all, float32, and the default."""
    peers = sorted((c for c in lasted if c.name != OURS), key=lambda c: slowness(entries[c.name]))
    counting = [c for c in peers if entries[c.name]["counts"]]
    chosen = {c.name for c in [*counting[:FINALISTS], *peers[:1]]}
    chosen |= {c.name for c in peers if c.setting in ALWAYS}
    return [c for c in lasted if c.name == OURS or c.name in chosen]


def _contest(timer: Timer, timed: Sequence[Candidate], *, final: bool) -> Comparison | None:
    """Time candidates in fresh processes, the first beside its twin, and note what they took."""
    case, entries = timer.case, timer.entries
    bound = bind(case.held, Signature.from_json(case.signature), case.shapes)
    feeds = list(bound.take(range(min(FEEDS, len(bound)))))
    contestants = []
    for candidate in timed:
        file = timer.answers[candidate.name].file
        assert file is not None
        settings = {
            "engine": candidate.engine,
            "precision": candidate.precision,
            "signature": case.signature,
        }
        opener = "peer_answers:open_contestant"
        contestants.append(Contestant(candidate.name, file, candidate.engine, settings, opener))
    # The least time that says something about so many.
    seconds = timer.seconds if final else max(timer.seconds, len(timed) * timer.seconds / 8)
    outcome = contest(
        contestants, feeds, threads=timer.threads, seconds=seconds, seed=int(final),
        cores=lambda: idle_cores(timer.threads),
    )  # fmt: skip
    for name, reason in outcome.failures.items():
        entries[name] |= {
            "problem": reason,
            "failed_in": "timing",
            "p50_ms": None,
            "ratio": None,
            "final": False,
        }
    found = outcome.comparison
    if found is None:
        return None
    for name in found.names:
        entry = entries[name]
        entry["p50_ms"] = float(np.median(found.measurements[name].samples_ns)) / 1e6
        entry["ratio"] = found.ratio(OURS, name).to_json() if OURS in found.names else None
        entry["final"] = final
    return found
