"""Counters, gauges and histograms, in the text format that Prometheus scrapes (version 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SAMPLES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
Labels = tuple[str, ...]


@dataclass(eq=False)
class Counter:
    """A number by labels that only grows."""

    name: str
    about: str
    labels: Labels
    values: dict[Labels, float] = field(default_factory=dict)

    def add(self, labels: Labels, count: float = 1) -> None:
        """Count on."""
        self.values[labels] = self.values.get(labels, 0) + count

    def lines(self) -> Iterator[str]:
        """As Prometheus reads it."""
        yield from _head(self.name, self.about, "counter")
        for labels, value in self.values.items():
            yield f"{self.name}{_braces(self.labels, labels)} {_number(value)}"


@dataclass(eq=False)
class Histogram:
    """How often a quantity fell below each bound, by model."""

    name: str
    about: str
    bounds: Sequence[float]
    counts: dict[str, list[int]] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)

    def see(self, model: str, value: float) -> None:
        """One more value."""
        counts = self.counts.get(model)
        if counts is None:
            counts = self.counts[model] = [0] * (len(self.bounds) + 1)
            self.sums[model] = 0.0
        counts[bisect_left(self.bounds, value)] += 1
        self.sums[model] += value

    def lines(self) -> Iterator[str]:
        """As Prometheus reads it: each bound counts all that lies below it."""
        yield from _head(self.name, self.about, "histogram")
        for model, counts in self.counts.items():
            below = 0
            for bound, count in zip((*self.bounds, None), counts, strict=True):
                below += count
                end = "+Inf" if bound is None else _number(bound)
                yield f"{self.name}_bucket{_braces(('model', 'le'), (model, end))} {below}"
            yield f"{self.name}_sum{_braces(('model',), (model,))} {_number(self.sums[model])}"
            yield f"{self.name}_count{_braces(('model',), (model,))} {below}"


class Metrics:
    """What the service counts; all of it on the event loop's thread, so without locks."""

    def __init__(self) -> None:
        self.requests = Counter(
            "edgedl_requests_total", "Requests by model and HTTP status.", ("model", "code")
        )
        self.samples = Counter("edgedl_samples_total", "Samples that were run.", ("model",))
        self.calls = Counter("edgedl_engine_calls_total", "Calls of the engine.", ("model",))
        self.request_seconds = Histogram(
            "edgedl_request_seconds",
            "From a request's head to its answer, where it is 200.",
            SECONDS,
        )
        self.queue_seconds = Histogram(
            "edgedl_queue_seconds", "From a request's place in the queue to its call.", SECONDS
        )
        self.engine_seconds = Histogram("edgedl_engine_seconds", "A batch in the engine.", SECONDS)
        self.batch_samples = Histogram("edgedl_batch_samples", "Samples in a batch.", SAMPLES)

    def text(self, queues: Iterable[tuple[str, int]], ready: Iterable[tuple[str, bool]]) -> str:
        """All of it; with the requests that wait now, and whether a model is ready, by model."""
        families = (
            self.requests, self.samples, self.calls, self.request_seconds, self.queue_seconds,
            self.engine_seconds, self.batch_samples,
        )  # fmt: skip
        lines = [line for family in families for line in family.lines()]
        lines += _gauge("edgedl_queue_requests", "Requests that wait.", queues)
        lines += _gauge("edgedl_model_ready", "Whether the model takes requests.", ready)
        return "\n".join(lines) + "\n"


def _head(name: str, about: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"


def _gauge(name: str, about: str, values: Iterable[tuple[str, float]]) -> Iterator[str]:
    yield from _head(name, about, "gauge")
    for model, value in values:
        yield f"{name}{_braces(('model',), (model,))} {_number(value)}"


def _braces(names: Labels, values: Labels) -> str:
    pairs = (f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
