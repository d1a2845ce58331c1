"""What `bench` found: a row for each artifact, a verdict on each pair, and its document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgedl.benchmark.alone import Alone
from edgedl.benchmark.answers import Answered
from edgedl.benchmark.compare import Comparison
from edgedl.core.errors import EdgeError
from edgedl.core.stats import Interval, Verdict

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One artifact's figures: latencies in milliseconds, memory beyond the imports in bytes, on a
    GPU with the engine's own context.

    `problem` says why a row is not valid: the artifact failed, the machine was throttled, or its
    clock stepped.
    """

    artifact: str
    engine: str
    precision: str
    threads: int
    digest: str
    bytes: int
    compressed_bytes: int
    latency_ms: Mapping[str, float | int | None] | None
    rounds_ms: Sequence[Sequence[float]]
    yardsticks: Sequence[float]
    alone: Alone | None
    answers: Answered | None
    problem: str | None

    def to_json(self) -> dict[str, Any]:
        cold = None if self.alone is None else self.alone.cold
        modes = {} if self.alone is None else self.alone.modes
        energy = modes.get("energy")
        answers = self.answers
        return {
            "artifact": self.artifact,
            "engine": self.engine,
            "precision": self.precision,
            "threads": self.threads,
            "valid": self.problem is None,
            "problem": self.problem,
            "digest": self.digest,
            "latency_ms": None if self.latency_ms is None else dict(self.latency_ms),
            "end_to_end_ms": None if self.alone is None else self.alone.end_to_end_ms,
            "stages_ms": None if self.alone is None else self.alone.stages_ms,
            "throughput_per_s": None if self.alone is None else self.alone.throughput_per_s,
            "import_ms": None if cold is None else cold.import_ms,
            "load_ms": None if cold is None else cold.load_ms,
            "first_ms": None if cold is None else cold.first_ms,
            "peak_rss_bytes": None if cold is None else cold.peak_rss_bytes,
            "gpu_bytes": None if cold is None else cold.gpu_bytes,
            "bytes": self.bytes,
            "compressed_bytes": self.compressed_bytes,
            "energy_mj": None if energy is None else energy["net_mj"],
            "energy": energy,
            "accuracy": None if answers is None else answers.accuracy,
            "agreement": None if answers is None else answers.agreement,
            "profile": modes.get("profile"),
            "rates": modes.get("throughput"),
            "load": modes.get("load"),
            "highest_rate": modes.get("highest_rate"),
            "profiled": modes.get("profiled"),
            "slowest": modes.get("slowest"),
            "rounds_ms": [list(process) for process in self.rounds_ms],
            "yardsticks": list(self.yardsticks),
        }


@dataclass(frozen=True)
class Pair:
    """How many times faster `b` is than `a`; `p` is corrected for the number of pairs."""

    a: str
    b: str
    ratio: Interval
    p: float
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        return {
            "a": self.a,
            "b": self.b,
            **self.ratio.to_json(),
            "p": self.p,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class BenchReport:
    """The rows, every pair of them, and what to think of the figures.

    Attributes:
        confirmed: the fastest against the first, timed once more on new rounds, where there were
            three or more to choose it from.
        failures: why artifacts did not last, by name.
        comparison: every raw sample; None where nothing lasted.
        error: what is to be put right before all of it is timed again; the rows are kept.
    """

    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    confirmed: Pair | None
    noise_floor: float | None
    processes: int
    inputs: Mapping[str, Any]
    machine: Mapping[str, Any]
    conditions: Mapping[str, Any]
    doubts: tuple[str, ...]
    failures: Mapping[str, str] = field(default_factory=dict)
    time: str = ""
    comparison: Comparison | None = None
    error: EdgeError | None = None

    def samples_ms(self) -> dict[str, np.ndarray]:
        """Every call's time in milliseconds, float64, by artifact."""
        if self.comparison is None:
            return {}
        return {n: m.samples_ns / 1e6 for n, m in self.comparison.measurements.items()}

    def raw_lines(self) -> Iterator[str]:
        """Every raw sample as JSON lines, one for each artifact in each process, nanoseconds."""
        for number, rounds in enumerate(self.comparison.processes if self.comparison else ()):
            for name in rounds.samples_ns:
                line = {
                    "artifact": name,
                    "process": number,
                    "warm_up_ns": rounds.warm_up_ns[name].tolist(),
                    "samples_ns": rounds.samples_ns[name].tolist(),
                }
                yield json.dumps(line)

    def to_json(self) -> dict[str, Any]:
        """The contract's document, and what a report and a later run need beside it."""
        return {
            "format_version": FORMAT_VERSION,
            "time": self.time,
            "rows": [row.to_json() for row in self.rows],
            "pairs": [pair.to_json() for pair in self.pairs],
            "confirmed": None if self.confirmed is None else self.confirmed.to_json(),
            "noise_floor": self.noise_floor,
            "processes": self.processes,
            "inputs": dict(self.inputs),
            "machine": dict(self.machine),
            "conditions": dict(self.conditions),
            "doubts": list(self.doubts),
            "failures": dict(self.failures),
        }
