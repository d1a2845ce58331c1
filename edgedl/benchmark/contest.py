"""Contestants timed in several fresh processes, one after another, until it is known enough."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

from edgedl.benchmark.compare import Comparison
from edgedl.benchmark.measure import Feed
from edgedl.benchmark.rounds import Rounds
from edgedl.benchmark.worker import read_rounds, write_feeds
from edgedl.core.errors import EngineFailed
from edgedl.core.progress import Progress, silent

OPENER = "edgedl.benchmark.worker:open_contestant"
LEAST_PROCESSES, QUICK_PROCESSES, QUICK_SECONDS = 5, 3, 5.0
MOST_PROCESSES = 40
LEAST_ROUNDS = 4
PROCESS_SECONDS = (0.3, 3.0)
HANGS_SECONDS = 600.0
POLL_SECONDS = 0.1

Cores = Callable[[], Sequence[int] | None]


@dataclass(frozen=True)
class Contestant:
    """Something to open in a fresh process and to time.

    Attributes:
        path: a bundle or an ONNX file.
        settings: the engine's, for an ONNX file; None for what the artifact itself says.
        identity: the bundle's, so that another that took its place is refused; None for any.
        opener: `module:function`, called there with this as JSON and the number of threads.
    """

    name: str
    path: Path
    engine: str
    settings: Mapping[str, Any] | None = None
    opener: str = OPENER
    identity: str | None = None

    def to_json(self) -> dict[str, Any]:
        settings = None if self.settings is None else dict(self.settings)
        return {
            "name": self.name,
            "path": str(self.path),
            "engine": self.engine,
            "settings": settings,
            "opener": self.opener,
            "identity": self.identity,
        }


@dataclass(frozen=True)
class Outcome:
    """What a contest found: the comparison of those that lasted, and why the others did not.

    `comparison` is None where nothing lasted.
    """

    comparison: Comparison | None
    failures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What a process is told."""

    contestants: tuple[Contestant, ...]
    inputs: Sequence[str]
    feeds: int
    threads: int
    seconds: float
    seed: int
    cores: tuple[int, ...] | None
    least_rounds: int = LEAST_ROUNDS
    twin: bool = True
    yardstick: bool = True

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "contestants": [c.to_json() for c in self.contestants]}


