"""What `compress` found, as JSON and as a page that is read in ten seconds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedl.core.errors import MetricFailed
from edgedl.core.paired import Difference
from edgedl.core.program import Constants
from edgedl.core.stats import Agreement, Interval, Verdict
from edgedl.core.units import format_bytes, format_ms, plural
from edgedl.report.table import table

# Classes whose figures stand on the page by themselves.
MOST_PARTS = 20


@dataclass(frozen=True)
class Accuracy:
    """A metric of the float model and of the result, on samples that no choice was made on.

    Attributes:
        baseline, result: scores, of which more is better.
        figure: what the metric's figure is called.
        perfect: None where the score is the figure; else the score of an error of 0.
        difference: what the result's score has over the baseline's.
        parts: figures of both for each class by name, where the metric has such.
    """

    metric: str
    baseline: float
    result: float
    samples: int
    figure: str
    perfect: float | None
    difference: Difference
    parts: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def shown(self, score: float) -> float:
        """A score in the field's usual direction."""
        return score if self.perfect is None else self.perfect - score

    def to_json(self) -> dict[str, Any]:
        parts = {
            name: {"baseline": _finite(before), "result": _finite(after)}
            for name, (before, after) in self.parts.items()
        }
        return {
            "metric": self.metric,
            "baseline": _finite(self.baseline),
            "result": _finite(self.result),
            "drop": _finite(self.baseline - self.result),
            "samples": self.samples,
            "figure": {
                "name": self.figure,
                "lower_is_better": self.perfect is not None,
                "baseline": _finite(self.shown(self.baseline)),
                "result": _finite(self.shown(self.result)),
            },
            "difference": self.difference.to_json(),
            **({"parts": parts} if parts else {}),
        }

    def rows(self) -> list[list[str]]:
        """The lines of the page: that of the figure, and one for each class that has its own."""
        parts = self.parts if 1 < len(self.parts) <= MOST_PARTS else {}
        return [self.row(), *(_part(name, *both) for name, both in parts.items())]

    def row(self) -> list[str]:
        """The line of the page: two figures, what the second has over the first, and whether that
        is chance."""
        change = self.difference
        sign = 1 if self.perfect is None else -1
        low, high = sorted((sign * change.low, sign * change.high))
        error = self.perfect not in (None, 1)
        form, unit, factor = ("+.4g", "", 1) if error else ("+.2f", " points", 100)
        p = "" if change.p is None else f", McNemar's p {change.p:.2g}"
        said = "within chance" if change.within_chance else "beyond chance"
        return [
            self.figure,
            f"{self.shown(self.baseline):.4f}",
            f"{self.shown(self.result):.4f}",
            f"{factor * sign * change.value:{form}}{unit} [{factor * low:{form}},"
            f" {factor * high:{form}}] on {plural(self.samples, 'sample')}: {said}{p}",
        ]


@dataclass(frozen=True)
class AgainstFloat:
    """A metric's twin without labels: `value`, called `figure`, with float's answers for labels.

    `score` is the value, turned so that more is better, and `perfect` that of float itself.
    """

    metric: str
    figure: str
    value: float
    score: float
    perfect: float
    samples: int

    @property
    def drop(self) -> float:
        """What is missing to answers like float's."""
        return self.perfect - self.score

    def to_json(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "figure": self.figure,
            "value": _finite(self.value),
            "drop": _finite(self.drop),
            "samples": self.samples,
        }


@dataclass(frozen=True)
class Choice:
    """One way that was tried: its figures, and what became of it."""

    name: str
    p50_ms: float | None
    agreement: Agreement | None
    drop: float | None
    bytes: int | None
    outcome: str

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "p50_ms": self.p50_ms,
            "agreement": None if self.agreement is None else self.agreement.to_json(),
            "drop": _finite(self.drop),
            "bytes": self.bytes,
            "outcome": self.outcome,
        }


