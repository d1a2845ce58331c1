"""Sessions on an engine and a CUDA that check every handle's life."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np

from edgedl.runtime.tensorrt.contexts import Running
from edgedl.runtime.tensorrt.cuda import CudaRuntime
from edgedl.runtime.tensorrt.session import TensorRtSession
from tests.runtime.tensorrt.fake_cuda import FakeCuda
from tests.runtime.tensorrt.fake_trt import FakeTrt, plan

GRAPH, PLAIN = ["cudaGraphLaunch", "cudaStreamSynchronize"], "cudaMemcpyAsync"
STATIC = plan(x=(2, 3), profiles=[((2, 3), (2, 3), (2, 3))])
BUCKETS = plan(
    profiles=[((1, 3), (1, 3), (1, 3)), ((2, 3), (4, 3), (8, 3)), ((1, 3), (8, 3), (16, 3))]
)


class Bench:
    """A fake GPU, TensorRT on it, and sessions."""

    def __init__(self, **gpu: Any) -> None:
        self.cuda = FakeCuda(**gpu)
        self.trt = FakeTrt(self.cuda)

    def open(self, data: bytes | None = None, **running: Any) -> TensorRtSession:
        given = plan() if data is None else data
        return TensorRtSession(self.trt, CudaRuntime(self.cuda), given, Running(**running))

    def calls_of(self, session: TensorRtSession, x: np.ndarray) -> list[str]:
        before = len(self.cuda.calls)
        np.testing.assert_array_equal(session.run({"x": x})["y"], 2 * x + 1)
        return self.cuda.calls[before:]

    def all_is_given_back(self) -> None:
        if self.cuda.leaks() or self.trt.alive:
            gc.collect()
        assert not self.cuda.leaks()
        assert not self.trt.alive


def rows(count: int, start: float = 0) -> np.ndarray:
    return (np.arange(count * 3, dtype=np.float32) + start).reshape(count, 3)
