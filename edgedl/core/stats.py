"""Statistics of timings and of answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["faster", "slower", "inconclusive"]

# MLPerf Inference's early stopping needs this many samples before a percentile may be claimed.
FLOORS = {"p50": 10, "p90": 64, "p99": 662}
SIGNIFICANT = 0.05
DRAWS = 2000
FAITHFUL_TOP1, FAITHFUL_COSINE = 0.98, 0.999


@dataclass(frozen=True)
class Interval:
    """A ratio with its 95 % interval, and the degrees of freedom behind that, None for many."""

    ratio: float
    low: float
    high: float
    freedom: int | None = None

    @property
    def width(self) -> float:
        """The interval's width as a share of the ratio."""
        return (self.high - self.low) / self.ratio

    def p_value(self, noise_floor: float) -> float:
        """How likely so large a ratio is where the true one differs from 1 by the noise floor only.

        At most 0.05 exactly where the interval clears the floor.
        """
        if self.ratio >= 1:
            gap, half = math.log(self.ratio / (1 + noise_floor)), math.log(self.ratio / self.low)
        elif noise_floor >= 1:
            return 1.0
        else:
            gap, half = math.log((1 - noise_floor) / self.ratio), math.log(self.high / self.ratio)
        if gap <= 0:
            return 1.0
        if half <= 0:
            return 0.0
        return 1 - student_within(gap / half * student_quantile(self.freedom), self.freedom)

    def verdict(self, noise_floor: float) -> Verdict:
        """`faster` or `slower` only where the whole interval clears 1 by the noise floor."""
        if self.low > 1 + noise_floor:
            return "faster"
        if self.high < 1 - noise_floor:
            return "slower"
        return "inconclusive"

    def to_json(self) -> dict[str, float]:
        return {"ratio": self.ratio, "low": self.low, "high": self.high}


def percentiles(milliseconds: np.ndarray) -> dict[str, float | int | None]:
    """min, p50, p90, p99, mean and sample count; a percentile without enough samples is None."""
    row: dict[str, float | int | None] = {"min": float(milliseconds.min())}
    for name, floor in FLOORS.items():
        quantile = float(name[1:]) / 100
        enough = len(milliseconds) >= floor
        row[name] = float(np.quantile(milliseconds, quantile)) if enough else None
    row["mean"] = float(milliseconds.mean())
    row["samples"] = len(milliseconds)
    return row


