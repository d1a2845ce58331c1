"""What engines compiled is kept whole or not at all, found where all is the same, and bounded."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edgedl
from edgedl.core.errors import EngineFailed
from edgedl.runtime import ENGINES, Compiler, engine, installed_engines
from edgedl.runtime import opening as opening_module
from edgedl.runtime.cache import HEADER, MAKING, STALE_SECONDS, SUFFIX, Cache
from edgedl.runtime.digest import BLOCK
from edgedl.runtime.opening import Opened
from tests.models import conv_net
from tests.runtime.engines import BUILDING, TABLE
from tests.runtime.shipped import answered, payload, written
from tests.runtime.test_answering import bundled

KEY = {"payload": "a", "threads": 1}


@pytest.fixture(autouse=True)
def building(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that tells what it was asked for, no cache, and nothing said yet."""
    for name, place in TABLE.items():
        monkeypatch.setitem(ENGINES, name, place)
    monkeypatch.delenv("EDGEDL_CACHE", raising=False)
    BUILDING.events.clear()
    opening_module._said.clear()


def events() -> list[str]:
    """What the engine was asked for since the last call."""
    found = list(BUILDING.events)
    BUILDING.events.clear()
    return found


def opened(path: Path, cache: Path | None, **more: object) -> Opened:
    with edgedl.open(path, threads=1, cache=cache, **more) as session:  # type: ignore[arg-type]
        assert session.run(answered()[0])["logits"].shape == (1, 5)
        return session.opened


def kept(cache: Path) -> list[Path]:
    return sorted(cache.glob(f"*{SUFFIX}"))


def test_the_second_opening_takes_what_was_kept(tmp_path: Path) -> None:
    path, cache = written(tmp_path / "net.edl", [payload("building")]), tmp_path / "cache"
    first = opened(path, cache)
    assert (first.cached, first.proven, first.golden_samples) == (False, True, 1)
    assert first.cache_problem is None
    assert events() == ["built", "compiled"]
    second = opened(path, cache)
    assert (second.cached, second.proven, second.golden_samples) == (True, True, 0)
    assert events() == ["compiled"]
    assert opened(path, cache, golden="all").golden_samples == 2
    assert [entry.name for entry in cache.iterdir()] == [one.name for one in kept(cache)]
    assert len(kept(cache)) == 1


def test_nothing_is_written_where_no_cache_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "net.edl", [payload("building")])
    before = sorted(tmp_path.rglob("*"))
    assert not opened(path, None).cached
    assert events() == ["plain"]
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.setenv("EDGEDL_CACHE", str(tmp_path / "named"))
    opened(path, None)
    assert len(kept(tmp_path / "named")) == 1


