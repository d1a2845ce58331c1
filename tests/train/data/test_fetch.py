"""Files of a set: from the user's folder, the cache, or a registry's client.

The clients are small programs of the test's own, found where the real ones would be.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from edgedl.core.errors import BadSamples, EdgeError
from edgedl.train.data.fetch import Package, obtain
from tests.train.data.archives import digest, tarball, wheel

FILES = {"pkg/data/a.csv": b"a", "pkg/data/b.csv": b"b"}
DIGESTS = {name: digest(content) for name, content in FILES.items()}
NPM = Package("npm", "pkg", "1.0.0", DIGESTS)


def client(folder: Path, name: str, archive: Path | None, says: str = "offline") -> Path:
    """A program that counts its calls, then copies an archive to where it stands, or fails."""
    folder.mkdir(exist_ok=True)
    calls = folder / f"{name}.calls"
    end = f'cp "{archive}" .' if archive is not None else f'echo "{says}" >&2; exit 1'
    program = folder / name
    program.write_text(f'#!/bin/sh\necho "$@" >> "{calls}"\n{end}\n')
    program.chmod(0o755)
    return calls


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path / "bin"


def test_fetched_once_and_kept(tmp_path: Path, programs: Path) -> None:
    calls = client(programs, "npm", tarball(tmp_path / "pkg-1.0.0.tgz", FILES))
    cache = tmp_path / "cache"
    found = obtain(NPM, None, cache)
    assert {name: path.read_bytes() for name, path in found.items()} == FILES
    assert obtain(NPM, None, cache) == found
    assert calls.read_text() == "pack --silent pkg@1.0.0\n"
    assert not list(cache.glob(".fetching-*"))


def test_a_damaged_file_in_the_cache_is_fetched_anew(tmp_path: Path, programs: Path) -> None:
    calls = client(programs, "npm", tarball(tmp_path / "pkg-1.0.0.tgz", FILES))
    path = obtain(NPM, None, tmp_path / "cache")["pkg/data/a.csv"]
    path.write_bytes(b"damaged")
    assert obtain(NPM, None, tmp_path / "cache")["pkg/data/a.csv"].read_bytes() == b"a"
    assert len(calls.read_text().splitlines()) == 2


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path, programs: Path) -> None:
    client(programs, "npm", tarball(tmp_path / "pkg-1.0.0.tgz", FILES | {"pkg/data/b.csv": b"c"}))
    with pytest.raises(BadSamples, match=r"`pkg/data/b\.csv` is not the one that is pinned"):
        obtain(NPM, None, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_offline_the_error_has_the_command(tmp_path: Path, programs: Path) -> None:
    client(programs, "npm", None, "npm error network is unreachable")
    with pytest.raises(EdgeError, match="network is unreachable") as caught:
        obtain(NPM, None, tmp_path / "cache")
    assert "`npm pack pkg@1.0.0`" in (caught.value.hint or "")
    assert "`folder: DIR`" in (caught.value.hint or "")


def test_no_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EdgeError, match="there is no `npm` here"):
        obtain(NPM, None, tmp_path / "cache")


def test_a_debian_package(tmp_path: Path, programs: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: pkg\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: d\n"
    )
    (tree / "pkg/data").mkdir(parents=True)
    for name, content in FILES.items():
        (tree / name).write_bytes(content)
    archive = tmp_path / "pkg_1_all.deb"
    words = ["dpkg-deb", "--build", "--root-owner-group", str(tree), str(archive)]
    subprocess.run(words, check=True, capture_output=True)
    calls = client(programs, "apt-get", archive)
    found = obtain(Package("apt", "pkg", None, DIGESTS), None, tmp_path / "cache")
    assert {name: path.read_bytes() for name, path in found.items()} == FILES
    assert calls.read_text() == "-qq download pkg\n"


def test_pip_is_asked_to_check_the_archive_before_it_looks_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = wheel(tmp_path / "pkg-1.0-py3-none-any.whl", FILES)
    (tmp_path / "lib/pip").mkdir(parents=True)
    (tmp_path / "lib/pip/__main__.py").write_text(
        "import pathlib, shutil, sys\n"
        f"shutil.copy({str(archive)!r}, '.')\n"
        "wanted = pathlib.Path(sys.argv[sys.argv.index('-r') + 1]).read_text()\n"
        f"pathlib.Path({str(tmp_path / 'said')!r}).write_text(' '.join(sys.argv[1:]) + wanted)\n"
    )
    (tmp_path / "lib/pip/__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    sha = digest(archive.read_bytes())
    package = Package("pip", "pkg", "1.0", DIGESTS, archive=sha, source=True)
    found = obtain(package, None, tmp_path / "cache")
    assert {name: path.read_bytes() for name, path in found.items()} == FILES
    said = (tmp_path / "said").read_text()
    assert f"pkg==1.0 --hash=sha256:{sha}" in said
    assert "--require-hashes --no-binary=pkg" in said
    assert "--no-deps" in said
    with pytest.raises(BadSamples, match="is not the archive of `pkg==1"):
        obtain(replace(package, archive="0" * 64), None, tmp_path / "other")


def test_the_users_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(BadSamples, match=r"lacks the file `a\.csv`") as caught:
        obtain(NPM, str(folder), tmp_path / "cache")
    assert "npm pack" in (caught.value.hint or "")
    (folder / "a.csv").write_bytes(b"a")
    (folder / "b.csv").write_bytes(b"b")
    assert obtain(NPM, str(folder), tmp_path / "cache")["pkg/data/b.csv"] == folder / "b.csv"
    (folder / "a.csv").write_bytes(b"mine")
    with pytest.raises(BadSamples, match="its SHA-256 differs") as caught:
        obtain(NPM, str(folder), tmp_path / "cache")
    assert caught.value.where == str(folder / "a.csv")
    with pytest.raises(BadSamples, match="no such folder"):
        obtain(NPM, str(tmp_path / "absent"), tmp_path / "cache")


def test_the_users_folder_may_hold_the_archive(tmp_path: Path) -> None:
    tarball(tmp_path / "pkg-1.0.0.tgz", FILES)
    found = obtain(NPM, str(tmp_path), tmp_path / "cache")
    assert {name: path.read_bytes() for name, path in found.items()} == FILES


def test_what_is_typed_by_hand() -> None:
    assert NPM.command == "npm pack pkg@1.0.0"
    assert Package("apt", "pkg", None, {}).command == "apt-get download pkg"
    platform = ("--only-binary=:all:",)
    package = Package("pip", "pkg", "1", {}, platform=platform)
    assert package.command == "pip download --no-deps --only-binary=:all: pkg==1"
