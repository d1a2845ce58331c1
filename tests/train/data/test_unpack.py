"""Members of archives by name, and nothing else."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.errors import BadSamples
from edgedl.train.data.unpack import gunzip, unpack
from tests.train.data.archives import link, tarball, wheel

FILES = {"a/b.txt": b"wanted", "../../outside.txt": b"no", "/etc/no.txt": b"no", "a/c.txt": b"c"}


@pytest.mark.parametrize("make", [wheel, tarball])
def test_only_what_is_wanted_is_read_and_nothing_is_written(make: object, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    name = "x.whl" if make is wheel else "x.tar.gz"
    path = make(inside / name, FILES)  # type: ignore[operator]
    assert unpack(path, ["a/b.txt"]) == {"a/b.txt": b"wanted"}
    assert [p.name for p in tmp_path.rglob("*")] == ["inside", name]


@pytest.mark.parametrize("make", [wheel, tarball])
def test_more_than_is_allowed_is_refused(make: object, tmp_path: Path) -> None:
    name = "x.whl" if make is wheel else "x.tar.gz"
    path = make(tmp_path / name, {"bomb": bytes(1 << 22)})  # type: ignore[operator]
    assert path.stat().st_size < 1 << 16
    with pytest.raises(BadSamples, match="holds more than 1024 bytes"):
        unpack(path, ["bomb"], 1024)


def test_links_are_refused(tmp_path: Path) -> None:
    path = link(tmp_path / "x.tar.gz", "a", "/etc/passwd")
    with pytest.raises(BadSamples, match="`a` is no plain file"):
        unpack(path, ["a"])


def test_what_is_not_there(tmp_path: Path) -> None:
    path = wheel(tmp_path / "x.whl", FILES)
    with pytest.raises(BadSamples, match=r"lacks the file `b\.txt`") as caught:
        unpack(path, ["b.txt", "a/c.txt"])
    assert caught.value.where == str(path)
    with pytest.raises(BadSamples, match="cannot be unpacked"):
        unpack(tmp_path / "absent.whl", ["a"])


@pytest.mark.parametrize("name", ["x.whl", "x.tar.gz", "x.tar"])
@given(content=st.binary(max_size=200))
def test_any_bytes_are_an_error(
    name: str, content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    with pytest.raises(BadSamples):
        unpack(path, ["a"])


def test_gzip(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"x" * 100))
    assert gunzip(path) == b"x" * 100
    with pytest.raises(BadSamples, match="holds more than 99 bytes"):
        gunzip(path, 99)
    path.write_bytes(gzip.compress(b"x" * 100)[:-9])
    with pytest.raises(BadSamples, match="cannot be unpacked"):
        gunzip(path)
