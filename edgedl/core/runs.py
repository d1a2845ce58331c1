"""Folders of training runs in the store: one process each, and no more of them than fit."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgedl.core.errors import EdgeError
from edgedl.core.store import Store

RUNS, LOCK, DONE = "runs", "lock", "told.json"
GONE = ".gone-"
FRESH_SECONDS = 3600
# From then on a run that nobody finished counts as given up.
GIVEN_UP_SECONDS = 30 * 24 * 3600


def run_folder(store: Store, key: str) -> Path:
    """Where the run of a key lies."""
    return store.root / RUNS / key[:32]


@contextlib.contextmanager
def alone(folder: Path, store: Store) -> Iterator[None]:
    """No other process trains in this folder, which is made; those of one `torchrun` are one.

    Raises:
        EdgeError: another process does, or the store cannot be written.
    """
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    with contextlib.ExitStack() as stack:
        while True:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context((folder / LOCK).open("w"))
            except OSError as error:
                raise store.unwritable(error) from error
            if together:
                break
            if not _locked(file):
                raise EdgeError(
                    "another process is training this recipe",
                    where=str(folder),
                    hint="wait for it, or stop it; what it has trained is not lost",
                )
            if _is_at(file, folder / LOCK):
                break
        yield


def tidy_runs(store: Store, clock: Callable[[], float] = time.time) -> None:
    """Remove runs down to the store's size limit: those longest finished first, then such as nobody
    has gone on with for a month. One that is locked, or was used within the hour, stays."""
    folder = store.root / RUNS
    for left in folder.glob(f"{GONE}*"):
        shutil.rmtree(left, ignore_errors=True)
    now = clock()
    found = [one for path in folder.glob("[!.]*") if (one := _seen(path, now)) is not None]
    total = sum(one.size for one in found)
    for one in sorted(found, key=lambda run: (not run.finished, -run.age)):
        if total <= store.limit_bytes:
            break
        if one.age >= (FRESH_SECONDS if one.finished else GIVEN_UP_SECONDS) and _removed(one.path):
            total -= one.size


@dataclass(frozen=True)
class _Run:
    path: Path
    finished: bool
    age: float
    size: int


def _seen(path: Path, now: float) -> _Run | None:
    try:
        stats = [file.stat() for file in path.iterdir()]
        last = max((one.st_mtime for one in stats), default=path.stat().st_mtime)
        return _Run(path, (path / DONE).exists(), now - last, sum(one.st_size for one in stats))
    except OSError:
        return None


def _removed(path: Path) -> bool:
    """Whether a run that nobody has locked could be removed; it goes out of sight at once."""
    try:
        with (path / LOCK).open("a") as file:
            if not _locked(file):
                return False
            gone = path.with_name(GONE + secrets.token_hex(4))
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
    except OSError:
        return False
    return True


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether a file still lies where it was opened: its folder may have been removed since."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
