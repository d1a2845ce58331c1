"""Threads that run the engine, and bring what it answered back to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue

from edgedl.service.batch import Ran

Item = tuple[Callable[[], Ran], Callable[[Ran], None]]


class EngineThreads:
    """`count` threads that take calls in order.

    They are daemons: an engine that never comes back does not keep the process alive.
    """

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._calls: SimpleQueue[Item | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True)
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def __call__(self, call: Callable[[], Ran], done: Callable[[Ran], None]) -> None:
        """Run `call` on a thread, then `done` with its result on the event loop."""
        self._calls.put((call, done))

    def stop(self, within_s: float) -> bool:
        """Let every thread end after what was given to it; whether all did within the time."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join(within_s)
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            call, done = item
            ran = call()
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits
                self._loop.call_soon_threadsafe(done, ran)
            del item, call, done, ran
