"""A clock that only sessions move on, and sessions whose calls take a known time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle

import numpy as np

from edgedl.core.model import Signature
from edgedl.runtime.session import Session


class Clock:
    """Nanoseconds that pass when a session runs, and one at each look."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns


class Timed:
    """A session whose calls take the given nanoseconds in turn."""

    def __init__(self, clock: Clock, *durations_ns: int) -> None:
        self.clock = clock
        self.signature = Signature((), ())
        self.durations: Iterator[int] = cycle(durations_ns)
        self.calls = 0

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls += 1
        self.clock.now_ns += next(self.durations)
        return {}

    def close(self) -> None:
        return

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
