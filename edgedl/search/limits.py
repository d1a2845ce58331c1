"""Limits that the user sets, and operators put back to float until they are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgedl.backends import Backend, in_scheme
from edgedl.core.model import Model
from edgedl.core.target import SCHEMES
from edgedl.core.units import format_bytes, format_ms
from edgedl.passes.graph import read
from edgedl.passes.plan import Cost, Plan
from edgedl.passes.ranges import Grid, Histogram, Range, noise_to_signal
from edgedl.passes.recurrent import is_recurrent, weights_of
from edgedl.passes.scales import rounded, spread
from edgedl.search.candidates import Candidate, Reference, Trial, int8_candidate
from edgedl.search.harm import SECONDS, measured_harm
from edgedl.search.memory import judge

LEAST_US = 1.0
BACK_TO_FLOAT = "put back to float: among the most harmful to the answers"


def _model_bytes(candidate: Candidate) -> int:
    return candidate.model.bytes


@dataclass(frozen=True)
class Limits:
    """What the result must keep: a loss of the metric (a fraction), milliseconds, bytes.

    Attributes:
        bundle_bytes: how large a candidate's bundle will be, which is asked under `max_bytes`.
    """

    max_drop: float | None = None
    max_latency_ms: float | None = None
    max_bytes: int | None = None
    bundle_bytes: Callable[[Candidate], int] = _model_bytes

    def broken_by(self, trial: Trial, latency_ms: float) -> tuple[str, ...]:
        """Sentences about the limits that a candidate breaks."""
        size = 0 if self.max_bytes is None else self.bundle_bytes(trial.candidate)
        return self.broken(trial.drop, latency_ms, size)

    def broken(
        self, drop: float, latency_ms: float, size: int, about_drop: str = ""
    ) -> tuple[str, ...]:
        """Sentences about the limits that these figures break, as a drop does that is no number.

        Args:
            about_drop: what is to be said of the drop where it breaks its limit.
        """
        found = []
        if self.max_drop is not None and not drop <= self.max_drop + 1e-12:
            found.append(
                f"drop {100 * drop:.2f} % is over --max-drop {100 * self.max_drop:g}%{about_drop}"
            )
        if self.max_latency_ms is not None and latency_ms > self.max_latency_ms:
            limit = format_ms(self.max_latency_ms)
            found.append(f"latency {format_ms(latency_ms)} is over --max-latency {limit}")
        if self.max_bytes is not None and size > self.max_bytes:
            given, limit = format_bytes(size), format_bytes(self.max_bytes)
            if given == limit:
                given, limit = f"{size} B", f"{self.max_bytes} B"
            found.append(f"a bundle of {given} is over --max-bytes {limit}")
        return tuple(found)


@dataclass(frozen=True)
class Drop:
    """How far the metric fell, where the choice was made and on the samples of the report.

    Attributes:
        chosen: the drop on the `chosen_samples` that the choice was made on.
        reported: the drop on the `samples` of the report, `interval` its 95 % interval, None where
            nothing can be said.
    """

    chosen: float
    chosen_samples: int
    reported: float
    samples: int
    interval: tuple[float, float] | None

    @property
    def about(self) -> str:
        """What stands behind the drop of the report, where that breaks a limit."""
        words = f" on {_samples(self.samples)} of the report{self._range()}"
        kept = (
            f"; on the {_samples(self.chosen_samples)} of the choice it was {_percent(self.chosen)}"
        )
        return words + kept

    def doubt(self, max_drop: float | None) -> str | None:
        """That the limit may be broken, or need not be, for all that so few samples tell."""
        if max_drop is None or self.interval is None or math.isnan(self.reported):
            return None
        low, high = self.interval
        limit = f"--max-drop {100 * max_drop:g}%"
        if self.reported <= max_drop < high:
            what = f"keeps {limit}, and may break it on others"
        elif low <= max_drop < self.reported and self.chosen <= max_drop:
            what = f"breaks {limit}, which the choice kept: so few samples cannot tell"
        else:
            return None
        return (
            f"the drop of {_percent(self.reported)} on {_samples(self.samples)}{self._range()}"
            f" {what}; more samples tell more exactly (--test)"
        )

    def _range(self) -> str:
        if self.interval is None:
            return ""
        low, high = (100 * end for end in self.interval)
        return f" (95 % interval {low:.2f} to {high:.2f} %)"


def _samples(count: int) -> str:
    return f"{count} sample{'s' * (count != 1)}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def by_harm(
    plan: Plan, clean: Model, histograms: Mapping[str, Histogram], costs: Sequence[Cost] = ()
) -> list[str]:
    """The plan's int8 nodes, those first whose return to float is expected to take most noise from
    the answers for each microsecond that it costs.

    The noise of a node is that of rounding and clipping its activations, from their histograms,
    and that of rounding its weights, over its signal. Without costs, every node costs the same.
    """
    grid = Grid(symmetric=SCHEMES[plan.scheme].activations == "symmetric")
    noise: dict[str, float] = {}
    spans = {}
    for name, quantizer in plan.activations.items():
        codes = (0, 255) if quantizer.dtype == "uint8" else (-127, 127)
        low, high = ((code - quantizer.zero_point) * quantizer.scale for code in codes)
        spans[name] = noise_to_signal(histograms[name], Range(low, high), grid)
    int8 = set(plan.int8)
    for node in read(clean.path).graph:
        if node.name not in int8:
            continue
        total = sum(spans.get(value.name or "", 0.0) for value in node.inputs if value is not None)
        if node.name in plan.weights:
            position, axis = plan.weights[node.name]
            weight = node.inputs[position]
            assert weight is not None
            assert weight.const_value is not None
            total += _weight_noise(weight.const_value.numpy(), axis)
        if is_recurrent(node):
            total += sum(spans.get(value.name or "", 0.0) for value in node.outputs)
            total += sum(_weight_noise(weight, 0) for weight in weights_of(node))
        noise[node.name] = total
    return _dearest(noise, costs)


def order_of_return(
    start: Candidate, expected: Reference, harm_seconds: float = SECONDS
) -> list[str]:
    """A candidate's int8 nodes, those first whose return to float is worth most: by what each of
    them was measured to do to the answers, and behind these by what is guessed."""
    assert start.plan is not None
    assert start.prepared is not None
    prepared = start.prepared
    guessed = by_harm(start.plan, prepared.model, prepared.histograms, start.costs)
    harm = measured_harm(start, expected, guessed, seconds=harm_seconds)
    return [*_dearest(harm, start.costs), *(name for name in guessed if name not in harm)]


def _prices(costs: Sequence[Cost]) -> dict[str, float]:
    """By how many microseconds nodes take longer in float, 1 at least."""
    return {
        cost.node: max(LEAST_US, (cost.float_us or 0.0) - (cost.int8_us or 0.0)) for cost in costs
    }


def _dearest(noise: Mapping[str, float], costs: Sequence[Cost]) -> list[str]:
    """Nodes by their noise for each microsecond that float takes longer."""
    price = _prices(costs)
    return sorted(noise, key=lambda name: -noise[name] / price.get(name, LEAST_US))


def _weight_noise(weight: np.ndarray, axis: int | None) -> float:
    codes, scales = rounded(weight, axis)
    error = codes * spread(scales, axis, weight.ndim).astype(np.float64) - weight
    power = float(np.sum(weight.astype(np.float64) ** 2))
    return float(np.sum(error**2)) / power if power > 0 else 0.0


def relieve(
    backend: Backend,
    start: Candidate,
    expected: Reference,
    enough: Callable[[Trial], bool],
    threads: int | None,
    harm_seconds: float = SECONDS,
) -> Iterator[Trial]:
    """Trials with more and more of the most harmful operators in float, until one is enough.

    What an operator does to the answers is measured, as far as the time allows, and guessed from
    its own noise beyond. The number of operators doubles from a sixteenth on; once one is enough,
    one more trial halfway back looks for a faster one. Every trial is given, so that the caller
    keeps the best.

    Raises:
        EngineFailed: the engine refuses a model.
    """
    assert start.plan is not None
    assert start.method is not None
    assert start.prepared is not None
    method, backend = start.method, in_scheme(backend, SCHEMES[start.plan.scheme])
    prepared = start.prepared
    order = order_of_return(start, expected, harm_seconds)
    placed = {d.node: d.reason for d in start.plan.decisions if d.precision == "float"}

    def attempt(count: int) -> Trial:
        kept = dict.fromkeys(order[:count], BACK_TO_FLOAT)
        candidate = int8_candidate(
            backend,
            prepared,
            method,
            keep_float={**placed, **kept},
            exact=kept,
            settings=start.settings,
            means=start.means,
            shifted=start.plan.shifted if start.plan else (),
            narrow=start.plan.narrow if start.plan else (),
            label=f"{start.label}, but {count} operator{'s' * (count > 1)}",
        )
        return judge(candidate.with_costs(start.costs), expected, threads)

    failed, count = 0, max(1, len(order) // 16)
    last = len(order) - (len(order) == len(start.plan.int8))
    while count <= last:
        trial = attempt(count)
        yield trial
        if enough(trial):
            middle = (failed + count) // 2
            if middle > failed:
                yield attempt(middle)
            return
        failed, count = count, count * 2
        if failed < last < count:
            count = last
