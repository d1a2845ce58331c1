"""Which of an engine's schemes is the better one for a model on this machine, by measurement."""

from __future__ import annotations

from edgedl.backends import Backend, in_scheme
from edgedl.core.errors import EdgeError
from edgedl.core.ledger import Ledger
from edgedl.core.progress import Progress
from edgedl.core.target import Scheme
from edgedl.passes.ranges import Method
from edgedl.search.candidates import Candidate, Reference, int8_candidate
from edgedl.search.choose import time_candidates
from edgedl.search.memory import judge, key_of_candidate, machine_parts
from edgedl.search.prepared import Prepared

CLEARLY_FASTER = 0.97
AS_FAST = 1.01
CLEARLY_DB = 0.2
FEW = 24
METHOD: Method = "minmax"


def in_better_scheme(
    built: Backend,
    prepared: Prepared,
    expected: Reference,
    threads: int,
    progress: Progress,
) -> Backend:
    """The backend in that one of its schemes which is 3 % faster than its usual one, or as fast
    within 1 % and 0.2 dB nearer to float's answers; as it is where none is.

    The full plans are compared, with ranges by the same method. What was found is noted.
    """
    usual, few = _full(built, built.scheme, prepared), expected.take(FEW)
    for scheme in built.schemes:
        other = _full(built, scheme, prepared)
        if other.model.digest == usual.model.digest:
            continue
        noted = Ledger.of(
            "schemes",
            usual=key_of_candidate(usual),
            other=key_of_candidate(other),
            expected=few.digest,
            threads=threads,
            machine=machine_parts(),
        )
        rows = [row for row in noted.rows() if "better" in row]
        if not rows:
            progress(f"comparing {scheme.name} with {built.scheme.name}", 0, 1)
            try:
                better = _better(usual, other, few, threads, progress)
            except EdgeError:
                better = False
            rows = [{"better": better}]
            noted.add(rows)
        if rows[-1]["better"]:
            return in_scheme(built, scheme)
    return built


def _full(built: Backend, scheme: Scheme, prepared: Prepared) -> Candidate:
    label = f"int8, {scheme.name}"
    return int8_candidate(in_scheme(built, scheme), prepared, METHOD, label=label)


def _better(
    usual: Candidate, other: Candidate, few: Reference, threads: int, progress: Progress
) -> bool:
    timed = time_candidates((usual, other), [few.feeds[0]], threads, 0, progress)
    if other.name not in timed.latency_ms:
        return False
    ratio = timed.latency_ms[other.name] / timed.latency_ms[usual.name]
    if ratio > AS_FAST:
        return False
    db = [judge(one, few, threads).agreement.sqnr_db for one in (usual, other)]
    return db[1] >= db[0] + CLEARLY_DB or (ratio <= CLEARLY_FASTER and db[1] > db[0] - CLEARLY_DB)
