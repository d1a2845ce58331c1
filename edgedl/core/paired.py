"""Whether two models differ beyond chance on the same samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from edgedl.core.stats import DRAWS, SIGNIFICANT, mean_interval, student_quantile

# A draw may cost as much as the figure of the whole set, and a standard error needs few.
WHOLE_DRAWS = 100
Rows = Sequence[Any]


@dataclass(frozen=True)
class Difference:
    """What the second model's figure has over the first's, with its 95 % interval.

    `p` is how likely so large a difference is where there is none in truth: by McNemar's exact
    test where every sample is right or wrong, else None, and the interval decides.
    """

    value: float
    low: float
    high: float
    p: float | None
    test: Literal["mcnemar", "bootstrap"]
    samples: int

    @property
    def within_chance(self) -> bool:
        """Whether other samples of the same kind may well show no difference, or the opposite."""
        if self.p is not None:
            return self.p > SIGNIFICANT
        return not (self.low > 0 or self.high < 0)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what is no finite number is None."""
        plain = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }
        return {**plain, "within_chance": self.within_chance}


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """The two-sided p-value that two models are right equally often, from the same samples.

    Only samples that one has right and the other wrong say anything; under equality each of them
    falls either way like a coin. McNemar, Note on the sampling error of the difference between
    correlated proportions, Psychometrika 12 (1947), by the exact binomial distribution instead of
    its approximation.

    Args:
        first, second: whether each sample was answered right, bool of shape [samples].
    """
    right, other = np.asarray(first, bool), np.asarray(second, bool)
    gained, lost = int(np.sum(~right & other)), int(np.sum(right & ~other))
    count = gained + lost
    logs = (
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        for k in range(min(gained, lost) + 1)
    )
    tail = math.fsum(math.exp(log - count * math.log(2)) for log in logs)
    return min(1.0, 2 * tail)


def difference(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Difference:
    """The difference of two means over the same samples, float64 of shape [samples] each.

    The interval is the percentile one of a bootstrap over samples, each drawn with both of its
    figures (Efron and Tibshirani, An Introduction to the Bootstrap, 1993); where every sample is
    right or wrong, that of `mean_interval`, which has a width even where no sample differs.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    with np.errstate(invalid="ignore"):
        each = b - a
    if not np.isfinite(each).all():
        value = float(np.mean(each)) if not np.isnan(each).any() else math.nan
        return Difference(value, -math.inf, math.inf, None, "bootstrap", len(each))
    rng = np.random.default_rng(seed)
    drawn = [float(np.mean(each[rng.integers(0, len(each), len(each))])) for _ in range(DRAWS)]
    low, high = (float(q) for q in np.quantile(drawn, [0.025, 0.975]))
    if all(bool(np.isin(values, (0, 1)).all()) for values in (a, b)):
        p = mcnemar(a == 1, b == 1)
        low, high = mean_interval(each) or (low, high)
        return Difference(float(np.mean(each)), low, high, p, "mcnemar", len(each))
    return Difference(float(np.mean(each)), low, high, None, "bootstrap", len(each))


def whole_difference(
    first: Rows, second: Rows, total: Callable[[Rows], float], seed: int = 0
) -> Difference:
    """The difference of two figures that need the whole set, `total` of the samples' rows each.

    The same samples are drawn for both (Koehn, Statistical significance tests for machine
    translation evaluation, EMNLP 2004). The interval is the normal one from the draws' standard
    error, for which a hundred are enough (Efron and Tibshirani, chapter 6). Draws of which there is
    no figure, as of an area under a curve where only one class was drawn, are left out.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(WHOLE_DRAWS):
        chosen = rng.integers(0, len(first), len(first)).tolist()
        found = total([second[i] for i in chosen]) - total([first[i] for i in chosen])
        if not math.isnan(found):
            drawn.append(found)
    value, half = total(second) - total(first), math.inf
    if len(drawn) > 1 and np.isfinite(drawn).all():
        half = student_quantile(None) * float(np.std(drawn, ddof=1))
    return Difference(value, value - half, value + half, None, "bootstrap", len(first))
