"""A session used for long: what a million calls leave in memory, and eight threads at once.

    python benchmarks/soak.py [--calls 1000000] [--minutes 10] [--threads 8]
                              [--model silero-vad | --bundle A.edl B.edl] [--out DIR]

Each engine has a process of its own. First every way to call is called so often, in turns over the
inputs, and the resident memory after a warm-up of 2 % is taken from that at the end. Then threads
call one session in random ways, and every answer is held against the one that the same input had
before they began, bit for bit. Nothing is timed, so the engines run side by side, and the machine
may be busy. Writes `soak.json` and `soak.md`; ends with status 1 where memory grew by more than
1 MB, or an answer was wrong. What calls leave that are stopped is shown and not judged: memory of
onnxruntime's goes up and down by many MB with calls that fail, bare ones, too.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from overhead import ENGINES, made
from zoo import fetch

import edgedl
from edgedl.benchmark.machine import this_machine
from edgedl.core.errors import Late
from edgedl.core.samples import open_npz
from edgedl.report.table import markdown
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.session import EngineSession
from edgedl.runtime.workers import Workers

RESULTS = Path(__file__).parent / "results"
MOST_GROWTH_BYTES = 1_000_000
WARM = 0.02
INPUTS = 32
LONG_MS, SHORT_MS = 60_000.0, 1e-3
AHEAD = 8
STOPPED = "run past its deadline"

Feed = dict[str, np.ndarray]
Answer = dict[str, np.ndarray]


def resident_bytes() -> int:
    """The memory that this process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def feeds_of(bundle: Path, samples: Path | None, session: EngineSession) -> list[Feed]:
    """Inputs for the session: some of the samples, or the bundle's golden ones."""
    if samples is None:
        return [dict(feed) for feed in open_bundle(bundle).golden().inputs]
    bound = open_npz(samples).bind(session.signature)
    return [dict(bound.feed(i)) for i in range(min(INPUTS, len(bound)))]


def blank(answer: Answer) -> Answer:
    """Arrays to write such an answer into."""
    return {name: np.empty_like(array) for name, array in answer.items()}


def ways(
    session: EngineSession, workers: Workers, feeds: Sequence[Feed]
) -> dict[str, Callable[[int], Any]]:
    """Every way to make call number i."""
    count = len(feeds)
    own = blank(session.run(feeds[0]))

    def late(i: int) -> None:
        try:
            session.run(feeds[i % count], SHORT_MS)
        except Late:
            return

    def submitted(i: int) -> None:
        future = workers.submit(feeds[i % count])
        if i % AHEAD == 0:
            future.result()

    return {
        "run": lambda i: session.run(feeds[i % count]),
        "run, arrays of each call's own": lambda i: session.run(
            {name: array.copy() for name, array in feeds[i % count].items()}
        ),
        "run_into": lambda i: session.run_into(feeds[i % count], own),
        "run_into, arrays of each call's own": lambda i: session.run_into(
            feeds[i % count], blank(own)
        ),
        "run with a deadline": lambda i: session.run(feeds[i % count], LONG_MS),
        STOPPED: late,
        "submit": submitted,
    }


