"""A model's signature in the words of the Open Inference Protocol, version 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedl.core.errors import Unsupported
from edgedl.core.model import Signature, Tensor

DTYPES = {
    "BOOL": "bool",
    **{f"INT{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
NO_ARRAYS = ("BF16", "BYTES")
DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}
MOST_AXES = 32


@dataclass(frozen=True)
class Slot:
    """One input or output: its name, the protocol's datatype, numpy's, little-endian as on the
    wire, and the model's shape."""

    name: str
    datatype: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...] | None

    def to_json(self) -> dict[str, Any]:
        """The tensor's metadata; a dynamic axis is -1, and so is a shape of unknown rank."""
        shape = (None,) if self.shape is None else self.shape
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        return {"name": self.name, "datatype": self.datatype, "shape": sizes}

    def __str__(self) -> str:
        sizes = ", ".join("?" if not isinstance(d, int) else str(d) for d in self.shape or ())
        return f"{self.datatype} of shape [{sizes if self.shape is not None else '...'}]"


@dataclass(frozen=True)
class Contract:
    """What a model takes and gives, by name and in order.

    Attributes:
        finite: whether NaN and infinity are refused.
    """

    inputs: dict[str, Slot]
    outputs: dict[str, Slot]
    finite: bool = False

    @classmethod
    def of(cls, signature: Signature, *, finite: bool = False) -> Contract:
        """The contract of a session's signature.

        Raises:
            Unsupported: a tensor is of a type that the protocol has no word for.
        """
        inputs, outputs = (
            {tensor.name: _slot(tensor) for tensor in some}
            for some in (signature.inputs, signature.outputs)
        )
        return cls(inputs, outputs, finite)

    @property
    def may_share(self) -> bool:
        """Whether every tensor has a dynamic first axis, named alike where it has a name: the
        shape, though not yet the proof, of a model whose samples can share a call."""
        slots = [*self.inputs.values(), *self.outputs.values()]
        if not slots or any(not slot.shape or isinstance(slot.shape[0], int) for slot in slots):
            return False
        return len({slot.shape[0] for slot in slots if slot.shape} - {None}) <= 1


def _slot(tensor: Tensor) -> Slot:
    if tensor.dtype not in DATATYPES:
        raise Unsupported(
            f"`{tensor.name}` is {tensor.dtype}, which the protocol has no word for",
            hint="`edgedl inspect` shows the inputs and outputs",
        )
    dtype = np.dtype(tensor.dtype).newbyteorder("<")
    return Slot(tensor.name, DATATYPES[tensor.dtype], dtype, tensor.shape)
