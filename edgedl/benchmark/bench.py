"""Several artifacts, timed side by side, and each alone."""

from __future__ import annotations

import hashlib
import os
import shlex
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path
from typing import Any

from edgedl.benchmark.alone import Alone, alone
from edgedl.benchmark.answers import Answered, answered
from edgedl.benchmark.compare import Comparison, verdicts
from edgedl.benchmark.contest import Contestant, Cores, contest
from edgedl.benchmark.cores import idle_cores
from edgedl.benchmark.feeds import common_signature, timing_feeds
from edgedl.benchmark.jetson import clock_doubt, find_jetson
from edgedl.benchmark.machine import this_machine
from edgedl.benchmark.measure import Feed
from edgedl.benchmark.metrics import metric_of
from edgedl.benchmark.nvml import gpu_slowdowns
from edgedl.benchmark.preflight import preflight
from edgedl.benchmark.result import BenchReport, Pair, Row
from edgedl.benchmark.watch import Conditions, Watch, clock_step, doubts, invalid
from edgedl.core.errors import BadSamples, EdgeError, EngineFailed, Unsupported
from edgedl.core.isa import ISA_VARIABLE
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.core.stats import FLOORS
from edgedl.core.target import ISA_DOUBT
from edgedl.runtime.artifact import Artifact, find_artifact, find_model
from edgedl.runtime.bundle import is_bundle
from edgedl.runtime.process.postprocess import Postprocess
from edgedl.runtime.sign.admit import TrustSource
from edgedl.runtime.sign.sealed import KeySource

MOST_SCORED = 1000
MOST_COMPARED = 64
CHUNK_BYTES = 1 << 20


def bench(
    paths: Sequence[str | Path],
    *,
    names: Sequence[str] | None = None,
    engine: str | None = None,
    samples: Samples | None = None,
    postprocess: Postprocess | None = None,
    threads: int = 1,
    seconds: float = 10.0,
    pin: bool = True,
    modes: Mapping[str, Mapping[str, Any]] | None = None,
    metric: str | None = None,
    anyway: bool = False,
    each_alone: bool = True,
    seed: int = 0,
    trust: TrustSource | None = None,
    key: KeySource | None = None,
    progress: Progress = silent,
) -> BenchReport:
    """Time artifacts in interleaved rounds in fresh processes, and each alone in its own.

    An artifact that fails is named in `failures`; the rows of the others are kept.

    Args:
        names: what to call the artifacts; their paths where None.
        engine: run everything on this engine; each artifact's own where None.
        samples: inputs, rotated; random ones where None. Labels give the accuracy.
        postprocess: what stands behind the network, for the way from end to end.
        pin: bind each process to the least busy of the best cores.
        modes: options of further modes by name: profile, throughput, load, energy.
        anyway: time even where the machine cannot give honest figures; the rows are invalid then,
            and no error says so.
        each_alone: whether each is also started and run by itself; else what that tells (starts,
            memory, modes) is not known.
        trust, key: those of `edgedl.open`, for every bundle. Processes get keys by a pipe alone.

    Raises:
        BadOption: a shape is too dynamic for random inputs, the artifacts take unlike inputs, or
            there is no such metric.
        BadSamples: there are fewer than two. EngineFailed: an engine refuses every artifact.
        Unsupported: this process may not use as much of the processor as a call needs.
    """
    problems = preflight(threads, anyway=anyway)
    boxes = getattr(postprocess, "boxes", None)
    if metric is not None:
        metric_of(metric, boxes)
    artifacts = [
        find_artifact(path, engine, trust=trust if is_bundle(find_model(path)) else None, key=key)
        for path in paths
    ]
    secrets = {name: one for artifact in artifacts for name, one in artifact.secrets.items()}
    called = number_twins(names or [str(artifact.path) for artifact in artifacts])
    by_name = dict(zip(called, artifacts, strict=True))
    signature = common_signature(by_name, threads)
    feeds, inputs, notes = timing_feeds(signature, samples, seed)
    choose: Cores = (lambda: idle_cores(threads)) if pin else (lambda: None)
    contestants = [
        Contestant(name, artifact.path, artifact.engine, identity=artifact.identity)
        for name, artifact in by_name.items()
    ]
    on_gpu = any(artifact.on_gpu for artifact in artifacts)
    slowdowns, unseen = gpu_slowdowns() if on_gpu else (tuple, ())
    notes += unseen
    with Watch(gpu=slowdowns) as watch:
        outcome = contest(
            contestants,
            feeds,
            threads=threads,
            seconds=seconds,
            seed=seed,
            cores=choose,
            secrets=secrets,
            progress=progress,
        )
        failures = dict(outcome.failures)
        found = outcome.comparison
        confirmed = _confirm(
            contestants, found, feeds, threads, seconds, seed, choose, secrets, progress
        )
    given = None if samples is None else samples.origin(len(feeds))
    waiting = {n: one for n, one in by_name.items() if each_alone and n not in failures}
    alones, refused = _each_alone(
        waiting, feeds, threads, given, postprocess, modes, choose, progress
    )
    failures |= refused
    seen = replace(watch.conditions, clock_step_s=watch.clock_step_s())
    problem = "; ".join([*problems, *([reason] if (reason := invalid(seen)) else [])]) or None
    notes += doubts(seen, threads)
    notes += [doubt] if (doubt := clock_doubt(find_jetson())) else []
    lasted = {name: one for name, one in by_name.items() if name not in failures}
    answers: Mapping[str, Answered] = {}
    if samples is not None:
        limits = {"most_scored": MOST_SCORED, "most_compared": MOST_COMPARED}
        try:
            answers = answered(lasted, samples, metric, threads, progress, boxes=boxes, **limits)
        except BadSamples as error:
            notes.append(f"neither accuracy nor agreement is known: {error}")
    notes += [f"{name}: {one.failed}" for name, one in answers.items() if one.failed is not None]
    rows = tuple(
        _row(name, artifact, threads, found, alones.get(name), answers, failures, problem)
        for name, artifact in by_name.items()
    )
    notes += _doubts(rows, found, modes or {})
    return BenchReport(
        rows=rows,
        pairs=_pairs(found),
        confirmed=confirmed,
        noise_floor=None if found is None else found.noise_floor,
        processes=0 if found is None else len(found.processes),
        inputs=inputs,
        machine=this_machine().to_json(),
        conditions=seen.to_json(),
        doubts=tuple(notes),
        failures=failures,
        comparison=found,
        time=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        error=None if anyway else spoiled(seen, called),
    )