def growth(call: Callable[[int], Any], calls: int) -> dict[str, Any]:
    """What so many calls add to the resident memory after the first of them."""
    warm = max(100, int(calls * WARM))
    for i in range(warm):
        call(i)
    seen = [resident_bytes()]
    for part in range(10):
        for i in range(calls * part // 10, calls * (part + 1) // 10):
            call(i)
        seen.append(resident_bytes())
    return {"calls": calls, "grown_bytes": seen[-1] - seen[0], "resident_bytes": seen}


def same(found: Answer, wanted: Answer) -> bool:
    """Whether two answers are the same bit for bit."""
    return all(found[name].tobytes() == array.tobytes() for name, array in wanted.items())


def ask(session: EngineSession, way: str, feed: Feed, own: Answer) -> Answer | None:
    """An answer had in some way; None where it came late, as it was to."""
    if way == "run":
        return session.run(feed)
    if way == "run_into":
        for array in own.values():
            array.fill(1)
        session.run_into(feed, own)
        return own
    try:
        return session.run(feed, LONG_MS if way == "deadline" else SHORT_MS)
    except Late:
        return None


def threads_at_once(
    session: EngineSession, feeds: Sequence[Feed], threads: int, seconds: float
) -> dict[str, Any]:
    """How many calls of several threads on one session were answered, late and wrong."""
    wanted = [session.run(feed) for feed in feeds]
    ends = monotonic() + seconds
    counts: list[Counter[str]] = [Counter() for _ in range(threads)]
    failures: list[str] = []

    def work(number: int) -> None:
        choose, own, count = random.Random(number), blank(wanted[0]), counts[number]
        try:
            while monotonic() < ends:
                i = choose.randrange(len(feeds))
                way = choose.choices(("run", "run_into", "deadline", "late"), (5, 5, 3, 1))[0]
                found = ask(session, way, feeds[i], own)
                right = found is None or same(found, wanted[i])
                count["late" if found is None else "right" if right else "wrong"] += 1
        except BaseException as error:
            failures.append(repr(error))

    begun = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for thread in begun:
        thread.start()
    for thread in begun:
        thread.join()
    total = sum(counts, Counter())
    words = {name: total[name] for name in ("right", "late", "wrong")}
    return {"threads": threads, "seconds": seconds, **words, "failures": failures}


def child(job: dict[str, Any]) -> dict[str, Any]:
    """All of it for one bundle."""
    bundle = Path(job["bundle"])
    samples = None if job["samples"] is None else Path(job["samples"])
    with edgedl.open(bundle, threads=1, at_once=job["at_once"], warm=True) as session:
        feeds = feeds_of(bundle, samples, session)
        with Workers(session, most_waiting=2 * AHEAD) as workers:
            grown = {
                way: growth(call, job["calls"])
                for way, call in ways(session, workers, feeds).items()
            }
        many = threads_at_once(session, feeds, job["threads"], job["minutes"] * 60)
        opened = session.opened
    left = [t.name for t in threading.enumerate() if t.name.startswith("edgedl")]
    return {
        "bundle": open_bundle(bundle).identity,
        "engine": opened.engine,
        "version": opened.version,
        "precision": opened.precision,
        "skipped": [str(one) for one in opened.skipped],
        "calls": grown,
        "threads": many,
        "threads_left": left,
    }


def is_sound(row: dict[str, Any]) -> bool:
    """Whether nothing leaked and no answer was wrong."""
    many = row["threads"]
    grown = [found["grown_bytes"] for way, found in row["calls"].items() if way != STOPPED]
    quiet = (
        not row["skipped"]
        and not row["threads_left"]
        and not many["failures"]
        and not many["wrong"]
    )
    return quiet and bool(many["right"]) and max(grown) <= MOST_GROWTH_BYTES


def table(model: str, rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """What came of the model on each engine, in words."""
    lines = [[model, *[f"{row['engine']} {row['version']}, {row['precision']}" for row in rows]]]
    for way, first in rows[0]["calls"].items():
        figures = [f"{row['calls'][way]['grown_bytes'] / 1e3:+.0f} kB" for row in rows]
        lines.append([f"{way}: memory that {first['calls']:,} calls leave", *figures])
    many = rows[0]["threads"]
    what = f"{many['threads']} threads on one session, {many['seconds'] / 60:g} min"
    for name, key in (("right answers", "right"), ("wrong", "wrong"), ("stopped as late", "late")):
        lines.append([f"{what}: {name}", *[f"{row['threads'][key]:,}" for row in rows]])
    return lines


def printed(command: Sequence[str]) -> dict[str, Any]:
    """The document that a process prints as its last line."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def soak(jobs: Sequence[dict[str, Any]], out: Path, model: str) -> bool:
    """Run the jobs, each in its own process, and write what came of them."""
    commands = [[sys.executable, __file__, "--job", json.dumps(job)] for job in jobs]
    with ThreadPoolExecutor(len(jobs)) as side_by_side:
        rows = list(side_by_side.map(printed, commands))
    document = {"model": model, "machine": this_machine().to_json(), "rows": rows}
    document["sound"] = all(is_sound(row) for row in rows)
    text = markdown(table(model, rows), right=tuple(range(1, len(rows) + 1)))
    out.mkdir(exist_ok=True, parents=True)
    (out / "soak.json").write_text(json.dumps(document, indent=1) + "\n")
    (out / "soak.md").write_text(text + "\n")
    print(text)
    for row in rows:
        for failure in (*row["skipped"], *row["threads"]["failures"], *row["threads_left"]):
            print(f"{row['engine']}: {failure}")
    return bool(document["sound"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=1_000_000, help="calls of each kind")
    parser.add_argument("--minutes", type=float, default=10, help="of several threads at once")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--at-once", type=int, default=2, help="calls that OpenVINO computes")
    parser.add_argument("--model", default="silero-vad", help="of the zoo")
    parser.add_argument("--bundle", type=Path, nargs="+", help="instead, with golden inputs")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "edgedl" / "zoo")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job is not None:
        print(json.dumps(child(given.job)))
        return
    amounts = {"calls": given.calls, "minutes": given.minutes, "threads": given.threads}
    amounts["at_once"] = given.at_once
    if given.bundle:
        jobs = [{"bundle": str(one), "samples": None, **amounts} for one in given.bundle]
        sound = soak(jobs, given.out, ", ".join(one.name for one in given.bundle))
    else:
        entry = fetch(given.model, given.cache)
        samples = str(entry.samples)
        with tempfile.TemporaryDirectory() as folder:
            bundles = [made(entry, name, Path(folder)) for name in ENGINES]
            jobs = [{"bundle": str(one), "samples": samples, **amounts} for one in bundles]
            sound = soak(jobs, given.out, entry.name)
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