def test_what_is_stale_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version, other settings, threads, processor, payload or golden answers."""
    path, cache = written(tmp_path / "net.edl", [payload("building")]), tmp_path / "cache"
    opened(path, cache)
    events()
    monkeypatch.setattr(BUILDING, "version", "3.2")
    assert not opened(path, cache).cached
    monkeypatch.undo()
    for name, place in TABLE.items():
        monkeypatch.setitem(ENGINES, name, place)
    set_ = written(tmp_path / "set.edl", [payload("building", settings={"a": 1})])
    assert not opened(set_, cache).cached
    later = written(tmp_path / "later.edl", [payload("building")], later=1e-4)
    assert not opened(later, cache).cached
    with edgedl.open(path, threads=2, cache=cache) as session:
        assert not session.opened.cached
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert not opened(path, cache).cached
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert opened(path, cache).cached
    assert len(kept(cache)) == 6


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert cache.keep(KEY, b"compiled" * 9, {"proven": True}) is None
    [place] = kept(cache.root)
    whole = place.read_bytes()
    found = cache.find(KEY)
    assert found is not None
    assert bytes(found.data) == b"compiled" * 9
    unused = range(HEADER.size - 8, HEADER.size)
    for position in [at for at in range(len(whole)) if at not in unused]:
        altered = bytearray(whole)
        altered[position] ^= 1
        place.write_bytes(altered)
        assert cache.find(KEY) is None
        assert not place.exists()
    for cut in (0, 8, HEADER.size, len(whole) - 1):
        place.write_bytes(whole[:cut])
        assert cache.find(KEY) is None
    place.write_bytes(whole)
    other = {"payload": "b", "threads": 1}
    place.rename(cache.place(other))
    assert cache.find(other) is None


def test_a_large_one_is_kept_in_blocks(tmp_path: Path) -> None:
    cache, data = Cache(tmp_path / "cache"), np.random.default_rng(0).bytes(4 * BLOCK + 5)
    assert cache.keep(KEY, data, {}) is None
    found = cache.find(KEY)
    assert found is not None
    assert found.data == data
    [place] = kept(cache.root)
    whole = place.read_bytes()
    for position in (len(whole) - 1, len(whole) - BLOCK, len(whole) // 2):
        place.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert cache.find(KEY) is None
    swapped = bytearray(whole)
    swapped[-2 * BLOCK : -BLOCK], swapped[-BLOCK:] = whole[-BLOCK:], whole[-2 * BLOCK : -BLOCK]
    place.write_bytes(swapped)
    assert cache.find(KEY) is None


def test_what_is_damaged_is_compiled_again(tmp_path: Path) -> None:
    path, cache = written(tmp_path / "net.edl", [payload("building")]), tmp_path / "cache"
    opened(path, cache)
    [place] = kept(cache)
    whole = place.read_bytes()
    place.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    events()
    assert not opened(path, cache).cached
    assert events() == ["built", "compiled"]
    assert place.read_bytes() == whole
    assert opened(path, cache).cached


def test_files_that_others_may_have_written_are_passed_over(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    cache.keep(KEY, b"compiled", {})
    [place] = kept(cache.root)
    assert place.stat().st_mode & 0o077 == 0
    place.chmod(0o666)
    assert cache.find(KEY) is None
    place.chmod(0o600)
    assert cache.find(KEY) is not None
    place.rename(tmp_path / "aside")
    place.symlink_to(tmp_path / "aside")
    assert cache.find(KEY) is None


def test_an_engine_whose_form_does_not_open_is_opened_plainly(tmp_path: Path) -> None:
    """And is asked only once."""
    cache = tmp_path / "cache"
    for settings in ({"refuses its own": True}, {"no form": True}):
        path = written(tmp_path / "net.edl", [payload("building", settings=settings)])
        assert opened(path, cache).proven
        events()
        again = opened(path, cache)
        assert (again.cached, again.golden_samples) == (False, 1)
        assert events() == ["plain"]


def test_wrong_answers_are_never_kept(tmp_path: Path) -> None:
    path = written(tmp_path / "net.edl", [payload("building"), payload("plain")], wrong=5.0)
    cache = tmp_path / "cache"
    with pytest.raises(edgedl.EdgeError, match="away from the golden ones"):
        edgedl.open(path, threads=1, cache=cache)
    assert not kept(cache)
    assert not edgedl.open(path, threads=1, cache=cache, golden="none").opened.proven
    with pytest.raises(edgedl.EdgeError, match="away from the golden ones"):
        edgedl.open(path, threads=1, cache=cache)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 100 bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_no_failure_and_said_once(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path, cache = written(tmp_path / "net.edl", [payload("building")]), tmp_path / "cache"
    request.getfixturevalue("full_disk")
    with pytest.warns(RuntimeWarning, match="nothing is kept of what was compiled: .* cannot be"):
        first = opened(path, cache)
    assert "File too large" in str(first.cache_problem)
    assert opened(path, cache).cache_problem == first.cache_problem
    assert list(cache.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_no_failure(tmp_path: Path) -> None:
    path = written(tmp_path / "net.edl", [payload("building")])
    (tmp_path / "file").write_text("")
    with pytest.warns(RuntimeWarning, match="Not a directory"):
        assert opened(path, tmp_path / "file" / "cache").cache_problem is not None


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    size = 1000
    cache = Cache(tmp_path / "cache", limit_bytes=4 * size)
    keys = [{"payload": str(i)} for i in range(4)]
    for i, key in enumerate(keys[:3]):
        assert cache.keep(key, bytes(size), {}) is None
        os.utime(cache.place(key), (i, i))
    assert cache.find(keys[0]) is not None  # which is its use
    old = cache.root / f"{MAKING}killed"
    old.write_text("")
    now = cache.place(keys[0]).stat().st_mtime
    os.utime(old, (now - 2 * STALE_SECONDS,) * 2)
    assert cache.keep(keys[3], bytes(size), {}) is None
    assert [cache.find(key) is not None for key in keys] == [True, False, True, True]
    assert not old.exists()
    assert "larger than the 4000 bytes" in str(cache.keep({}, bytes(4 * size), {}))


WRITER = """
import sys
from pathlib import Path
from edgedl.runtime.cache import Cache
cache = Cache(Path(sys.argv[1]))
key = {"payload": "both"}
for i in range(60):
    mark = bytes([int(sys.argv[2])]) * 300_000
    assert cache.keep(key, mark, {"by": sys.argv[2]}) is None
    found = cache.find(key)
    assert found is not None and len(set(found.data)) == 1
    assert found.data[0] == int(found.said["by"]) and len(found.data) == 300_000
print("right")
"""


def test_two_processes_that_write_at_once_are_both_right(tmp_path: Path) -> None:
    def started(mark: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", WRITER, str(tmp_path / "cache"), mark]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    for process in [started("1"), started("2")]:
        out, problem = process.communicate()
        assert out.strip() == "right", problem
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("name", installed_engines())
def test_a_cached_model_answers_as_the_first_did(name: str, tmp_path: Path) -> None:
    path, cache = written(tmp_path / "net.edl", [payload(name)]), tmp_path / "cache"
    answers = []
    for cached in (False, True):
        with edgedl.open(path, threads=1, cache=cache) as session:
            assert session.opened.cached is cached
            answers.append(session.run(answered()[1])["logits"])
            signature = session.signature
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-6)
    with edgedl.open(path, threads=1) as session:
        assert session.signature == signature
        np.testing.assert_allclose(session.run(answered()[1])["logits"], answers[1], rtol=1e-5)


@pytest.mark.parametrize("name", installed_engines())
def test_a_disk_that_was_full_once_is_asked_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = engine(name)
    if not isinstance(chosen, Compiler):
        pytest.skip(f"{name} compiles nothing that can be kept")
    path, kept = bundled(tmp_path, conv_net(), None, name), tmp_path / "kept"

    def full(*_: object, **__: object) -> object:
        raise EngineFailed(f"no room on the disk of {name}")

    with monkeypatch.context() as patched:
        patched.setattr(type(chosen), "open_and_compile", full)
        with (
            pytest.warns(RuntimeWarning, match="no room"),
            edgedl.open(path, cache=kept) as session,
        ):
            assert "no room" in str(session.opened.cache_problem)
    for cached in (False, True):
        with edgedl.open(path, cache=kept) as session:
            assert session.opened.cached is cached