def _each_alone(
    artifacts: Mapping[str, Artifact],
    feeds: Sequence[Feed],
    threads: int,
    samples: Mapping[str, Any] | None,
    postprocess: Postprocess | None,
    modes: Mapping[str, Mapping[str, Any]] | None,
    cores: Cores,
    progress: Progress,
) -> tuple[dict[str, Alone], dict[str, str]]:
    """Each artifact's figures in a process of its own, and why others have none."""
    found: dict[str, Alone] = {}
    failures: dict[str, str] = {}
    for i, (name, artifact) in enumerate(artifacts.items()):
        progress("each alone", i, len(artifacts))
        try:
            found[name] = alone(
                artifact,
                feeds,
                threads=threads,
                samples=samples,
                postprocess=postprocess,
                modes=modes,
                cores=cores(),
            )
        except EngineFailed as error:
            failures[name] = error.message
    progress("each alone", len(artifacts), len(artifacts))
    return found, failures


def spoiled(seen: Conditions, names: Sequence[str]) -> EdgeError | None:
    """What is to be put right where the machine did what makes every figure invalid, or None."""
    reason = invalid(seen)
    if reason is None:
        return None
    first = "once the machine has cooled down and its clock is fixed"
    if seen.quota_stops:
        first = "with a larger quota, as in `docker run --cpus`"
    if clock_step(seen) is not None:
        first = "once `timedatectl` says that the clock is synchronised"
    again = shlex.join(["edgedl", "bench", *names])
    hint = f"{first}, run it again: {again}"
    return Unsupported(f"{reason}; no figure of this run is valid", hint=hint)


