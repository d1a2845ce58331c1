"""Sequences: what a CTC head reads, and a class for each token."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from edgedl.benchmark.metrics.metric import (
    Answers,
    Metric,
    against,
    first,
    ratio_of_sums,
    whole_numbers,
)
from edgedl.core.errors import BadSamples, BadValue


def ctc(
    *,
    blank: int = 0,
    unit: Literal["character", "word"] = "character",
    space: int | None = None,
) -> Metric:
    """The error rate of what greedy CTC decoding reads: edits over the labels' length, all samples
    together.

    Graves et al., Connectionist Temporal Classification, ICML 2006; the edits are those of
    Levenshtein. The first output holds a score for each symbol along its last axis, or the symbols
    themselves. A label is a row of symbols, filled up with -1. `blank` counts from the end where
    negative; words end at the symbol `space`. Without labels, the label is what float reads.

    Raises:
        BadValue: words are counted, and no symbol parts them.
    """
    if unit == "word" and space is None:
        raise BadValue("words need the symbol that parts them", keys=("space",), hint="space=3")
    cut = partial(_words, space=space) if unit == "word" else list

    def collect(answers: Answers, label: Any) -> tuple[int, int]:
        wanted = cut([symbol for symbol in np.ravel(label).tolist() if symbol >= 0])
        found = cut(greedy(first(answers), blank))
        return edits(found, wanted), len(wanted)

    metric = Metric(
        "ctc",
        "wer" if unit == "word" else "cer",
        collect,
        whole=ratio_of_sums,
        perfect=1.0,
        check=lambda labels, _: whole_numbers(labels, "a row of symbols a sample", 2),
    )
    return against(metric, lambda floats: greedy(first(floats), blank))


def wer(*, blank: int = 0, space: int | None = None) -> Metric:
    """The word error rate of what greedy CTC decoding reads: `ctc:unit=word`, but that each symbol
    is a word where no `space` parts them."""
    if space is not None:
        return ctc(blank=blank, unit="word", space=space)
    found = ctc(blank=blank)
    assert found.without_labels is not None
    twin = replace(found.without_labels, figure="wer")
    return replace(found, figure="wer", without_labels=twin)


def greedy(answer: np.ndarray, blank: int = 0) -> list[int]:
    """The best symbol of each step, repeats taken as one, blanks left out."""
    best, symbols = _best(answer)
    if blank < 0:
        if symbols is None:
            raise BadSamples(
                "the last symbol is not known, since the output holds symbols and no scores",
                hint="ctc:blank=... counts from 0",
            )
        blank += symbols
    changes = np.flatnonzero(np.diff(best, prepend=-1))
    return [int(symbol) for symbol in best[changes] if symbol != blank]


def _best(answer: np.ndarray) -> tuple[np.ndarray, int | None]:
    """The class of each step, and how many there are, None where nobody knows."""
    if not np.issubdtype(answer.dtype, np.floating):
        return answer.reshape(-1).astype(np.int64), None
    if answer.ndim < 2:
        raise BadSamples(
            f"the first output, of shape {answer.shape}, is no sequence of scores",
            hint="it wants steps, and scores along its last axis",
        )
    return answer.reshape(-1, answer.shape[-1]).argmax(-1), answer.shape[-1]


def _words(symbols: Sequence[int], space: int | None) -> list[tuple[int, ...]]:
    words: list[list[int]] = [[]]
    for symbol in symbols:
        if symbol == space:
            words.append([])
        else:
            words[-1].append(symbol)
    return [tuple(word) for word in words if word]


def edits(found: Sequence[Hashable], wanted: Sequence[Hashable]) -> int:
    """The fewest insertions, deletions and substitutions between two sequences.

    Levenshtein, Soviet Physics Doklady 10 (1966).
    """
    codes: dict[Hashable, int] = {}
    a, b = (
        np.array([codes.setdefault(x, len(codes)) for x in s], np.int64) for s in (found, wanted)
    )
    steps = np.arange(len(b) + 1)
    row = steps
    for i, symbol in enumerate(a, 1):
        kept = np.minimum(row[1:] + 1, row[:-1] + (b != symbol))
        row = np.minimum.accumulate(np.concatenate([[i], kept]) - steps) + steps
    return int(row[-1])


def tagging() -> Metric:
    """The share of tokens whose class is right, all samples together.

    The first output holds a score for each class along its last axis, or the classes. Tokens whose
    label is negative, as -100 is, count nowhere; without labels, all count.

    The metric raises BadSamples where a label has another number of tokens than the output.
    """

    def collect(answers: Answers, label: Any) -> tuple[int, int]:
        found, wanted = _best(first(answers))[0], np.ravel(label)
        if found.size != wanted.size:
            raise BadSamples(
                f"a label has {wanted.size} tokens, the model's first output {found.size}",
                hint="one class index for each token, -100 where it does not count",
            )
        return int(np.sum((found == wanted) & (wanted >= 0))), int(np.sum(wanted >= 0))

    def check(labels: np.ndarray, answers: Answers) -> None:
        whole_numbers(labels, "a class index for each token", None)
        collect(answers, labels[0])

    whole = partial(ratio_of_sums, nothing=1.0)
    metric = Metric("tagging", "accuracy", collect, whole=whole, check=check)
    return against(metric, lambda floats: _best(first(floats))[0])
