"""A graph as plain data: what passes a model on to libraries that know nothing of ONNX."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.core.model import Signature

# The file beside a plan that holds what training moved.
TUNED = "tuned.npz"


@dataclass(frozen=True, eq=False)
class Operation:
    """One node of a graph, as ONNX defines its operator.

    Attributes:
        kind: the operator's type.
        domain: whose operator it is; empty for ONNX's own.
        inputs: names of values; empty where an optional one is left out.
        outputs: names of values; empty where one is not wanted.
        attributes: integers, floats, strings, tuples of these, and numpy arrays, by name; graphs
            within a node are left out.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    domain: str = ""


@dataclass(frozen=True, eq=False)
class Program:
    """Operations in an order in which they can be carried out.

    Attributes:
        constants: arrays by the names that operations read them by.
        opset: the version of ONNX's own operators.
    """

    signature: Signature
    operations: tuple[Operation, ...]
    constants: Mapping[str, np.ndarray]
    opset: int


@dataclass(frozen=True)
class CodedTensor:
    """A tensor that some operations read rounded: real value = (code - zero point) * scale.

    Attributes:
        lowest, highest: the codes at the ends.
        readers: the operations that read it so, by name; others read it as it was.
        group: tensors of one group share a scale.
    """

    scale: float
    zero_point: int
    lowest: int
    highest: int
    readers: tuple[str, ...]
    group: str


@dataclass(frozen=True)
class CodedWeight:
    """A constant operand that is rounded to codes from `-largest` to `largest`, its largest
    magnitude at the end.

    Attributes:
        position: of the operand among the operation's inputs.
        axis: one scale for each slice along it; None for one in all.
    """

    position: int
    axis: int | None
    largest: int


@dataclass(frozen=True)
class Coding:
    """Where values of a program are rounded to codes: tensors by name, weights by operation."""

    tensors: Mapping[str, CodedTensor]
    weights: Mapping[str, CodedWeight]


@dataclass(frozen=True, eq=False)
class Constants:
    """Arrays by the names of constants."""

    of: Mapping[str, np.ndarray] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Constants:
        """What `write` wrote.

        Raises:
            OSError, ValueError, KeyError, BadZipFile: there is no such file, or it is damaged.
        """
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = json.loads(str(arrays["names"]))
            return cls({name: arrays[f"arr_{i}"] for i, name in enumerate(names)})

    def write(self, path: Path) -> None:
        """Into one file of numpy's, with the names as JSON: they may be no names of files."""
        with path.open("wb") as file:
            np.savez(file, *self.of.values(), names=np.array(json.dumps(list(self.of))))

    def to_json(self) -> dict[str, Any]:
        """How many there are, and the SHA-256 of their names and values."""
        digest = hashlib.sha256()
        for name, array in sorted(self.of.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        return {"constants": len(self.of), "digest": digest.hexdigest()}
