"""A model in service: its session, what it takes and gives, and the queue before it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import edgedl
from edgedl.runtime.session import Session
from edgedl.service.batch import Ran
from edgedl.service.batcher import Batcher, LoopClock, Policy
from edgedl.service.contract import Contract
from edgedl.service.metrics import Metrics
from edgedl.service.probe import shares
from edgedl.service.threads import EngineThreads

VERSION = "1"
EXTENSIONS = ("binary_tensor_data", "classification", "model_repository(index)")
LOOK_S = 0.01
PLATFORM = "edgedl_bundle"


@dataclass(frozen=True)
class Settings:
    """What the service keeps to.

    Attributes:
        policy: of every model's queue; models whose samples cannot share a call get batches of 1.
        timeout_s: for a request, from its head to its answer; one may ask for less.
        max_body_bytes: of one request.
        max_memory_bytes: of all requests' bodies together.
        finite: whether inputs that hold NaN or infinity are refused.
        drain_s: for what is queued when the service is told to end.
    """

    policy: Policy = field(default_factory=Policy)
    timeout_s: float = 30.0
    max_body_bytes: int = 64_000_000
    max_memory_bytes: int = 1_000_000_000
    finite: bool = False
    drain_s: float = 10.0


@dataclass(frozen=True, eq=False)
class Model:
    """A session under a name.

    Attributes:
        alone: why its samples do not share calls; None where they do.
        policy: of its queue.
        platform: the engine that answers and the format it was given, as metadata names them.
    """

    name: str
    session: Session
    contract: Contract
    policy: Policy
    alone: str | None
    platform: str = PLATFORM

    @classmethod
    def of(cls, name: str, session: Session, settings: Settings, platform: str = PLATFORM) -> Model:
        """A session, tried on made-up samples for whether they can share a call.

        Raises:
            Unsupported: a tensor is of a type that the protocol has no word for.
        """
        contract = Contract.of(session.signature, finite=settings.finite)
        policy = settings.policy
        alone: str | None = "batches are off"
        if policy.max_batch > 1:
            alone = shares(session.run, contract, policy.max_batch)
        if alone is not None:
            policy = replace(policy, max_batch=1, max_wait_s=0.0)
        return cls(name, session, contract, policy, alone, platform)

    def metadata(self) -> dict[str, Any]:
        """As the protocol's model metadata."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": self.platform,
            "inputs": [slot.to_json() for slot in self.contract.inputs.values()],
            "outputs": [slot.to_json() for slot in self.contract.outputs.values()],
        }

    def rows(self, feed: Mapping[str, Any]) -> int | None:
        """The samples in a request; None where its inputs do not agree on it."""
        if self.alone is not None:
            return 1
        counts = {array.shape[0] for array in feed.values()}
        return counts.pop() if len(counts) == 1 else None


class Service:
    """Models by name, each with its queue and threads, from `start` to `stop`.

    Attributes:
        reading: requests by model whose bodies are on their way.
        held_bytes: bytes of the bodies in hand.
    """

    def __init__(self, models: Sequence[Model], settings: Settings) -> None:
        self.models = {model.name: model for model in models}
        self.settings = settings
        self.metrics = Metrics()
        self.queues: dict[str, Batcher] = {}
        self.reading = dict.fromkeys(self.models, 0)
        self.held_bytes = 0
        self.closing = False
        self._threads: list[EngineThreads] = []

    def start(self) -> None:
        """Begin to take requests, on the running event loop."""
        loop = asyncio.get_running_loop()
        for name, model in self.models.items():
            threads = EngineThreads(model.policy.workers, loop, name)
            self._threads.append(threads)
            self.queues[name] = Batcher(
                model.session.run, threads, LoopClock(loop), model.policy, self._observer(name)
            )

    def ready(self, name: str) -> bool:
        """Whether the model takes requests now."""
        return name in self.queues and not self.closing

    async def drain(self) -> int:
        """Take nothing new and answer what is queued; how many requests the time did not allow."""
        self.closing = True
        queues = self.queues.values()
        try:
            await asyncio.wait_for(self._finished(), self.settings.drain_s)
        except asyncio.TimeoutError:
            return sum(queue.abandon() for queue in queues) + sum(self.reading.values())
        return 0

    async def _finished(self) -> None:
        """Return when the bodies on their way have arrived, and the queues are empty."""
        while any(self.reading.values()):
            await asyncio.sleep(LOOK_S)
        await asyncio.gather(*(queue.drain() for queue in self.queues.values()))

    def stop(self) -> None:
        """End the threads, and close all sessions where every thread ended."""
        idle = all(not queue.running for queue in self.queues.values())
        ended = [threads.stop(1.0 if idle else 0.0) for threads in self._threads]
        if all(ended):
            for model in self.models.values():
                model.session.close()

    def text(self) -> str:
        """The metrics, as Prometheus reads them."""
        return self.metrics.text(
            [(name, queue.waiting) for name, queue in self.queues.items()],
            [(name, self.ready(name)) for name in self.models],
        )

    def _observer(self, name: str) -> Any:
        metrics = self.metrics

        def seen(rows: int, ran: Ran, waits: Sequence[float]) -> None:
            metrics.samples.add((name,), rows)
            metrics.calls.add((name,), ran.calls)
            metrics.engine_seconds.see(name, ran.seconds)
            metrics.batch_samples.see(name, rows)
            for wait in waits:
                metrics.queue_seconds.see(name, max(wait, 0.0))

        return seen


def server_metadata() -> dict[str, Any]:
    """As the protocol's server metadata."""
    return {"name": "edgedl", "version": edgedl.__version__, "extensions": list(EXTENSIONS)}