class _Failed(Exception):
    """A contestant did not last: its name, and why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name, self.reason = name, reason


def contest(
    contestants: Sequence[Contestant],
    feeds: Sequence[Feed],
    *,
    threads: int = 1,
    seconds: float = 10.0,
    precision: float = 0.005,
    enough: Callable[[Comparison], bool] = lambda _: False,
    yardstick: bool = True,
    seed: int = 0,
    cores: Cores = lambda: None,
    secrets: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> Outcome:
    """Time contestants in interleaved rounds in fresh processes, the first beside a twin of itself.

    Processes follow one another until every ratio to the first, the twin's too, has an interval
    narrower than twice `precision`, or until `seconds` are spent, process starts included; five of
    them at least, or three where there are less than 5 seconds. One that fails, or takes its
    process down with it, is left out of what follows and of the result.

    Args:
        enough: whether what three or more processes found answers the question already.
        cores: which cores the next process is bound to; None for all.
        secrets: keys of encrypted bundles in hex, by their names, which go to each process over a
            pipe, and nowhere else.
    """
    least = QUICK_PROCESSES if seconds < QUICK_SECONDS else LEAST_PROCESSES
    share = min(max(0.6 * seconds / least, PROCESS_SECONDS[0]), PROCESS_SECONDS[1])
    left = list(contestants)
    failures: dict[str, str] = {}
    done: list[Rounds] = []
    began = monotonic()
    with tempfile.TemporaryDirectory(prefix="edgedl-contest-") as folder:
        inputs = write_feeds(Path(folder) / "feeds.npz", feeds)
        job = Job((), inputs, len(feeds), threads, share, seed, None, yardstick=yardstick)
        while left and len(done) < MOST_PROCESSES:
            spent = monotonic() - began
            if len(done) >= least and (spent > seconds or _known(done, precision)):
                break
            if len(done) >= QUICK_PROCESSES and enough(Comparison(tuple(done))):
                break
            chosen = cores()
            job = replace(
                job,
                contestants=tuple(left),
                seed=seed + 1000 * len(done),
                cores=None if chosen is None else tuple(chosen),
            )
            floor = len(done) / least

            def tell(now: float, floor: float = floor) -> None:
                part = max(floor, min((monotonic() - began) / seconds, 0.99)) if now else floor
                progress("timing", round(100 * min(part, 0.99)), 100)

            try:
                done.append(_one(Path(folder), job, tell, secrets or {}))
            except _Failed as failed:
                failures[failed.name] = failed.reason
                left = [c for c in left if c.name != failed.name]
    progress("timing", 100, 100)
    kept = [_without(rounds, failures) for rounds in done]
    first = left[0].name if left else ""
    kept = [r for r in kept if first in r.samples_ns]
    if not kept or not left:
        return Outcome(None, failures)
    return Outcome(Comparison(tuple(kept)), failures)


def must(outcome: Outcome, hint: str) -> Comparison:
    """The comparison, where every contestant lasted.

    Raises:
        EngineFailed: one did not.
    """
    for name, reason in outcome.failures.items():
        raise EngineFailed(f"`{name}` failed while it was timed: {reason}", hint=hint)
    assert outcome.comparison is not None
    return outcome.comparison


def _known(done: Sequence[Rounds], precision: float) -> bool:
    found = Comparison(tuple(done))
    first, *others = found.names
    widths = [found.ratio(first, name).width for name in others]
    return found.noise_floor < 2 * precision + 0.005 and max(widths, default=0) < 2 * precision


def _without(rounds: Rounds, names: Mapping[str, str]) -> Rounds:
    def left(by_name: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in by_name.items() if name not in names}

    return Rounds(**{kind: left(by_name) for kind, by_name in vars(rounds).items()})


def _one(
    folder: Path, job: Job, tell: Callable[[float], None], secrets: Mapping[str, str]
) -> Rounds:
    for name in ("rounds.npz", "failed.json"):
        (folder / name).unlink(missing_ok=True)
    (folder / "job.json").write_text(json.dumps(job.to_json()))
    (folder / "turn").write_bytes(b"\0")
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "edgedl.benchmark.worker", str(folder)]
    with (folder / "stderr").open("w+b") as stderr:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=stderr, stderr=stderr, env=environment
        )
        hand(process, secrets)
        deadline = monotonic() + HANGS_SECONDS + job.seconds
        try:
            while process.poll() is None:
                tell(monotonic())
                if monotonic() > deadline:
                    break
                try:
                    process.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            hung = process.poll() is None
            if hung:
                process.kill()
                process.wait()
        stderr.seek(0)
        words = stderr.read().decode(errors="replace").strip().splitlines()
    return _result(folder, job, process.returncode, hung, words)


def hand(process: subprocess.Popen[bytes], secrets: Mapping[str, str]) -> None:
    """Give a process the keys of what it is to open, by its standard input."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(json.dumps(dict(secrets)).encode())


def _result(folder: Path, job: Job, status: int, hung: bool, words: Sequence[str]) -> Rounds:
    failed = folder / "failed.json"
    if failed.exists():
        found = json.loads(failed.read_text())
        raise _Failed(found["name"], found["reason"])
    if status == 0 and not hung:
        return read_rounds(folder / "rounds.npz")
    turn = (folder / "turn").read_bytes()[0]
    name = job.contestants[turn if turn < len(job.contestants) else 0].name
    if hung:
        raise _Failed(name, f"no end after {HANGS_SECONDS + job.seconds:.0f} s")
    if status < 0:
        raise _Failed(name, f"it took its process down ({signal.Signals(-status).name})")
    raise _Failed(name, words[-1][:300] if words else f"its process ended with status {status}")
