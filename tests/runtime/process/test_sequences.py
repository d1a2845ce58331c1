"""What a CTC head reads and a class for each token: by hand, and against the definitions."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.errors import BadValue, WrongInput
from edgedl.runtime.process.postprocess import Seen
from edgedl.runtime.process.sequences import Ctc, Span, Tags


def scores(symbols: list[int], classes: int) -> np.ndarray:
    """Logits of one sample whose best symbols are these: [1, steps, classes]."""
    return np.eye(classes, dtype=np.float32)[symbols][None]


def test_hello_has_two_l() -> None:
    after = Ctc(labels=("-", "h", "e", "l", "o"))
    found = after.apply({"y": scores([0, 1, 1, 2, 0, 3, 3, 0, 3, 4, 4], 5)})
    assert found.text == "hello"
    assert found.symbols == (1, 2, 3, 3, 4)
    assert found.steps == (1, 3, 5, 8, 9)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(-4, 3))
def test_repeats_are_one_and_blanks_none(best: list[int], blank: int) -> None:
    found = Ctc(blank=blank).apply({"y": scores(best, 4)})
    wanted = [symbol for symbol, _ in groupby(best) if symbol != blank % 4]
    assert list(found.symbols) == wanted
    assert [best[step] for step in found.steps] == wanted
    assert found.text is None


def test_the_axis_of_the_symbols_and_steps_first() -> None:
    values = scores([1, 0, 2], 3)
    for axis, turned in ((1, values.transpose(0, 2, 1)), (-1, values.transpose(1, 0, 2))):
        assert Ctc(axis=axis).apply({"y": turned}).symbols == (1, 2)


def test_words_between_symbols() -> None:
    after = Ctc(blank=-1, labels=("left", "right", "_"), between=" ")
    assert after.apply({"y": scores([0, 2, 0, 1, 2], 3)}).text == "left left right"


BIO = ("O", "B-place", "I-place", "B-name", "I-name")


def spans(best: list[int], **settings: Any) -> list[tuple[str, int, int]]:
    after = Tags(BIO, outside="O", spans="bio", activation=None, **settings)
    found = after.apply({"y": scores(best, 5)})
    assert all(isinstance(one, Span) and one.score == 1.0 for one in found)
    return [(one.label, one.first, one.last) for one in found]


def test_runs_of_tokens() -> None:
    assert spans([0, 1, 2, 2, 0, 3]) == [("place", 1, 4), ("name", 5, 6)]
    # two places side by side, one that only goes on, and a name within a place
    assert spans([1, 1, 2, 0, 2, 2]) == [("place", 0, 1), ("place", 1, 3), ("place", 4, 6)]
    assert spans([1, 4, 2]) == [("place", 0, 1), ("name", 1, 2), ("place", 2, 3)]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_spans_hold_every_token_inside_once(best: list[int]) -> None:
    held = [i for _, first, last in spans(best) for i in range(first, last)]
    assert held == [i for i, one in enumerate(best) if one]


def test_each_token_by_itself_and_no_padding() -> None:
    after = Tags(("noun", "verb"), padding=0)
    outputs = {"y": np.array([[[0, np.log(3)], [1, 1], [9, 0]]], np.float32)}
    seen = Seen({"ids": np.array([[7, 5, 0]])})
    verb, noun = after.apply(outputs, seen)
    assert (verb.label, verb.first, verb.last, verb.score) == ("verb", 0, 1, pytest.approx(0.75))
    assert (noun.label, noun.score) == ("noun", 0.5)
    assert len(after.apply(outputs)) == 3
    with pytest.raises(WrongInput, match="a token for each of 3"):
        after.apply(outputs, Seen({"ids": np.array([[7, 5]])}))


@pytest.mark.parametrize(
    ("after", "shape", "says"),
    [
        (Ctc(), (2, 3, 4), "steps by classes"),
        (Ctc(labels=("-", "a")), (1, 3, 4), "steps by 2 classes"),
        (Ctc(blank=9), (1, 3, 4), "`blank` is 9 of 4"),
        (Ctc(axis=5), (1, 3, 4), "no axis 5"),
        (Ctc(), (1, 0, 4), "steps by classes"),
        (Tags(("a", "b")), (1, 3, 4), "steps by 2 classes"),
    ],
)
def test_outputs_that_do_not_fit(after: Any, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(WrongInput, match=says) as caught:
        after.apply({"y": np.zeros(shape, np.float32)})
    assert caught.value.hint


@pytest.mark.parametrize(
    ("kind", "settings", "key", "hints"),
    [
        (Ctc, {"labels": ("a", "b"), "blank": 2}, "blank", "place"),
        (Tags, {"labels": ("a", "b"), "outside": "c"}, "outside", "known: a, b"),
        (Tags, {"labels": ("O", "B-x"), "spans": "bio"}, "labels", "outside: O"),
    ],
)
def test_impossible_settings(kind: Any, settings: dict[str, Any], key: str, hints: str) -> None:
    with pytest.raises(BadValue) as caught:
        kind(**settings)
    assert caught.value.keys == (key,)
    assert hints in (caught.value.hint or "")