def _row(
    name: str,
    artifact: Artifact,
    threads: int,
    found: Comparison | None,
    by_itself: Alone | None,
    answers: Mapping[str, Answered],
    failures: Mapping[str, str],
    problem: str | None,
) -> Row:
    timed = found is not None and name in found.names
    digest, compressed = _digest_and_compressed(artifact)
    return Row(
        artifact=name,
        engine=artifact.engine,
        precision=artifact.precision,
        threads=threads,
        digest=digest,
        bytes=artifact.bytes,
        compressed_bytes=compressed,
        latency_ms=found.measurements[name].latency_ms() if found and timed else None,
        rounds_ms=found.round_medians_ms(name) if found and timed else (),
        yardsticks=found.against_yardstick(name) if found and timed else (),
        alone=by_itself,
        answers=answers.get(name),
        problem=failures.get(name, problem),
    )


def _pairs(found: Comparison | None) -> tuple[Pair, ...]:
    if found is None:
        return ()
    couples = list(combinations(found.names, 2))
    ratios = [found.ratio(a, b) for a, b in couples]
    judged = verdicts(ratios, found.noise_floor)
    return tuple(
        Pair(a, b, ratio, p, verdict)
        for (a, b), ratio, (verdict, p) in zip(couples, ratios, judged, strict=True)
    )


def _confirm(
    contestants: Sequence[Contestant],
    found: Comparison | None,
    feeds: Sequence[Feed],
    threads: int,
    seconds: float,
    seed: int,
    cores: Cores,
    secrets: Mapping[str, str],
    progress: Progress,
) -> Pair | None:
    """The fastest of three or more, against the first, on new rounds: picked from many, it has
    been lucky."""
    if found is None or len(found.names) < 3:
        return None
    first = found.names[0]
    fastest = max(found.names, key=lambda name: found.ratio(first, name).ratio)
    if fastest == first:
        return None
    again = contest(
        [c for c in contestants if c.name in (first, fastest)],
        feeds,
        threads=threads,
        seconds=seconds / 2,
        yardstick=False,
        seed=seed + 1,
        cores=cores,
        secrets=secrets,
        progress=progress,
    ).comparison
    if again is None or fastest not in again.names:
        return None
    ratio = again.ratio(first, fastest)
    [(verdict, p)] = verdicts([ratio], again.noise_floor)
    return Pair(first, fastest, ratio, p, verdict)


def _doubts(rows: Sequence[Row], found: Comparison | None, modes: Mapping[str, Any]) -> list[str]:
    notes = []
    if found is not None and found.unsteady:
        notes.append(f"not steady after the warm-up: {', '.join(found.unsteady)}")
    if any(row.latency_ms is not None and row.latency_ms["p99"] is None for row in rows):
        notes.append(f"p99 needs {FLOORS['p99']} calls: give more --seconds")
    if "energy" not in modes:
        notes.append("energy was not measured: --energy, where `edgedl doctor` finds a counter")
    if os.environ.get(ISA_VARIABLE) and any(row.engine == "onnxruntime" for row in rows):
        notes.append(ISA_DOUBT)
    for row in rows:
        if row.alone is not None and row.alone.cold.gpu_doubt is not None:
            notes.append(f"{row.artifact}: GPU memory: {row.alone.cold.gpu_doubt}")
        energy = None if row.alone is None else row.alone.modes.get("energy_doubts")
        notes += [f"{row.artifact}: {doubt}" for doubt in energy or ()]
    return notes


def number_twins(names: Sequence[str]) -> list[str]:
    """The names, numbered where one is given twice."""
    called: list[str] = []
    for name in names:
        count = sum(other.split(" #")[0] == name for other in called)
        called.append(name if not count else f"{name} #{count + 1}")
    return called


def _digest_and_compressed(artifact: Artifact) -> tuple[str, int]:
    """SHA-256 of the artifact's file and its external data, and their size under zlib, level 6."""
    digest, deflate, size = hashlib.sha256(), zlib.compressobj(6), 0
    for path in (artifact.path, artifact.path.with_name(artifact.path.name + ".data")):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(deflate.compress(chunk))
    return digest.hexdigest(), size + len(deflate.flush())
