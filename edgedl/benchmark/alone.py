"""One artifact alone in a fresh process: how it starts, what memory it takes, and other modes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any

import numpy as np

from edgedl.benchmark.measure import Feed, quiet, warm_up
from edgedl.benchmark.nvml import gpu_bytes
from edgedl.benchmark.worker import read_feeds, write_feeds
from edgedl.core.errors import EdgeError, EngineFailed
from edgedl.core.memory import peak_rss_bytes
from edgedl.core.samples import Arrays
from edgedl.core.stats import percentiles
from edgedl.runtime.artifact import Artifact
from edgedl.runtime.bundle import SUFFIX
from edgedl.runtime.process.files import reopen
from edgedl.runtime.process.postprocess import Postprocess, Seen, read, written
from edgedl.runtime.session import Session

LIMIT_SECONDS = 600
COLD_STARTS = 3
CLOSED_LOOP_NS = 300_000_000
FEWEST_WAYS = 10
STAGES = ("decode", "preprocess", "run", "postprocess")


@dataclass(frozen=True)
class Cold:
    """Milliseconds to import the engine, to load and compile, and for the first call; memory
    beyond the imports, and on a GPU after the first call, where the engine runs on one.
    `gpu_doubt` says why that is not known. The file's own pages are warm in the system's cache."""

    import_ms: float
    load_ms: float
    first_ms: float
    peak_rss_bytes: int | None
    gpu_bytes: int | None = None
    gpu_doubt: str | None = None


@dataclass(frozen=True)
class Alone:
    """What one artifact did in processes of its own.

    Attributes:
        cold: medians over several processes.
        throughput_per_s: calls a second, one after another, by the wall clock.
        end_to_end_ms: percentiles of a sample's whole way: read from its file and decoded,
            pre-processed, run, post-processed; None without a file.
        stages_ms: the median of each of these four, by name; None where there is no such stage.
        modes: the document of each further mode that was asked for, by name.
    """

    cold: Cold
    throughput_per_s: float
    end_to_end_ms: Mapping[str, float | int | None] | None
    stages_ms: Mapping[str, float | None] | None
    modes: Mapping[str, Any]


def alone(
    artifact: Artifact,
    feeds: Sequence[Feed],
    *,
    threads: int,
    samples: Mapping[str, Any] | None = None,
    postprocess: Postprocess | None = None,
    modes: Mapping[str, Any] | None = None,
    cores: Sequence[int] | None = None,
) -> Alone:
    """Run an artifact in processes of its own.

    Args:
        samples: the origin of the samples that `feeds` are, to be read again, end to end.
        postprocess: what stands behind the network, and ends its answers' way.
        modes: options of further modes by name, see `edgedl.benchmark.modes`.

    Raises:
        EngineFailed: a process ended without an answer.
    """
    with tempfile.TemporaryDirectory(prefix="edgedl-alone-") as folder:
        job = {
            "path": str(artifact.path),
            "engine": artifact.engine,
            "identity": artifact.identity,
            "threads": threads,
            "inputs": write_feeds(Path(folder) / "feeds.npz", feeds),
            "feeds": len(feeds),
            "cores": None if cores is None else list(cores),
        }
        starts = [
            _process(Path(folder), {**job, "starts_only": True}, artifact.secrets)
            for _ in range(COLD_STARTS - 1)
        ]
        more = {
            "samples": None if samples is None else dict(samples),
            "postprocess": None if postprocess is None else written(postprocess),
            "modes": dict(modes or {}),
        }
        found = _process(Path(folder), {**job, **more, "starts_only": False}, artifact.secrets)
    starts.append(found)
    return Alone(
        Cold(
            import_ms=float(np.median([s["import_ms"] for s in starts])),
            load_ms=float(np.median([s["load_ms"] for s in starts])),
            first_ms=float(np.median([s["first_ms"] for s in starts])),
            peak_rss_bytes=_median_bytes(starts, "peak_rss_bytes"),
            gpu_bytes=_median_bytes(starts, "gpu_bytes"),
            gpu_doubt=found["gpu_doubt"],
        ),
        found["throughput_per_s"],
        found["end_to_end_ms"],
        found["stages_ms"],
        found["modes"],
    )


def _median_bytes(starts: Sequence[Mapping[str, Any]], key: str) -> int | None:
    known = [start[key] for start in starts if start[key] is not None]
    return int(np.median(known)) if known else None


def _process(folder: Path, job: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
    (folder / "job.json").write_text(json.dumps(job))
    modes = job.get("modes", {}).values()
    limit = LIMIT_SECONDS + sum(m.get("seconds", 0) * m.get("windows", 1) for m in modes)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgedl.benchmark.alone", str(folder)],
            input=json.dumps(dict(secrets)),
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _failed(job, f"no end after {limit:.0f} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise _failed(job, lines[-1][:300])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _failed(job: Mapping[str, Any], reason: str) -> EngineFailed:
    return EngineFailed(
        f"in a fresh process {job['engine']} failed: {reason}",
        where=job["path"],
        hint=look_closer(job["path"]),
    )


def look_closer(path: str) -> str:
    """What to type about an artifact that failed."""
    return f"edgedl {'check' if path.endswith(SUFFIX) else 'inspect'} {path}"


def _closed_loop(session: Session, feeds: Sequence[Feed]) -> float:
    turn = cycle(feeds)
    calls, start = 0, perf_counter_ns()
    while perf_counter_ns() - start < CLOSED_LOOP_NS:
        session.run(next(turn))
        calls += 1
    return calls / ((perf_counter_ns() - start) / 1e9)


def _end_to_end(
    session: Session,
    origin: Mapping[str, Any] | None,
    behind: Mapping[str, Any] | None,
    clock: Callable[[], int] = perf_counter_ns,
) -> dict[str, Any]:
    """Samples on their whole way, one after another, each stage timed."""
    if origin is None:
        return {"end_to_end_ms": None, "stages_ms": None}
    bound = reopen(origin).bind(session.signature)
    after = None if behind is None else read(behind).apply
    times: list[tuple[int, ...]] = []
    began = clock()
    while clock() - began < CLOSED_LOOP_NS or len(times) < FEWEST_WAYS:
        start = clock()
        raw = bound.load(len(times) % len(bound))
        loaded = clock()
        feed = bound.prepare(raw)
        prepared = clock()
        answers = session.run(feed)
        answered = clock()
        if after is not None:
            after(answers, Seen(feed))
        times.append((start, loaded, prepared, answered, clock()))
    spans_ms = np.diff(np.asarray(times), axis=1) / 1e6
    medians = map(float, np.median(spans_ms, axis=0))
    stages: dict[str, float | None] = dict(zip(STAGES, medians, strict=True))
    if isinstance(bound.source, Arrays):
        stages["preprocess"] = None
    if after is None:
        stages["postprocess"] = None
    return {"end_to_end_ms": percentiles(spans_ms.sum(axis=1)), "stages_ms": stages}


def main(folder: Path) -> None:
    """The fresh process."""
    import os

    job = json.loads((folder / "job.json").read_text())
    if job["cores"]:
        os.sched_setaffinity(0, job["cores"])
    feeds = read_feeds(folder / "feeds.npz", job["inputs"], job["feeds"])
    start = perf_counter()
    from edgedl.runtime import engine as find_engine
    from edgedl.runtime.artifact import find_artifact, key_of_secrets

    key = key_of_secrets(json.load(sys.stdin))
    find_engine(job["engine"])
    imported, before = perf_counter(), peak_rss_bytes()
    opening = perf_counter()
    artifact = find_artifact(job["path"], job["engine"], key=key, identity=job["identity"])
    session = artifact.open(job["threads"])
    loaded = perf_counter()
    session.run(feeds[0])
    answered, after = perf_counter(), peak_rss_bytes()
    on_gpu = gpu_bytes(os.getpid()) if artifact.on_gpu else None
    document: dict[str, Any] = {
        "import_ms": (imported - start) * 1e3,
        "load_ms": (loaded - opening) * 1e3,
        "first_ms": (answered - loaded) * 1e3,
        "peak_rss_bytes": None if before is None or after is None else after - before,
        "gpu_bytes": on_gpu if isinstance(on_gpu, int) else None,
        "gpu_doubt": on_gpu if isinstance(on_gpu, str) else None,
    }
    if not job["starts_only"]:
        from edgedl.benchmark.modes import Subject, run_modes

        with quiet():
            warm_up(session, feeds)
            document["throughput_per_s"] = _closed_loop(session, feeds)
            document |= _end_to_end(session, job["samples"], job["postprocess"])
        subject = Subject(artifact, session, feeds, job["threads"])
        document["modes"] = run_modes(subject, job["modes"])
    print(json.dumps(document))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except EdgeError as error:
        sys.exit(error.message)
