"""What was found out about candidates before, on this machine, so that it need not be again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import median
from typing import Any

import numpy as np

from edgedl.benchmark.machine import own_processor
from edgedl.core.errors import EngineFailed
from edgedl.core.ledger import Ledger
from edgedl.core.model import Model
from edgedl.core.stats import Agreement
from edgedl.core.store import key_of
from edgedl.runtime import engine
from edgedl.runtime.session import Session
from edgedl.search.candidates import Candidate, Reference, Trial, try_out
from edgedl.search.foretold import answering

LATEST = 5
MOST_AGE_SECONDS = 30 * 86_400
FRESH_SECONDS, QUIET = 86_400, 0.05
MOST_CRASHES = 2
MACHINE = ("processor", "architecture", "isa", "usable_cores", "isa_cap")


def machine_parts() -> dict[str, Any]:
    """What of this machine decides how long an operator takes and what its kernels answer."""
    own = own_processor()
    return {name: getattr(own, name) for name in MACHINE}


def key_of_candidate(candidate: Candidate) -> str:
    """One name for the same file, on the same engine, in the same settings."""
    return key_of(
        model=candidate.model.digest,
        engine=candidate.engine,
        version=engine(candidate.engine).version,
        settings=dict(candidate.settings),
    )


@contextlib.contextmanager
def careful(candidate: Candidate) -> Iterator[None]:
    """Around what an engine does with a candidate: a note that it has begun and that it ended.

    A candidate that brought its process down twice is not opened again on this machine: once may
    have been somebody's kill.

    Raises:
        EngineFailed: it did.
    """
    notes = Ledger.of("opened", machine=machine_parts())
    name = key_of_candidate(candidate)
    mine = [row.get("ended") for row in notes.rows() if row.get("candidate") == name]
    if mine.count(False) >= MOST_CRASHES and True not in mine:
        raise EngineFailed(
            f"{candidate.engine} brought the process down whenever this was tried",
            where=str(candidate.model.path),
            hint=f"remove {notes.path} to try again",
        )
    new = True not in mine
    if new:
        notes.add([{"candidate": name, "ended": False}])
    try:
        yield
    finally:
        if new:
            notes.add([{"candidate": name, "ended": True}])


def open_carefully(
    name: str,
    model: Model,
    settings: Mapping[str, Any],
    threads: int | None = None,
    feed: Mapping[str, np.ndarray] | None = None,
) -> Session:
    """A session of a float model on the engine of this name, which has answered these inputs.

    Raises:
        EngineFailed: the engine refuses the model, or brought the process down before.
    """
    candidate = Candidate(name, "float32", "float32", model, settings)
    with careful(candidate):
        session = candidate.open(threads)
        try:
            if feed is not None:
                session.run(feed)
        except BaseException:
            session.close()
            raise
        return session


def judge(candidate: Candidate, expected: Reference, threads: int | None) -> Trial:
    """A candidate's answers compared with float, as `try_out` does it, or as it was found before.

    Raises:
        EngineFailed: the engine refuses the model, or fails while it runs.
    """
    kept = Ledger.of("answers", expected=expected.digest, machine=machine_parts(), threads=threads)
    name = key_of_candidate(candidate)
    for row in kept.rows():
        if row.get("candidate") == name:
            with contextlib.suppress(KeyError, TypeError, ValueError):
                # A row without it took integers for measured values.
                alike = {**row["agreement"], "equal": row["agreement"]["equal"]}
                return Trial(candidate, Agreement(**alike), float(row["drop"]))
    with careful(candidate):
        session = answering(candidate, expected.machine, threads)
        trial = try_out(candidate, expected, session)
    agreement = trial.agreement.to_json()
    kept.add([{"candidate": name, "agreement": agreement, "drop": trial.drop}])
    return trial


class Latencies:
    """Ratios of candidates' times to one reference's, of the last 30 days on this machine.

    They belong to the versions of edgedl and of both engines. What is older counts no more: systems
    and firmware change, and nothing tells that they did.
    """

    def __init__(
        self,
        reference: Candidate,
        threads: int,
        shapes: Mapping[str, Any],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = Ledger.of(
            "latency",
            reference=key_of_candidate(reference),
            machine=machine_parts(),
            threads=threads,
            shapes=dict(shapes),
        )
        self._clock = clock
        self._seen: dict[str, list[float]] = {}
        self._fresh: set[str] = set()
        now = clock()
        for row in self._ledger.rows():
            with contextlib.suppress(KeyError, TypeError, ValueError):
                age = abs(now - float(row["at"]))
                if age <= MOST_AGE_SECONDS:
                    self._seen.setdefault(row["candidate"], []).append(float(row["ratio"]))
                if age <= FRESH_SECONDS and float(row["noise"]) <= QUIET:
                    self._fresh.add(row["candidate"])

    def ratio(self, candidate: Candidate) -> float | None:
        """Its time over the reference's, None where it was not timed of late."""
        seen = self._seen.get(key_of_candidate(candidate), [])[-LATEST:]
        return median(seen) if seen else None

    def fresh(self, candidate: Candidate) -> bool:
        """Whether it was timed within a day, while the machine was quiet."""
        return key_of_candidate(candidate) in self._fresh

    def add(self, found: Iterable[tuple[Candidate, float]], noise: float = 1.0) -> None:
        """Keep what was measured now.

        Args:
            noise: by which share the same model differed from itself meanwhile.
        """
        at = round(self._clock())
        rows = [(key_of_candidate(candidate), ratio) for candidate, ratio in found]
        for name, ratio in rows:
            self._seen.setdefault(name, []).append(ratio)
        self._ledger.add(
            {"candidate": name, "ratio": ratio, "at": at, "noise": noise} for name, ratio in rows
        )
