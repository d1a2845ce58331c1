"""The fresh process in which contestants are timed: `python -m edgedl.benchmark.worker FOLDER`.

Keys of encrypted bundles come by standard input, in hex by their names, as JSON.
FOLDER holds `job.json` and `feeds.npz`; `rounds.npz` is written into it, or `failed.json`. The one
byte of `turn` always tells whose turn it is, for the case that the process dies in it.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.benchmark.measure import Feed
from edgedl.benchmark.rounds import TWIN, YARDSTICK, Rounds, run_rounds
from edgedl.core.errors import EdgeError
from edgedl.core.model import Signature
from edgedl.core.registry import load
from edgedl.runtime import engine
from edgedl.runtime.artifact import find_artifact, key_of_secrets
from edgedl.runtime.session import Session

KINDS = ("samples_ns", "warm_up_ns", "forth_ns", "back_ns")


def open_contestant(entry: Mapping[str, Any], threads: int) -> Session:
    """A session of an artifact, or of an ONNX file in the engine's settings that are given."""
    if entry["settings"] is None:
        key = key_of_secrets(entry.get("secrets", {}))
        identity = entry.get("identity")
        return find_artifact(entry["path"], entry["engine"], key=key, identity=identity).open(
            threads
        )
    chosen = engine(entry["engine"])
    return chosen.open_model(Path(entry["path"]), settings=entry["settings"], threads=threads)


class Yardstick:
    """A session of fixed work, half arithmetic and half memory traffic, a third of a millisecond.

    It tells how fast the machine was when something was timed beside it.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.signature = Signature((), ())
        self._a = rng.standard_normal((160, 160)).astype(np.float32)
        self._b = rng.standard_normal((160, 160)).astype(np.float32)
        self._product = np.empty_like(self._a)
        self._from = rng.standard_normal(1 << 19).astype(np.float32)
        self._to = np.empty_like(self._from)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        for _ in range(4):
            np.dot(self._a, self._b, out=self._product)
        np.add(self._from, 1.0, out=self._to)
        return {}

    def close(self) -> None:
        """Holds nothing to give back."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_feeds(path: Path, feeds: Sequence[Feed]) -> list[str]:
    """Feeds as one archive; returns the names of the inputs, which are not all fit for files."""
    names = list(feeds[0])
    arrays: dict[str, Any] = {
        f"{i}.{k}": feed[name] for i, feed in enumerate(feeds) for k, name in enumerate(names)
    }
    np.savez(path, **arrays)
    return names


def read_feeds(path: Path, inputs: list[str], count: int) -> list[Feed]:
    """What `write_feeds` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return [
            {name: np.array(arrays[f"{i}.{k}"]) for k, name in enumerate(inputs)}
            for i in range(count)
        ]


def write_rounds(path: Path, rounds: Rounds) -> None:
    """All of it as one archive of arrays."""
    arrays: dict[str, Any] = {"names": np.asarray(list(rounds.samples_ns))}
    arrays["steady"] = np.asarray(list(rounds.steady.values()))
    for kind in KINDS:
        for i, array in enumerate(getattr(rounds, kind).values()):
            arrays[f"{kind}.{i}"] = array
    np.savez(path, **arrays)


def read_rounds(path: Path) -> Rounds:
    """What `write_rounds` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        names = [str(name) for name in arrays["names"]]
        steady = {name: bool(s) for name, s in zip(names, arrays["steady"], strict=True)}
        kinds = {
            kind: {name: arrays[f"{kind}.{i}"] for i, name in enumerate(names)} for kind in KINDS
        }
    return Rounds(steady=steady, **kinds)


def main(folder: Path) -> int:
    """Do the job; 0 when it is done, 3 when a contestant failed."""
    job = json.loads((folder / "job.json").read_text())
    if job["cores"]:
        os.sched_setaffinity(0, job["cores"])
    with (folder / "turn").open("r+b") as file:
        turn = mmap.mmap(file.fileno(), 1)
    secrets = json.load(sys.stdin)
    entries = {entry["name"]: {**entry, "secrets": secrets} for entry in job["contestants"]}
    first = next(iter(entries))
    order = [*entries, *([TWIN] if job["twin"] else []), *([YARDSTICK] if job["yardstick"] else [])]
    position = {name: i for i, name in enumerate(order)}
    under_way = first

    def on_turn(name: str) -> None:
        nonlocal under_way
        under_way = name
        turn[0] = position[name]

    sessions: dict[str, Session] = {}
    try:
        for name in order:
            on_turn(name)
            if name == YARDSTICK:
                sessions[name] = Yardstick()
                continue
            entry = entries[first if name == TWIN else name]
            opener: Callable[[Mapping[str, Any], int], Session] = load(entry["opener"], "timing")
            sessions[name] = opener(entry, job["threads"])
        rounds = run_rounds(
            sessions,
            read_feeds(folder / "feeds.npz", job["inputs"], job["feeds"]),
            seconds=job["seconds"],
            least_rounds=job["least_rounds"],
            seed=job["seed"],
            on_turn=on_turn,
        )
    except EdgeError as error:
        name = first if under_way == TWIN else under_way
        failed = {"name": name, "reason": error.message}
        (folder / "failed.json").write_text(json.dumps(failed))
        return 3
    write_rounds(folder / "rounds.npz", rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
