"""What a metric is: a row for each sample, and a figure of all rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgedl.core.errors import BadSamples, EdgeError, MetricFailed
from edgedl.core.paired import Difference, difference, whole_difference

Answers = Mapping[str, np.ndarray]
Rows = Sequence[Any]


@dataclass(frozen=True)
class Metric:
    """How well a model's answers fit labels.

    A metric is either a mean over samples, and has `each`, or a figure of the whole set, and has
    `whole`. Figures point in their field's usual direction; `score` always says more for better.

    Attributes:
        name: as it was asked for, with its settings.
        key: what tells it from every other metric in what is kept of earlier runs.
        figure: what its figure is called.
        collect: a row, of one sample's answers and its label. Rows are small: they stay in memory.
        each: one figure a sample, float64 of shape [samples], of all rows.
        whole: one figure of all rows; NaN where they have none.
        perfect: None where a larger figure is better; else the score that an error of 0 has.
        without_labels: the same with the float model's answers in the label's place; None where
            nothing can stand in for labels.
        needs_labels: whether there is anything to compute without labels and without float.
        with_feed: whether the label comes as a pair, the sample's inputs before it.
        parts: the figure of each class by itself, float64 of shape [classes] with NaN where it has
            none, of all rows; None where classes have no figure of their own.
        check: raises BadSamples where labels do not fit the answers to one sample.
    """

    name: str
    figure: str
    collect: Callable[[Answers, Any], Any] = field(repr=False)
    each: Callable[[Rows], np.ndarray] | None = field(default=None, repr=False)
    whole: Callable[[Rows], float] | None = field(default=None, repr=False)
    parts: Callable[[Rows], np.ndarray] | None = field(default=None, repr=False)
    perfect: float | None = None
    without_labels: Metric | None = field(default=None, repr=False)
    needs_labels: bool = True
    with_feed: bool = False
    key: str = ""
    check: Callable[[np.ndarray, Answers], None] | None = field(default=None, repr=False)

    def total(self, rows: Rows) -> float:
        """The figure of all rows, in the field's direction.

        Raises:
            MetricFailed: it has none of these rows.
        """
        try:
            if self.whole is not None:
                return float(self.whole(rows))
            assert self.each is not None
            return float(np.mean(self.each(rows)))
        except EdgeError as error:
            raise MetricFailed(
                f"metric `{self.name}` failed on all {len(rows)} samples together: {error}",
                hint=error.hint,
                rows=rows,
            ) from error

    def score(self, rows: Rows) -> float:
        """The figure of all rows, turned so that more is better."""
        return self.turned(self.total(rows))

    def turned(self, value: float) -> float:
        """A figure as a score, or a score as the figure."""
        return value if self.perfect is None else self.perfect - value

    def compare(self, first: Rows, second: Rows) -> Difference:
        """What the second model's score has over the first's, and whether that is chance."""
        if self.whole is not None:
            return whole_difference(first, second, self._of_a_draw)
        assert self.each is not None
        sign = 1 if self.perfect is None else -1
        a, b = self.each(first), self.each(second)
        found = difference(a, b)
        if sign > 0:
            return found
        return replace(found, value=-found.value, low=-found.high, high=-found.low)

    def _of_a_draw(self, rows: Rows) -> float:
        try:
            return self.score(rows)
        except MetricFailed:
            return float("nan")

    def rows(
        self,
        answered: Iterable[tuple[Answers, Any, Any]],
        numbers: Sequence[int] | None = None,
        where: str | None = None,
    ) -> list[Any]:
        """A row for each sample, of its answers, its label and its inputs.

        Args:
            numbers: the samples' places in their file, for errors; 0, 1, 2 where None.

        Raises:
            MetricFailed: it could not take a sample; the rows before are in the error.
        """
        found: list[Any] = []
        for i, (answers, label, feed) in enumerate(answered):
            try:
                found.append(self.collect(answers, (feed, label) if self.with_feed else label))
            except EdgeError as error:
                number = i if numbers is None else int(numbers[i])
                raise MetricFailed(
                    f"metric `{self.name}` failed on sample {number}: {error}",
                    where=where,
                    hint=error.hint,
                    rows=tuple(found),
                ) from error
        return found


def named_parts(
    metric: Metric, classes: Sequence[str], *rows: Rows
) -> dict[str, tuple[float, ...]]:
    """The figures of each class by its name, or number, one for each of these rows of samples;
    nothing where the metric has none, and for one class alone."""
    if metric.parts is None:
        return {}
    found = [metric.parts(some) for some in rows]
    count = max(len(classes), *map(len, found))
    padded = [np.append(one, np.full(count - len(one), np.nan)) for one in found]
    names = [*classes, *map(str, range(len(classes), count))]
    pairs = zip(names, zip(*(one.tolist() for one in padded), strict=True), strict=True)
    return dict(pairs) if count > 1 else {}


def against(
    metric: Metric, label_of: Callable[[Answers], Any], figure: str | None = None
) -> Metric:
    """The metric, whose twin takes what float's answers say for the label."""
    twin = replace(
        metric,
        figure=figure or metric.figure,
        collect=lambda answers, floats: metric.collect(answers, label_of(floats)),
        check=None,
    )
    return replace(metric, without_labels=twin)


def first(answers: Answers) -> np.ndarray:
    """The first output."""
    return next(iter(answers.values()))


def numbers(rows: Rows) -> np.ndarray:
    """Rows that are one number each."""
    return np.asarray(rows, np.float64)


def ratio_of_sums(rows: Rows, nothing: float = 0.0) -> float:
    """The sum of the rows' first entries over that of their second; `nothing` where both are 0."""
    above, below = np.asarray(rows, np.float64).reshape(-1, 2).sum(axis=0)
    if below == 0:
        return nothing if above == 0 else float("inf")
    return float(above / below)


def whole_numbers(labels: np.ndarray, wanted: str, axes: int | None = 1) -> None:
    """Check that labels, with their sample axis, are whole numbers on so many axes; None for any.

    Raises:
        BadSamples: they are not.
    """
    if not np.issubdtype(labels.dtype, np.integer) or (axes is not None and labels.ndim != axes):
        raise BadSamples(
            f"the metric needs {wanted}, the labels are {labels.dtype} of shape {labels.shape}",
            hint="save them as int64, one row a sample, or name another --metric",
        )


def same_size(given: np.ndarray, label: Any) -> tuple[np.ndarray, np.ndarray]:
    """An output and its label as float64 of shape [entries].

    Raises:
        BadSamples: they are of unlike size.
    """
    x, y = np.ravel(given).astype(np.float64), np.ravel(np.asarray(label)).astype(np.float64)
    if x.size != y.size:
        raise BadSamples(
            f"a label has {y.size} values, the model's first output {x.size}",
            hint="one row of target values a sample",
        )
    return x, y
