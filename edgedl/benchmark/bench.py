"""Several artifacts, timed side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, cycle
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from edgedl.benchmark.cold import Cold, cold
from edgedl.benchmark.compare import compare
from edgedl.benchmark.machine import energy_counters, this_machine
from edgedl.core.errors import BadOption
from edgedl.core.model import Signature
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.core.stats import Interval, Verdict
from edgedl.runtime.artifact import Artifact, find_artifact
from edgedl.runtime.session import Session

MOST_FEEDS = 32
THROUGHPUT_NS = 500_000_000


@dataclass(frozen=True)
class Row:
    """One artifact's figures: latencies in milliseconds, memory beyond the imports in bytes."""

    artifact: str
    engine: str
    precision: str
    threads: int
    latency_ms: Mapping[str, float | int | None]
    throughput_per_s: float
    cold: Cold
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return {
            "artifact": self.artifact,
            "engine": self.engine,
            "precision": self.precision,
            "threads": self.threads,
            "latency_ms": dict(self.latency_ms),
            "throughput_per_s": self.throughput_per_s,
            "load_ms": self.cold.load_ms,
            "first_ms": self.cold.first_ms,
            "peak_rss_bytes": self.cold.peak_rss_bytes,
            "bytes": self.bytes,
            "energy_mj": None,
        }


@dataclass(frozen=True)
class Pair:
    """How many times faster `b` is than `a`."""

    a: str
    b: str
    ratio: Interval
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        return {"a": self.a, "b": self.b, **self.ratio.to_json(), "verdict": self.verdict}


@dataclass(frozen=True)
class BenchReport:
    """The rows, every pair of them, and what to think of the figures."""

    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    noise_floor: float
    machine: Mapping[str, Any]
    doubts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The contract's document."""
        return {
            "rows": [row.to_json() for row in self.rows],
            "pairs": [pair.to_json() for pair in self.pairs],
            "noise_floor": self.noise_floor,
            "machine": dict(self.machine),
            "doubts": list(self.doubts),
        }


def bench(
    paths: Sequence[str | Path],
    *,
    engine: str | None = None,
    samples: Samples | None = None,
    threads: int = 1,
    seconds: float = 10.0,
    seed: int = 0,
    progress: Progress = silent,
) -> BenchReport:
    """Time artifacts in interleaved rounds on the same inputs, and each cold in its own process.

    Args:
        engine: run everything on this engine; each artifact's own where None.
        samples: inputs, rotated; random ones where None.

    Raises:
        BadOption: a shape is too dynamic for random inputs, or the artifacts take unlike inputs.
        EngineFailed: an engine refuses or fails.
    """
    doubts: list[str] = []
    artifacts = [find_artifact(path, engine) for path in paths]
    names = _names(artifacts)
    sessions: dict[str, Session] = {}
    try:
        for name, artifact in zip(names, artifacts, strict=True):
            sessions[name] = artifact.open(threads)
        signature = _common(list(sessions.items()))
        if samples is None:
            feeds = random_feeds(signature, seed)
            doubts.append("timed on random inputs; give --samples for real ones")
        else:
            bound = samples.bind(signature)
            feeds = list(bound.take(range(min(MOST_FEEDS, len(bound)))))
            if len(feeds) < 16:
                doubts.append(f"{len(feeds)} samples; 16 or more keep caches honest")
        found = compare(sessions, feeds, seconds=seconds, seed=seed, progress=progress)
        rates = {name: _throughput(session, feeds) for name, session in sessions.items()}
    finally:
        for session in sessions.values():
            session.close()
    rows = []
    for i, (name, artifact) in enumerate(zip(names, artifacts, strict=True)):
        progress("cold starts", i, len(names))
        start = cold(artifact.path, artifact.engine, threads, feeds[0])
        rows.append(
            Row(
                artifact=name,
                engine=artifact.engine,
                precision=artifact.precision,
                threads=threads,
                latency_ms=found.measurements[name].latency_ms(),
                throughput_per_s=rates[name],
                cold=start,
                bytes=artifact.bytes,
            )
        )
    pairs = []
    for a, b in combinations(names, 2):
        ratio = found.ratio(a, b)
        pairs.append(Pair(a, b, ratio, ratio.verdict(found.noise_floor)))
    if not energy_counters():
        doubts.append("energy: this machine shows no counter (RAPL, INA3221, INA238)")
    if found.unsteady:
        doubts.append(f"not steady after warm-up: {', '.join(found.unsteady)}")
    if any(row.latency_ms["p99"] is None for row in rows):
        doubts.append("p99 needs 662 samples: give more --seconds")
    machine = this_machine()
    if (
        machine.load_per_core is not None
        and machine.load_per_core > 0.5 + threads / machine.usable_cores
    ):
        doubts.append(f"the machine is busy: load {machine.load_per_core:.1f} a core")
    return BenchReport(
        tuple(rows), tuple(pairs), found.noise_floor, machine.to_json(), tuple(doubts)
    )


def _names(artifacts: Sequence[Artifact]) -> list[str]:
    """Paths as given, numbered where one is given twice."""
    names: list[str] = []
    for artifact in artifacts:
        name = str(artifact.path)
        count = sum(n.split(" #")[0] == name for n in names)
        names.append(name if not count else f"{name} #{count + 1}")
    return names


def _common(sessions: Sequence[tuple[str, Session]]) -> Signature:
    name, first = sessions[0]
    inputs = {(t.name, t.dtype) for t in first.signature.inputs}
    for other, session in sessions[1:]:
        if {(t.name, t.dtype) for t in session.signature.inputs} != inputs:
            raise BadOption(
                f"`{name}` and `{other}` take unlike inputs", hint="time them in calls of their own"
            )
    return first.signature


def random_feeds(signature: Signature, seed: int, count: int = 16) -> list[dict[str, np.ndarray]]:
    """Standard normal floats, and zeros or ones for integers, in the inputs' shapes, batch 1.

    Raises:
        BadOption: a dimension other than the batch axis is dynamic.
    """
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in signature.inputs:
        shape = [
            1 if i == 0 and not isinstance(d, int) else d
            for i, d in enumerate(tensor.shape or (None,))
        ]
        if tensor.shape is None or not all(isinstance(d, int) for d in shape):
            raise BadOption(
                f"the shape of input `{tensor}` is dynamic",
                hint=f"fix it, as in `--shape {tensor.name}=1x3x224x224`, or give --samples",
            )
        shapes[tensor.name] = tuple(int(d) for d in shape if d is not None)
    feeds = []
    for _ in range(count):
        feed = {}
        for tensor in signature.inputs:
            drawn = rng.standard_normal(shapes[tensor.name])
            is_float = np.issubdtype(np.dtype(tensor.dtype), np.floating)
            feed[tensor.name] = np.asarray(drawn if is_float else drawn > 0).astype(tensor.dtype)
        feeds.append(feed)
    return feeds


def _throughput(session: Session, feeds: Sequence[Mapping[str, np.ndarray]]) -> float:
    """Calls a second, one after another in one stream, by the wall clock."""
    turn = cycle(feeds)
    calls, start = 0, perf_counter_ns()
    while perf_counter_ns() - start < THROUGHPUT_NS:
        session.run(next(turn))
        calls += 1
    return calls / ((perf_counter_ns() - start) / 1e9)
