"""Altered bundles by the hundred thousand: each is opened, or refused in words, within limits.

    python benchmarks/fuzz.py [--cases 100000] [--first 0] [--jobs 1] [--write]

A case is a fault where anything but an EdgeError is raised, where a bundle is trusted that nobody
signed, where more Python functions are called than `MOST_CALLS` or a case takes `MOST_SECONDS`,
or where more memory is taken than the limits of the format allow. Prints each fault with the number
that makes it again (`--first N --cases 1`). With `--write`, writes `fuzz.md` and `fuzz.json` in
`benchmarks/results/`. Exit status 1 where there was a fault.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import platform
import resource
import signal
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz_cases import MOST_CALLS, bench, case, exercise

import edgedl

RESULTS = Path(__file__).resolve().parent / "results"
MOST_SECONDS = 20
# Counting calls takes longer than the calls: of one case in so many; time is taken of all.
COUNTED = 16
# A hundred thousand files would wait for a disk.
IN_MEMORY = Path("/dev/shm")
# What a small file may take: a fixed part, and what deflate can make of its bytes, twice.
MOST_BYTES, BYTES_A_BYTE = 64 << 20, 2 * 1032


class Fault(BaseException):
    """A case went beyond a limit; nothing that is fuzzed catches it."""


@dataclass
class Tally:
    """What came of the cases.

    Attributes:
        ends: how many cases ended how.
        faults: what was wrong, with the last lines of its trace.
        calls, bytes, seconds: the most Python calls, memory and time of one case.
        resident_bytes: the most that the process ever had resident.
    """

    ends: collections.Counter[str] = field(default_factory=collections.Counter)
    faults: list[str] = field(default_factory=list)
    calls: int = 0
    bytes: int = 0
    seconds: float = 0.0
    resident_bytes: int = 0

    def add(self, other: Tally) -> None:
        self.ends += other.ends
        self.faults += other.faults
        self.calls, self.bytes = max(self.calls, other.calls), max(self.bytes, other.bytes)
        self.seconds = max(self.seconds, other.seconds)
        self.resident_bytes = max(self.resident_bytes, other.resident_bytes)


def one(number: int, path: Path, tools: Any, tally: Tally) -> None:
    """Try the case of this number, and add what came of it."""
    made = case(number, tools)
    path.write_bytes(made.data)
    calls = 0

    def counted(_: Any, event: str, __: Any) -> None:
        nonlocal calls
        calls += event == "call"
        if calls > MOST_CALLS:
            sys.setprofile(None)
            raise Fault(f"more than {MOST_CALLS} calls")

    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    # By the time of this process, not the wall's: others may have the processor meanwhile.
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    began = time.process_time()
    if number % COUNTED == 0:
        sys.setprofile(counted)
    try:
        end = exercise(path, tools, vouched=made.vouched)
        sys.setprofile(None)
        taken = tracemalloc.get_traced_memory()[1] - before
        tally.bytes = max(tally.bytes, taken)
        if taken > MOST_BYTES + BYTES_A_BYTE * len(made.data):
            raise Fault(f"{taken} bytes of memory for a file of {len(made.data)}")
    except BaseException as error:
        sys.setprofile(None)
        if isinstance(error, KeyboardInterrupt):
            raise
        end = "FAULT"
        trace = "".join(traceback.format_exception(error)[-4:])
        tally.faults.append(f"{made.how}\n{trace}")
    finally:
        sys.setprofile(None)
        signal.setitimer(signal.ITIMER_PROF, 0)
    tally.seconds = max(tally.seconds, time.process_time() - began)
    tally.calls = max(tally.calls, calls)
    tally.ends[end] += 1


def many(span: tuple[int, int]) -> Tally:
    """The cases from one number up to another."""

    def late(*_: Any) -> None:
        raise Fault(f"more than {MOST_SECONDS} s")

    signal.signal(signal.SIGPROF, late)
    warnings.simplefilter("error")
    tally = Tally()
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder:
        tools, path = bench(Path(folder)), Path(folder) / "case.edl"
        tracemalloc.start()
        for number in range(*span):
            one(number, path, tools, tally)
        tracemalloc.stop()
    tally.resident_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return tally


def report(tally: Tally, cases: int, first: int, seconds: float) -> str:
    ends = "\n".join(f"| {end} | {count} |" for end, count in tally.ends.most_common())
    return (
        f"# Altered bundles\n\n`python benchmarks/fuzz.py --cases {cases} --first {first} --write`,"
        f" edgedl {edgedl.__version__}, Python {platform.python_version()}, {platform.machine()},"
        f" {seconds:.0f} s.\n\n{cases} cases, {len(tally.faults)} faults. The most of one case:"
        f" {tally.calls} Python calls (counted in one of {COUNTED}), {tally.bytes / 1e6:.1f} MB of"
        f" memory, and {tally.seconds:.2f} s of a processor, traced. The largest"
        f" process had {tally.resident_bytes / 1e6:.0f} MB resident.\n\n"
        f"| how a case ended | cases |\n| --- | --- |\n{ends}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    began, last = time.monotonic(), given.first + given.cases
    step = max(1, min(1000, given.cases // given.jobs))
    spans = [(at, min(at + step, last)) for at in range(given.first, last, step)]
    tally = Tally()
    os.environ.pop("EDGEDL_TRUST", None)
    with ProcessPoolExecutor(given.jobs) as pool:
        try:
            for i, part in enumerate(pool.map(many, spans)):
                tally.add(part)
                print(f"{spans[i][1] - given.first}/{given.cases}", file=sys.stderr)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
    given.cases = sum(tally.ends.values())
    for fault in tally.faults:
        print(fault, file=sys.stderr)
    text = report(tally, given.cases, given.first, time.monotonic() - began)
    print(text)
    if given.write:
        (RESULTS / "fuzz.md").write_text(text)
        found = {
            "edgedl": edgedl.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "first": given.first,
            "cases": given.cases,
            "faults": len(tally.faults),
            "most_calls": tally.calls,
            "most_bytes": tally.bytes,
            "slowest_seconds": round(tally.seconds, 4),
            "most_resident_bytes": tally.resident_bytes,
            "ends": dict(tally.ends.most_common()),
        }
        (RESULTS / "fuzz.json").write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(bool(tally.faults))


if __name__ == "__main__":
    main()
