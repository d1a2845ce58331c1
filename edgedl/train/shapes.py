"""The shape of what a network is fed, as its data has it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgedl.core.errors import BadValue


@dataclass(frozen=True)
class TensorShape:
    """One sample's shape without a batch axis, and its numpy type's name.

    Images are channels x height x width, series channels x time, texts a row of token ids, tables
    a row of numbers.

    Attributes:
        shape: lengths of the axes; empty for one number a sample.
        dtype: "float32", "int64" ...
        count: of whole numbers, how many there are: they lie between 0 and count - 1, as token ids
            do below the size of a vocabulary; 0 where nobody knows.

    Raises:
        BadValue: an axis has no length, or numpy has no such type.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    count: int = 0

    def __post_init__(self) -> None:
        if any(length < 1 for length in self.shape):
            shape = " x ".join(map(str, self.shape))
            raise BadValue(f"a sample of shape {shape} holds nothing", hint="axes are 1 or longer")
        try:
            known = np.dtype(self.dtype).name == self.dtype
        except TypeError:
            known = False
        if not known:
            raise BadValue(f"no such type as `{self.dtype}`", hint="float32, or int64")

    def __str__(self) -> str:
        """As people read it: `float32 of 3 x 32 x 32`."""
        return f"{self.dtype} of {' x '.join(map(str, self.shape)) or 'one number'}"

    @property
    def size(self) -> int:
        """Numbers in a sample."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers, as ids are."""
        return np.issubdtype(np.dtype(self.dtype), np.integer)
