"""Folders of runs: one process each, and the longest finished leave first."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from edgedl.core.errors import EdgeError
from edgedl.core.runs import DONE, LOCK, alone, run_folder, tidy_runs
from edgedl.core.store import Store

HOUR, DAY = 3600.0, 24 * 3600.0
NOW = 1e9


def run(store: Store, name: str, age: float, *, done: bool = True, size: int = 100) -> Path:
    """A run of `size` bytes that was last used so many seconds ago."""
    folder = run_folder(store, name)
    folder.mkdir(parents=True)
    (folder / "last.safetensors").write_bytes(b"\0" * size)
    (folder / LOCK).touch()
    if done:
        (folder / DONE).touch()
    for file in folder.iterdir():
        os.utime(file, (NOW - age, NOW - age))
    return folder


def left(store: Store) -> list[str]:
    tidy_runs(store, lambda: NOW)
    return sorted(path.name for path in (store.root / "runs").iterdir())


def test_the_longest_finished_leave_first_down_to_the_limit(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=200)
    for name, age in (("a", 9 * DAY), ("b", 8 * DAY), ("c", 7 * DAY), ("d", 2 * HOUR)):
        run(store, name, age)
    assert left(store) == ["c", "d"]
    assert left(store) == ["c", "d"]


def test_what_is_under_way_or_locked_or_just_used_stays(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=0)
    run(store, "fresh", 0.5 * HOUR)
    run(store, "killed", 20 * DAY, done=False)
    run(store, "given_up", 31 * DAY, done=False)
    run(store, "done", 2 * HOUR)
    locked = run(store, "locked", 40 * DAY)
    with (locked / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert left(store) == ["fresh", "killed", "locked"]
    assert left(store) == ["fresh", "killed"]


def test_one_process_trains_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    folder = run_folder(store, "k")
    with (
        alone(folder, store),
        pytest.raises(EdgeError, match="another process"),
        alone(folder, store),
    ):
        pass
    with alone(folder, store):
        tidy_runs(Store(tmp_path, limit_bytes=-1), lambda: NOW + 1e9)
        assert folder.exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with alone(folder, store), alone(folder, store):
        pass
