"""The zoo's sentences, and Magika, which tells the types of files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from zoo_download import archive_path, read, read_one, read_tar

# What a file's suffix says of its type, in Magika's words.
_TYPES = {
    ".conf": "xml",
    ".cs": "cs",
    ".deb": "deb",
    ".gif": "gif",
    ".gz": "gzip",
    ".jpg": "jpeg",
    ".json": "json",
    ".md": "markdown",
    ".npz": "npz",
    ".onnx": "onnx",
    ".pdf": "pdf",
    ".png": "png",
    ".py": "python",
    ".rst": "rst",
    ".so": "elf",
    ".svg": "svg",
    ".tgz": "gzip",
    ".tif": "tiff",
    ".ttf": "ttf",
    ".wav": "wav",
    ".whl": "zip",
    ".yaml": "yaml",
}
_FILES = 256
_FILES_FROM = (
    "magika",
    "scikit-image",
    "foolbox",
    "dejavu-fonts-ttf",
    "vaderSentiment",
    "pocketsphinx-testdata",
)
# Bytes that Magika reads at either end, how many it keeps without white space, and its filler.
_BLOCK, _KEPT, _FILL = 4096, 1024, 256


def sentences(downloads: Path) -> list[str]:
    """English sentences of film reviews, product reviews and newspapers in turn, in ASCII."""
    inner = read_one("vaderSentiment", downloads, "*/hutto_ICWSM_2014.tar.gz")
    files = read_tar(inner, "*Snippets_GroundTruth.txt")
    columns = [
        [line.split("\t")[2].strip() for line in data.decode("latin-1").splitlines()]
        for name, data in files.items()
        if not Path(name).name.startswith(".")
    ]
    mixed = [each for row in zip(*columns, strict=False) for each in row]
    return list(dict.fromkeys(each for each in mixed if each.isascii() and len(each) > 20))


def magika(folder: Path, downloads: Path) -> None:
    """Writes Magika's classifier, int32 [batch, 2048] to [batch, 214], and 256 labelled files."""
    path = "magika/models/standard_v3_3/"
    (folder / "model.onnx").write_bytes(read_one("magika", downloads, path + "model.onnx"))
    config = json.loads(read_one("magika", downloads, path + "config.min.json"))
    space: list[str] = config["target_labels_space"]
    found: dict[str, list[bytes]] = {}
    for package in _FILES_FROM:
        files = read(package, downloads, *(f"*{suffix}" for suffix in _TYPES))
        archive = archive_path(package, downloads)
        files[archive.name] = archive.read_bytes()
        for name, data in files.items():
            if len(data) >= 64:
                found.setdefault(_TYPES[Path(name).suffix], []).append(data)
    # One file of each type in turn while it has some left: no type crowds out the others.
    rounds = max(len(each) for each in found.values())
    chosen = [
        (space.index(kind), found[kind][index])
        for index in range(rounds)
        for kind in sorted(found)
        if index < len(found[kind])
    ][:_FILES]
    values = np.array([_magika_features(data) for _, data in chosen], np.int32)
    np.savez(
        folder / "samples.npz",
        allow_pickle=False,
        bytes=values,
        labels=np.array([kind for kind, _ in chosen], np.int64),
    )


def _magika_features(data: bytes) -> list[int]:
    head = list(data[:_BLOCK].lstrip()[:_KEPT])
    tail = list(data[-_BLOCK:].rstrip()[-_KEPT:])
    fill = [_FILL]
    return head + fill * (_KEPT - len(head)) + fill * (_KEPT - len(tail)) + tail
