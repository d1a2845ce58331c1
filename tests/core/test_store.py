"""Results appear whole or not at all, whoever makes them."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from edgedl.core.errors import EdgeError
from edgedl.core.store import Store, atomic_write, check_writable, default_root, key_of

KEY = key_of(what="test")
DAY = 24 * 3600


def write_twice(folder: Path) -> None:
    (folder / "first").write_text("1")
    (folder / "second").write_text("2")


def age(path: Path, seconds: float) -> None:
    """Let a path look as if it was last used that long ago."""
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def never(folder: Path) -> None:
    raise AssertionError("made a second time")


def test_a_result_is_made_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    place = store.make(KEY, write_twice)
    assert sorted(path.name for path in place.iterdir()) == ["first", "second"]
    assert store.make(KEY, never) == place


def test_a_build_works_out_of_sight(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        assert not (tmp_path / KEY[:2] / KEY).exists()
        assert folder.name.startswith(".making-")

    Store(tmp_path).make(KEY, build)
    assert [path.name for path in (tmp_path / KEY[:2]).iterdir()] == [KEY]


def test_a_result_is_renamed_into_its_place_not_copied(tmp_path: Path) -> None:
    built: list[int] = []
    place = Store(tmp_path).make(KEY, lambda folder: built.append(folder.stat().st_ino))
    assert [place.stat().st_ino] == built


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write_twice(folder)
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        Store(tmp_path).make(KEY, fail)
    assert list((tmp_path / KEY[:2]).iterdir()) == []


def _make_together(root: str, barrier: object, answers: object) -> None:
    def build(folder: Path) -> None:
        (folder / "maker").write_text(str(os.getpid()))
        barrier.wait(60)  # type: ignore[attr-defined]

    place = Store(Path(root)).make(KEY, build)
    answers.put((place / "maker").read_text())  # type: ignore[attr-defined]


def test_two_processes_make_the_same_result_at_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier, answers = spawn.Barrier(2), spawn.Queue()
    makers = [
        spawn.Process(target=_make_together, args=(str(tmp_path), barrier, answers))
        for _ in range(2)
    ]
    for maker in makers:
        maker.start()
    told = [answers.get(timeout=120) for _ in makers]
    for maker in makers:
        maker.join(120)
    assert [maker.exitcode for maker in makers] == [0, 0]
    assert told[0] == told[1]
    assert told[0] in {str(maker.pid) for maker in makers}
    assert [path.name for path in (tmp_path / KEY[:2]).iterdir()] == [KEY]


def _die_while_making(root: str) -> None:
    def build(folder: Path) -> None:
        write_twice(folder)
        os.kill(os.getpid(), signal.SIGKILL)

    Store(Path(root)).make(KEY, build)


def test_a_killed_build_leaves_nothing_visible(tmp_path: Path) -> None:
    maker = multiprocessing.get_context("spawn").Process(
        target=_die_while_making, args=(str(tmp_path),)
    )
    maker.start()
    maker.join(120)
    assert maker.exitcode == -signal.SIGKILL
    left = list((tmp_path / KEY[:2]).iterdir())
    assert [path.name[:8] for path in left] == [".making-"]

    store = Store(tmp_path)
    place = store.make(KEY, write_twice)
    assert (place / "second").read_text() == "2"
    assert left[0].exists()
    age(left[0], 2 * DAY)
    store.tidy()
    assert not left[0].exists()
    assert place.exists()


def fill(store: Store, name: str, size: int, age_seconds: float) -> Path:
    place = store.make(
        key_of(name=name), lambda folder: (folder / "f").write_bytes(bytes(size)) and None
    )
    age(place, age_seconds)
    return place


def test_tidy_removes_the_longest_unused_first(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=10**9)
    old, older, new = (
        fill(store, name, 1000, hours * 3600) for name, hours in (("a", 5), ("b", 9), ("c", 2))
    )
    Store(tmp_path, limit_bytes=2500).tidy()
    assert (old.exists(), older.exists(), new.exists()) == (True, False, True)
    Store(tmp_path, limit_bytes=1000).tidy()
    assert (old.exists(), new.exists()) == (False, True)


def test_tidy_keeps_what_was_used_within_the_hour(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=0)
    place = fill(store, "a", 1000, 1800)
    store.tidy()
    assert place.exists()


def test_use_makes_a_result_young_again(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=10**9)
    place = fill(store, "a", 1000, 5 * DAY)
    store.make(key_of(name="a"), never)
    Store(tmp_path, limit_bytes=0).tidy()
    assert place.exists()


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.write_text("")
    with pytest.raises(EdgeError, match="cannot be written") as caught:
        Store(root).make(KEY, write_twice)
    assert "EDGEDL_STORE" in (caught.value.hint or "")


def test_keys_follow_content_not_order() -> None:
    assert key_of(a=1, b=[2]) == key_of(b=[2], a=1)
    assert key_of(a=1) != key_of(a="1")
    assert key_of(a=json.loads("1.5")) == key_of(a=1.5)


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("EDGEDL_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_root() == tmp_path / "cache" / "edgedl"


def test_atomic_write_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(ValueError, match="stop"), atomic_write(path) as work:
        work.write_text("half")
        raise ValueError("stop")
    assert path.read_text() == "old"
    with atomic_write(path) as work:
        work.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["none/out", "", "folder"])
def test_atomic_write_needs_a_file_in_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(EdgeError) as caught, atomic_write(tmp_path / name) as work:
        work.write_text("x")
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_is_told_and_leaves_nothing(number: int, tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(EdgeError, match="the store is full"):
        Store(tmp_path).make("ab" * 32, build)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_is_read_is_not_written_over(tmp_path: Path) -> None:
    read, link = tmp_path / "read.npz", tmp_path / "link.npz"
    read.write_text("read")
    link.symlink_to(read)
    for source in (read, str(link)):
        with pytest.raises(EdgeError, match="would be lost") as caught:
            check_writable(read, None, {}, tmp_path, source)
        assert caught.value.where == str(read)
    check_writable(tmp_path / "new.npz", read, tmp_path / "gone")
