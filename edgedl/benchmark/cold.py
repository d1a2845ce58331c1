"""One artifact in a fresh process: how long until its first answer, and how much memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from edgedl.core.errors import EngineFailed
from edgedl.core.memory import peak_rss_bytes

LIMIT_SECONDS = 600


@dataclass(frozen=True)
class Cold:
    """Milliseconds to load and compile, and for the first call; memory beyond the imports."""

    load_ms: float
    first_ms: float
    peak_rss_bytes: int | None


def cold(path: Path, engine: str, threads: int | None, feed: Mapping[str, np.ndarray]) -> Cold:
    """Open an artifact and run it once, in a process of its own.

    Raises:
        EngineFailed: the process ended without an answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        arrays: dict[str, Any] = {f"a{i}": array for i, array in enumerate(feed.values())}
        np.savez(inputs, **arrays)
        names = json.dumps(list(feed))
        command = [
            sys.executable,
            "-m",
            "edgedl.benchmark.cold",
            str(path),
            engine,
            str(threads or 0),
        ]
        done = subprocess.run(
            [*command, str(inputs), names],
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it ended without a word"]
        raise EngineFailed(
            f"in a fresh process {engine} failed: {lines[-1][:300]}",
            where=str(path),
            hint="`edgedl check` it",
        )
    found = json.loads(done.stdout.splitlines()[-1])
    return Cold(found["load_ms"], found["first_ms"], found["peak_rss_bytes"])


def main(path: str, engine: str, threads: str, inputs: str, names: str) -> None:
    """The fresh process."""
    from edgedl.runtime import engine as find_engine
    from edgedl.runtime.artifact import find_artifact

    find_engine(engine)
    with np.load(inputs, allow_pickle=False) as arrays:
        feed = {name: arrays[f"a{i}"] for i, name in enumerate(json.loads(names))}
    before = peak_rss_bytes()
    start = perf_counter()
    session = find_artifact(path, engine).open(int(threads) or None)
    loaded = perf_counter()
    session.run(feed)
    answered = perf_counter()
    after = peak_rss_bytes()
    document = {
        "load_ms": (loaded - start) * 1e3,
        "first_ms": (answered - loaded) * 1e3,
        "peak_rss_bytes": None if before is None or after is None else after - before,
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main(*sys.argv[1:])