@dataclass(frozen=True)
class Compressed:
    """The result of `compress`. Latencies are in milliseconds, by percentile; they, the speedup and
    its verdict are None where nothing was timed.

    Attributes:
        against_float: a named metric without labels, with float's answers in their place.
        failed: why the named metric gave nothing here, although all else is sound.
        broken: limits that could not be kept, a sentence each; empty where all hold.
        float_reasons: how many operators stayed float, by operator and reason.
        why: sentences about what was won, what it costs, and what would help next.
        costs: the cost table: each operator's microseconds in float and in int8.
        plan: the plan as a YAML file's text; None where nothing computes in int8.
        tuned: the constants that training moved, which the plan names; None where it moved none.
        baseline: what the model is that the result is compared with, `float32` or `quantized`.
    """

    source: Path
    output: Path
    engine: str
    target: str
    precision: str
    threads: int
    bytes: int
    baseline_bytes: int
    baseline_ms: Mapping[str, float | int | None] | None
    result_ms: Mapping[str, float | int | None] | None
    speedup: Interval | None
    verdict: Verdict | None
    noise_floor: float | None
    agreement: Agreement
    accuracy: Accuracy | None
    operators: Mapping[str, int]
    choices: tuple[Choice, ...]
    float_reasons: Mapping[tuple[str, str], int]
    why: tuple[str, ...]
    costs: tuple[Mapping[str, Any], ...]
    plan: str | None
    doubts: tuple[str, ...]
    broken: tuple[str, ...]
    seconds: float
    peak_rss_bytes: int | None
    machine: Mapping[str, Any]
    against_float: AgainstFloat | None = None
    failed: MetricFailed | None = None
    tuned: Constants | None = None
    baseline: str = "float32"

    def to_json(self) -> dict[str, Any]:
        """The contract's document."""
        return {
            "output": str(self.output),
            "engine": self.engine,
            "target": self.target,
            "precision": self.precision,
            "threads": self.threads,
            "bytes": self.bytes,
            "baseline": self.baseline,
            "baseline_bytes": self.baseline_bytes,
            "latency_ms": {
                name: None if one is None else dict(one)
                for name, one in (("baseline", self.baseline_ms), ("result", self.result_ms))
            },
            "speedup": None
            if self.speedup is None
            else {**self.speedup.to_json(), "verdict": self.verdict},
            "noise_floor": self.noise_floor,
            "agreement": self.agreement.to_json(),
            "accuracy": None if self.accuracy is None else self.accuracy.to_json(),
            "against_float": None if self.against_float is None else self.against_float.to_json(),
            "metric_failed": None if self.failed is None else str(self.failed),
            "operators": dict(self.operators),
            "tried": [choice.to_json() for choice in self.choices],
            "stayed_float": [
                {"operator": operator, "reason": reason, "count": count}
                for (operator, reason), count in self.float_reasons.items()
            ],
            "why": list(self.why),
            "costs": [dict(cost) for cost in self.costs],
            "doubts": list(self.doubts),
            "broken_limits": list(self.broken),
            "seconds": self.seconds,
            "peak_rss_bytes": self.peak_rss_bytes,
            "machine": dict(self.machine),
        }

    def text(self) -> str:
        """The page."""
        ratio = self.baseline_bytes / self.bytes
        rows = [
            ["", self.baseline, "result", ""],
            ["bytes", format_bytes(self.baseline_bytes), format_bytes(self.bytes), _smaller(ratio)],
            ["latency p50", _ms(self.baseline_ms), _ms(self.result_ms), self._speed()],
        ]
        if self.accuracy is not None:
            rows += self.accuracy.rows()
        if self.against_float is not None:
            twin = self.against_float
            note = f"against float's answers, on {plural(twin.samples, 'sample')}"
            rows.append([twin.figure, "", f"{twin.value:.4f}", note])
        rows.append(["agreement", "", *_agreement(self.agreement)])
        computed = ", ".join(f"{count} {kind}" for kind, count in self.operators.items() if count)
        rows.append(["operators", "", self.precision, computed])
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        title = f"{self.source.name} -> {self.output}   {self.engine}, {self.precision}, {threads}"
        parts = [title, table(rows, right=(1, 2)), self._tried()]
        if self.float_reasons:
            lines = [
                f"  {count} {operator}: {reason}"
                for (operator, reason), count in Counter(self.float_reasons).most_common(6)
            ]
            parts.append("stayed float\n" + "\n".join(lines))
        if self.why:
            parts.append("why\n" + "\n".join(f"  {line}" for line in self.why))
        if self.doubts:
            parts.append("doubts\n" + "\n".join(f"  {doubt}" for doubt in self.doubts))
        if self.broken:
            parts.append(
                "limits that could not be kept\n" + "\n".join(f"  {b}" for b in self.broken)
            )
        return "\n\n".join(parts)

    def _speed(self) -> str:
        if self.speedup is None or self.noise_floor is None:
            return ""
        interval = f"{self.speedup.ratio:.2f}x [{self.speedup.low:.2f}, {self.speedup.high:.2f}]"
        if self.verdict == "inconclusive":
            return f"{interval}: no difference beyond the noise of {100 * self.noise_floor:.0f} %"
        return f"{interval} {self.verdict}"

    def _tried(self) -> str:
        rows = [["tried", "p50", "bytes", "top-1", "cosine", ""]]
        for choice in self.choices:
            agreement = choice.agreement
            rows.append(
                [
                    choice.name,
                    "" if choice.p50_ms is None else format_ms(choice.p50_ms),
                    "" if choice.bytes is None else format_bytes(choice.bytes),
                    "" if agreement is None or agreement.top1 is None else f"{agreement.top1:.3f}",
                    "" if agreement is None else f"{agreement.cosine:.4f}",
                    choice.outcome,
                ]
            )
        return table(rows, right=(1, 2, 3, 4))


def _part(name: str, before: float, after: float) -> list[str]:
    """The line of one class; nothing stands where neither map nor label has it."""
    shown = ("" if math.isnan(one) else f"{one:.4f}" for one in (before, after))
    change = after - before
    return [f"  {name}", *shown, "" if math.isnan(change) else f"{100 * change:+.2f} points"]


def _finite(value: float | None) -> float | None:
    """The figure, None where JSON has none for it."""
    return value if value is not None and math.isfinite(value) else None


def _smaller(ratio: float) -> str:
    return f"{ratio:.2f}x smaller" if ratio >= 1 else f"{1 / ratio:.2f}x larger"


def _ms(latency: Mapping[str, float | int | None] | None) -> str:
    if latency is None:
        return "not timed"
    p50 = latency["p50"]
    return "too few samples" if p50 is None else format_ms(p50)


def _agreement(agreement: Agreement) -> tuple[str, str]:
    first = f"{agreement.cosine:.4f}" if agreement.top1 is None else f"{agreement.top1:.3f}"
    kind = "cosine" if agreement.top1 is None else f"top-1, cosine {agreement.cosine:.4f}"
    equal = "" if agreement.equal is None else f", {agreement.equal:.3f} of integers equal"
    count = plural(agreement.samples, "sample")
    return first, f"{kind}, {agreement.sqnr_db:.1f} dB{equal} on {count}"
