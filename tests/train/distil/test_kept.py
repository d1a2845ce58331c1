"""Answers that are kept: a kill loses a block at most, and damage is told."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgedl.core.errors import BadCheckpoint, EdgeError
from edgedl.core.progress import silent
from edgedl.train.distil.kept import BLOCK, Kept, compute, opened

TYPE = np.dtype("float32")
PARTS = [np.arange(3)] * 70


class Killed(Exception):
    pass


def answer(step: int) -> np.ndarray:
    return np.full((3, 2), step, np.float32)


def computed(path: Path, last: int | None = None) -> list[int]:
    """The batches that were asked for, up to a kill."""
    asked: list[int] = []

    def ask(first: int) -> Iterator[np.ndarray]:
        for step in range(first, len(PARTS)):
            if step == last:
                raise Killed
            asked.append(step)
            yield answer(step)

    try:
        compute(path, PARTS, 2, TYPE, ask, "answers", silent)
    except Killed:
        assert last is not None
    return asked


def test_it_goes_on_after_the_last_block(tmp_path: Path) -> None:
    path = tmp_path / "answers" / "a.npy"
    assert computed(path, 5) == list(range(5))
    assert computed(path, 40) == list(range(40))
    assert BLOCK == 32
    assert computed(path, 66) == list(range(32, 66))
    assert computed(path) == list(range(64, 70))
    assert computed(path) == []
    found = opened(path, 210, 2, TYPE)
    assert np.array_equal(found, np.concatenate([answer(step) for step in range(70)]))
    assert np.array_equal(np.load(path), found)


def test_what_was_done_is_looked_at_before_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    computed(path, 40)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadCheckpoint, match="does not hold what was written"):
        computed(path)
    path.write_bytes(data[:300])
    with pytest.raises(BadCheckpoint, match="shorter than it was"):
        computed(path)


def test_a_disk_that_is_full_is_told_and_it_goes_on_later(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"

    def full(first: int) -> Iterator[np.ndarray]:
        yield from (answer(step) for step in range(first, 40))
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(EdgeError, match=r"cannot be kept \(No space left") as caught:
        compute(path, PARTS, 2, TYPE, full, "answers", silent)
    assert "fewer `views`" in (caught.value.hint or "")
    assert computed(path) == list(range(32, 70))
    with pytest.raises(EdgeError, match="are free"):
        compute(tmp_path / "b.npy", [np.arange(1 << 20)] * 1000, 1 << 20, TYPE, full, "", silent)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgeError, match="cannot be written"):
        computed(tmp_path / "file" / "a.npy")


def test_rows_of_several_processes_are_one() -> None:
    whole = np.arange(14.0).reshape(7, 2)
    kept = Kept((whole[:3], whole[3:3], whole[3:]), (3, 3, 7))
    places = np.array([6, 0, 3, 2, 2])
    assert np.array_equal(kept.rows(places), whole[places])