def student_within(t: float, freedom: int | None) -> float:
    """The share of Student's t distribution between -t and t; the normal one's for None.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    if freedom is None:
        return math.erf(t / math.sqrt(2))
    angle = math.atan(t / math.sqrt(freedom))
    cosine_of, odd = math.cos(angle), freedom % 2
    term, total = (cosine_of, 0.0) if odd else (1.0, 0.0)
    for k in range(1 if not odd else 2, freedom, 2):
        total += term
        term *= cosine_of**2 * k / (k + 1)
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + math.sin(angle) * total)


def student_quantile(freedom: int | None, within: float = 1 - SIGNIFICANT) -> float:
    """The t that has the share `within` between -t and t, by bisection."""
    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_within(middle, freedom) < within else (low, middle)
    return high


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for being many: Holm, A simple sequentially rejective multiple test
    procedure, Scandinavian Journal of Statistics 6 (1979)."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def pooled_ratio(processes: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Interval:
    """How many times faster B is than A, from each process's median times of A and B by round.

    A process gives the median of its rounds' ratios, and the ratio is the geometric mean of these.
    The interval is the wider of two: the bootstrap over rounds within processes, and Student's
    over processes, since where memory comes to lie differs from process to process and no number
    of rounds averages that out.
    """
    if len(processes) == 1:
        return bootstrap_ratio(*processes[0])
    rng = np.random.default_rng(0)
    middles, drawn = [], np.zeros(DRAWS)
    for a, b in processes:
        logs = np.log(np.asarray(a, dtype=float) / np.asarray(b, dtype=float))
        middles.append(float(np.median(logs)))
        draws = rng.integers(0, len(logs), (DRAWS, len(logs)))
        drawn += np.median(logs[draws], axis=1) / len(processes)
    centre, freedom = float(np.mean(middles)), len(processes) - 1
    spread = float(np.std(middles, ddof=1)) / math.sqrt(len(processes))
    half = spread * student_quantile(freedom)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(
        math.exp(centre),
        math.exp(min(float(low), centre - half)),
        math.exp(max(float(high), centre + half)),
        freedom,
    )


def bootstrap_ratio(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Interval:
    """How many times faster B is than A, from one median of each a round.

    The ratio is the median of the rounds' ratios a/b; rounds, not samples, are drawn again, since
    samples within a round are correlated (Efron and Tibshirani, An Introduction to the Bootstrap,
    1993, percentile interval).
    """
    ratios = np.asarray(a, dtype=float) / np.asarray(b, dtype=float)
    draws = np.random.default_rng(seed).integers(0, len(ratios), (DRAWS, len(ratios)))
    medians = np.median(ratios[draws], axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return Interval(float(np.median(ratios)), float(low), float(high))


def mean_interval(differences: np.ndarray) -> tuple[float, float] | None:
    """The 95 % interval of the mean of paired differences; None where nothing can be said.

    Where all lie between -1 and 1, as those of shares of right answers do, Agresti and Min's for
    matched pairs (Statistics in Medicine 24, 2005), which adds half an observation to each of the
    four outcomes and so has a width even where no sample differs. Otherwise Student's.
    """
    count = len(differences)
    if count < 1 or not np.isfinite(differences).all():
        return None
    if np.abs(differences).max() <= 1:
        mean = float(differences.sum()) / (count + 2)
        variance = (float(np.square(differences).sum()) + 1) / (count + 2) - mean**2
        half = student_quantile(None) * math.sqrt(variance / (count + 2))
        return max(mean - half, -1.0), min(mean + half, 1.0)
    if count < 2:
        return None
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    half = student_quantile(count - 1) * error
    return mean - half, mean + half


def share_interval(share: float, samples: int) -> tuple[float, float]:
    """The 95 % interval of a share that was seen on so many samples.

    Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    square = student_quantile(None) ** 2
    centre = (share + square / (2 * samples)) / (1 + square / samples)
    inner = share * (1 - share) / samples + square / (4 * samples**2)
    half = math.sqrt(square * inner) / (1 + square / samples)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of the angle between two arrays, each taken as one vector; 1 where both are zero."""
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    if not np.isfinite(norms):
        return 1.0 if np.array_equal(x, y, equal_nan=True) else 0.0
    if norms == 0:
        return 1.0 if np.array_equal(x, y) else 0.0
    return float(np.clip(x @ y / norms, -1, 1))


def decibels(signal: float, noise: float) -> float:
    """10 log10 of signal to noise power, between -100 and 200 dB."""
    if noise <= 0:
        return 200.0
    if not np.isfinite(noise):
        return -100.0
    return float(np.clip(10 * np.log10(max(signal, 1e-300) / noise), -100, 200))


@dataclass(frozen=True)
class Agreement:
    """How alike two models answer the same samples.

    `top1` is the share of samples whose largest entry along the last axis of the first output
    stands at the same place (None where the first output has no classes), `cosine` the mean cosine
    per sample, `sqnr_db` signal to noise power in decibels over all samples, the worst output's.
    Integer outputs, as classes, tokens and places are, count in neither: `equal` is the share of
    their values that are the same, the worst output's, None where there is none. Where the first
    output is one, its share is `top1`; where all are, the share stands for `cosine`, and what
    differs is the noise. Probabilities that stand beside coordinates in one output, as in a
    detector's head, count as an output of their own: beside values of hundreds, nothing would be
    seen of them.
    """

    top1: float | None
    cosine: float
    sqnr_db: float
    samples: int
    equal: float | None = None

    @property
    def is_faithful(self) -> bool:
        """Whether they answer alike: the same class in 98 of 100, or, where no output has classes,
        a cosine of 0.999, and as many equal integers."""
        if self.top1 is not None:
            return self.top1 >= FAITHFUL_TOP1
        alike = self.equal is None or self.equal >= FAITHFUL_TOP1
        return alike and self.cosine >= FAITHFUL_COSINE

    def to_json(self) -> dict[str, float | int | None]:
        return {
            "top1": self.top1,
            "cosine": self.cosine,
            "sqnr_db": self.sqnr_db,
            "samples": self.samples,
            "equal": self.equal,
        }


def equal_share(expected: np.ndarray, given: np.ndarray) -> float:
    """The share of values that are the same; 1 where there are none, 0 for another shape."""
    if expected.shape != given.shape:
        return 0.0
    return float(np.mean(expected == given)) if expected.size else 1.0


def _scores(answer: np.ndarray) -> bool:
    """Whether the last axis may hold scores of classes: one row, or rows of probabilities that add
    up to 1."""
    if answer.ndim == 0 or answer.shape[-1] < 2 or not answer.size:
        return False
    if answer.ndim <= 2:
        return True
    rows = answer.reshape(-1, answer.shape[-1])
    return bool(np.allclose(rows.sum(axis=1), 1, atol=1e-2) and rows.min() >= 0)


def _unit(answer: np.ndarray) -> bool:
    """Whether its rows have length 1, as those of embeddings have, and are no probabilities."""
    rows = answer.reshape(-1, answer.shape[-1])
    if rows.min() >= 0 and np.allclose(rows.sum(axis=1), 1, atol=1e-2):
        return False
    return bool(np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3))


LEAST_CHANNELS, MOST_CHANNELS, UNLIKE_SIZES = 5, 1024, 8.0


def probabilities(answer: np.ndarray) -> tuple[int, np.ndarray] | None:
    """The axis of an output's channels and those that hold probabilities, 0 to 1, where others hold
    values that are larger by far; None where there are no such two kinds.

    Channels, 5 to 1,024, lie along the last axis or along the one behind the batch's.
    """
    if answer.ndim < 3 or answer.dtype.kind != "f" or not np.isfinite(answer).all():
        return None
    for axis in (answer.ndim - 1, 1):
        if not LEAST_CHANNELS <= answer.shape[axis] <= MOST_CHANNELS or not answer.size:
            continue
        others = tuple(i for i in range(answer.ndim) if i != axis)
        low, high = answer.min(axis=others), answer.max(axis=others)
        inside = (low >= 0) & (high <= 1) & (high > 0)
        if inside.any() and ((high > UNLIKE_SIZES) | (low < -UNLIKE_SIZES)).any():
            return axis, np.flatnonzero(inside)
    return None


class AgreementMeter:
    """Gathers an `Agreement` sample by sample, keeping sums only."""

    def __init__(self) -> None:
        self.samples = 0
        self.cosines: dict[str, float] = {}
        self.signal: dict[str, float] = {}
        self.noise: dict[str, float] = {}
        self.same = 0
        self.votes = 0
        self.unit = True
        self.shares: dict[str, float] = {}
        self._first_is_integer = False
        self._parts: dict[str, tuple[int, np.ndarray] | None] = {}

    def add(self, expected: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> None:
        self.samples += 1
        for position, (name, reference) in enumerate(expected.items()):
            answer = given[name]
            if reference.dtype.kind in "iub":
                share = equal_share(reference, answer)
                self.shares[name] = self.shares.get(name, 0.0) + share
                self._first_is_integer |= position == 0
                continue
            x, y = reference.astype(np.float64), answer.astype(np.float64)
            if x.shape != y.shape:
                self.cosines[name] = self.cosines.get(name, 0.0)
                self.signal[name] = self.signal.get(name, 0.0)
                self.noise[name] = float("inf")
                continue
            self._count(name, x, y)
            if name not in self._parts:
                self._parts[name] = probabilities(x)
            if (part := self._parts[name]) is not None:
                axis, chosen = part
                both = (np.take(array, chosen, axis) for array in (x, y))
                self._count(f"probabilities of {name}", *both)
            if position == 0 and _scores(x):
                self.unit = self.unit and x.ndim <= 2 and _unit(x)
                matches = x.argmax(-1) == y.argmax(-1)
                self.same += int(np.sum(matches))
                self.votes += matches.size

    def _count(self, name: str, x: np.ndarray, y: np.ndarray) -> None:
        self.cosines[name] = self.cosines.get(name, 0.0) + cosine(x, y)
        self.signal[name] = self.signal.get(name, 0.0) + float(np.sum(x * x))
        difference = float(np.sum((x - y) ** 2))
        self.noise[name] = self.noise.get(name, 0.0) + (
            difference if np.isfinite(difference) else float("inf")
        )

    def result(self) -> Agreement:
        shares = {name: total / self.samples for name, total in self.shares.items()}
        equal = min(shares.values(), default=None)
        top1 = self.same / self.votes if self.votes and not self.unit else None
        if self._first_is_integer:
            top1 = next(iter(shares.values()))
        if equal is not None and not self.cosines:
            return Agreement(top1, equal, decibels(1.0, 1.0 - equal), self.samples, equal)
        worst = min(self.cosines, key=lambda name: self.cosines[name], default=None)
        return Agreement(
            top1=top1,
            cosine=self.cosines[worst] / self.samples if worst else 1.0,
            sqnr_db=min(
                (decibels(self.signal[n], self.noise[n]) for n in self.signal), default=200.0
            ),
            samples=self.samples,
            equal=equal,
        )
