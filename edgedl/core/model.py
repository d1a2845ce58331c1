"""What travels between stages: a model file, its signature, and how it came to be."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Dimension = int | str | None


@dataclass(frozen=True)
class Tensor:
    """One input or output: its name, numpy dtype name, and shape.

    A dimension is an int, the name of a dynamic axis, or None for a nameless dynamic axis; the
    shape itself is None where even the rank is unknown.
    """

    name: str
    dtype: str
    shape: tuple[Dimension, ...] | None

    @property
    def has_batch_axis(self) -> bool:
        """Whether the first axis counts samples: it is 1 or dynamic."""
        if not self.shape:
            return False
        return self.shape[0] == 1 or not isinstance(self.shape[0], int)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": self.shape and list(self.shape)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Tensor:
        shape = document["shape"]
        return cls(document["name"], document["dtype"], None if shape is None else tuple(shape))

    def __str__(self) -> str:
        shape = (
            "?"
            if self.shape is None
            else "x".join("?" if d is None else str(d) for d in self.shape)
        )
        return f"{self.name} {self.dtype}[{shape}]"


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model, in order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": [tensor.to_json() for tensor in self.inputs],
            "outputs": [tensor.to_json() for tensor in self.outputs],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Signature:
        return cls(
            tuple(Tensor.from_json(entry) for entry in document["inputs"]),
            tuple(Tensor.from_json(entry) for entry in document["outputs"]),
        )


@dataclass(frozen=True)
class Step:
    """One line of a history: what was done, with which settings and versions, from which digest."""

    name: str
    settings: Mapping[str, Any]
    source: str
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "settings": dict(self.settings),
            "source": self.source,
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Step:
        return cls(document["name"], document["settings"], document["source"], document["versions"])


@dataclass(frozen=True)
class Model:
    """An ONNX file that is never changed again.

    `digest` is the SHA-256 of the file and of the external data files it names, `files` all of
    those files, the ONNX file first.
    """

    path: Path
    digest: str
    signature: Signature
    history: tuple[Step, ...]
    files: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """Size on disk of all its files."""
        return sum(path.stat().st_size for path in self.files)


def sha256(paths: Iterable[Path]) -> str:
    """The SHA-256, in hex, of the files' contents one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
