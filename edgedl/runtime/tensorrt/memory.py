"""Memory of the GPU and pinned memory of the system, given back once and in order."""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Any

import numpy as np

from edgedl.core.errors import EdgeError
from edgedl.runtime.tensorrt.cuda import Cuda

ALIGNMENT = 256


class Pinned:
    """Pinned memory that lives until nobody holds an array in it any more.

    So an array that a caller keeps after its session was closed is stale, and never a way into
    memory that is somebody else's.
    """

    def __init__(self, cuda: Cuda, size: int) -> None:
        self.size = max(size, 1)
        self.address = cuda.allocate_host(self.size)
        self.__array_interface__ = {
            "data": (self.address, False),
            "shape": (self.size,),
            "typestr": "|u1",
            "version": 3,
        }
        freed = weakref.finalize(self, _free_host, cuda, self.address, os.getpid())
        freed.atexit = False

    def view(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
        """An array that lies in it, from its beginning."""
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        return np.asarray(self)[:size].view(dtype).reshape(shape)


def _free_host(cuda: Cuda, address: int, owner: int) -> None:
    if os.getpid() == owner:
        # a failure here is one of work before, which was told when that was waited for
        with contextlib.suppress(EdgeError):
            cuda.free_host(address)


class Block:
    """Bytes of the GPU's memory at one address, until they are to be more."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.address = 0
        self.size = 0

    def grow(self, size: int) -> None:
        """Make room for `size` bytes; what lay there is gone.

        Raises:
            EngineFailed: the GPU has too little memory; the block then holds nothing.
        """
        size = max(-(-size // ALIGNMENT) * ALIGNMENT, ALIGNMENT)
        if size <= self.size:
            return
        self.free()
        self.address = self._cuda.allocate(size)
        self.size = size

    def free(self) -> None:
        """Give it back; a second time does nothing."""
        address, self.address, self.size = self.address, 0, 0
        if address:
            self._cuda.free(address)


class Buffer:
    """The two places of one input or output: in the system's memory, and on the GPU.

    Args:
        on_host: TensorRT itself reads or writes it in the system's memory, as it does the sizes
            of which shapes are made.
    """

    def __init__(self, cuda: Cuda, *, on_host: bool) -> None:
        self._cuda = cuda
        self._on_host = on_host
        self._host: Pinned | None = None
        self.device = Block(cuda)

    def has(self, size: int) -> bool:
        """Whether there is room for `size` bytes on both sides."""
        there = self._host is not None and size <= self._host.size
        return there and (self._on_host or max(size, 1) <= self.device.size)

    def grow(self, size: int) -> None:
        """Make room for `size` bytes on both sides; what lay there is gone.

        Raises:
            EngineFailed: there is too little memory.
        """
        self.grow_host(size)
        if not self._on_host:
            self.device.grow(size)

    def grow_host(self, size: int) -> None:
        """The same in the system's memory alone."""
        if self._host is None or size > self._host.size:
            self._host = None
            self._host = Pinned(self._cuda, size)

    def view(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
        """An array in the system's memory."""
        assert self._host is not None
        return self._host.view(dtype, shape)

    @property
    def host_address(self) -> int:
        """Where it lies in the system's memory."""
        assert self._host is not None
        return self._host.address

    @property
    def address(self) -> int:
        """The address that TensorRT is given."""
        return self.host_address if self._on_host else self.device.address

    def free(self) -> None:
        """Give both back, the system's as soon as no array of a caller lies in it."""
        self._host = None
        self.device.free()
