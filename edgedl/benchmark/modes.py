"""What can be measured of one artifact beyond its latency, each a mode of its own, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

import numpy as np

from edgedl.benchmark.energy import energy_per_call
from edgedl.benchmark.jetson import power_mode
from edgedl.benchmark.load import highest_rate, offered_load
from edgedl.benchmark.measure import Feed, measure
from edgedl.benchmark.meters import find_meters
from edgedl.benchmark.profile import Profile, profile, slowest
from edgedl.benchmark.throughput import throughput
from edgedl.runtime import engine
from edgedl.runtime.artifact import Artifact
from edgedl.runtime.session import Session

PROFILE_RUNS = 50
SLOWEST = 10


@dataclass(frozen=True)
class Subject:
    """What a mode measures: an artifact, a warm session of it, and the inputs."""

    artifact: Artifact
    session: Session
    feeds: Sequence[Feed]
    threads: int


Mode = Callable[[Subject, Mapping[str, Any]], dict[str, Any]]


def _profile(subject: Subject, options: Mapping[str, Any]) -> dict[str, Any]:
    artifact, feed = subject.artifact, subject.feeds[0]
    timed = measure(subject.session, [feed], seconds=min(2.0, float(options["seconds"])))
    total_us = float(np.median(timed.samples_ns)) / 1e3
    operators = engine(artifact.engine).operators(
        artifact.data, feed, settings=artifact.settings, threads=subject.threads, runs=PROFILE_RUNS
    )
    longest = [
        {"name": o.name, "kind": o.kind, "precision": o.precision, "us": o.us}
        for o in slowest(operators, SLOWEST, artifact.names())
    ]
    found = Profile(
        str(artifact.path), artifact.engine, total_us, tuple(profile(operators, total_us))
    )
    return {
        "profile": [row.to_json() for row in found.rows],
        "profiled": {"total_us": total_us, "accounted": found.accounted},
        "slowest": longest,
    }


def _throughput(subject: Subject, options: Mapping[str, Any]) -> dict[str, Any]:
    batches, streams = options["batches"], options["streams"]
    rates = throughput(
        lambda: subject.artifact.open(subject.threads),
        subject.feeds,
        batches=batches,
        streams=streams,
        seconds=max(0.3, float(options["seconds"]) / (len(batches) * len(streams))),
    )
    return {"throughput": [rate.to_json() for rate in rates]}


def _load(subject: Subject, options: Mapping[str, Any]) -> dict[str, Any]:
    seconds, seed = float(options["seconds"]), int(options.get("seed", 0))
    session, feeds = subject.session, subject.feeds
    rates = options.get("rates") or ()
    share = seconds / (len(rates) + (options.get("p99_ms") is not None))
    points = [
        offered_load(session, feeds, rate, seconds=share, seed=seed).to_json() for rate in rates
    ]
    found: dict[str, Any] = {}
    if options.get("p99_ms") is not None:
        best = highest_rate(session, feeds, options["p99_ms"], seconds=share, seed=seed)
        points += [point.to_json() for point in best.points]
        found["highest_rate"] = {
            "p99_ms": options["p99_ms"], "rate_per_s": best.rate_per_s, "reason": best.reason
        }  # fmt: skip
    return {"load": sorted(points, key=lambda point: float(point["rate_per_s"])), **found}


def _energy(subject: Subject, options: Mapping[str, Any]) -> dict[str, Any]:
    meters, reasons = find_meters()
    if not meters:
        return {"energy": None, "energy_doubts": [f"energy: {reason}" for reason in reasons]}

    def work(seconds: float) -> int:
        calls, end = 0, monotonic() + seconds
        while monotonic() < end:
            subject.session.run(subject.feeds[calls % len(subject.feeds)])
            calls += 1
        return calls

    window_s, windows = float(options["seconds"]), int(options.get("windows", 1))
    mode = power_mode()
    found = energy_per_call(meters, sleep, work, window_s, windows=windows, power_mode=mode)
    return {"energy": found.to_json(), "energy_doubts": list(found.doubts)}


MODES: Mapping[str, Mode] = {
    "profile": _profile,
    "throughput": _throughput,
    "load": _load,
    "energy": _energy,
}


def run_modes(subject: Subject, modes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Measure in each mode, one after another; the results by name, as JSON."""
    found: dict[str, Any] = {}
    for name, options in modes.items():
        found |= MODES[name](subject, options)
    return found
