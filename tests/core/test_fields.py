"""Dataclasses from plain data: what is read, what is refused, and where."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.errors import BadValue
from edgedl.core.fields import from_plain, to_plain


@dataclass(frozen=True)
class Inner:
    size: int
    word: str = "none"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise BadValue("`size` must be positive", keys=("size",), hint="like 3")


@dataclass(frozen=True)
class Round:
    name: Literal["round"] = "round"
    radius: float = 1.0


@dataclass(frozen=True)
class Square:
    name: Literal["square"] = "square"
    side: int = 2


@dataclass(frozen=True)
class Theirs:
    name: str


@dataclass(frozen=True)
class Drawing:
    one: Round = field(default=Round())
    shape: Round | Square | Theirs | None = None
    shapes: tuple[Round | Square, ...] = ()


@dataclass(frozen=True)
class Outer:
    number: float
    mode: Literal["fast", "slow"] = "fast"
    pair: tuple[int, int] | None = None
    many: tuple[float, ...] = (0.0,)
    inner: Inner | None = None
    flag: bool = False
    rows: tuple[Inner, ...] = field(default=())


INNERS = st.builds(Inner, st.integers(1, 9), st.text(max_size=5))
OUTERS = st.builds(
    Outer,
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["fast", "slow"]),
    st.none() | st.tuples(st.integers(), st.integers()),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4).map(tuple),
    st.none() | INNERS,
    st.booleans(),
    st.lists(INNERS, max_size=3).map(tuple),
)


@given(OUTERS)
def test_what_is_written_is_read(value: Outer) -> None:
    assert from_plain(Outer, json.loads(json.dumps(to_plain(value)))) == value


def test_numbers_may_be_fractions_and_lists_one_value() -> None:
    found = from_plain(Outer, {"number": "1/255", "pair": 7, "many": 3, "rows": {"size": 2}})
    assert found.number == 1 / 255
    assert found.pair == (7, 7)
    assert found.many == (3.0,)
    assert found.rows == (Inner(2),)
    assert from_plain(Outer, {"number": "-0.5 / 2"}).number == -0.25


DRAWINGS = st.builds(
    Drawing,
    st.builds(Round, st.just("round"), st.floats(0, 9)),
    st.none() | st.builds(Square, st.just("square"), st.integers()) | st.just(Theirs("a.b:c")),
    st.lists(st.just(Round()) | st.just(Square(side=3)), max_size=3).map(tuple),
)


@given(DRAWINGS)
def test_one_of_several_is_written_and_read_by_its_name(value: Drawing) -> None:
    assert from_plain(Drawing, json.loads(json.dumps(to_plain(value)))) == value


def test_a_word_alone_stands_for_what_it_names() -> None:
    found = from_plain(Drawing, {"one": "round", "shape": "square", "shapes": "round"})
    assert found == Drawing(Round(), Square(), (Round(),))
    assert from_plain(Drawing, {"shape": "mine:star"}).shape == Theirs("mine:star")
    assert from_plain(Drawing, {"shape": {"name": "square", "side": 5}}).shape == Square(side=5)
    several = from_plain(Drawing, {"shapes": ["square", {"name": "round", "radius": "1/2"}]})
    assert several.shapes == (Square(), Round(radius=0.5))
    assert from_plain(Drawing, {"one": {"radius": 3}, "shape": None}) == Drawing(Round(radius=3))


@pytest.mark.parametrize(
    ("document", "keys", "says", "hints"),
    [
        ({"shape": "squar"}, ("shape",), "`shape` is `squar`", "did you mean `square`?"),
        ({"shape": {"name": "squar"}}, ("shape", "name"), "`name` is `squar`", "`square`?"),
        ({"shape": {"name": 3}}, ("shape", "name"), "wants one word, not `3`", "round, square"),
        ({"shape": {"side": 3}}, ("shape",), "`shape` lacks `name`", "round, square"),
        ({"shape": 3}, ("shape",), "`shape` wants a name, or keys with values", "round, square"),
        ({"shape": {"name": "round", "side": 3}}, ("shape", "side"), "key `side`", "radius"),
        ({"shapes": ["round", "mine:star"]}, ("shapes", 1), "is `mine:star`", "known: round"),
        ({"one": "square"}, ("one", "name"), "`name` is `square`", "known: round"),
    ],
)
def test_a_wrong_name_is_refused_and_where(
    document: Any, keys: tuple[Any, ...], says: str, hints: str
) -> None:
    with pytest.raises(BadValue) as caught:
        from_plain(Drawing, document)
    assert caught.value.keys == keys
    assert says in caught.value.message
    assert hints in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("document", "keys", "says", "hints"),
    [
        ({"number": 1, "mod": "fast"}, ("mod",), "unknown key `mod`", "did you mean `mode`?"),
        ({"number": 1, "kin": 3}, ("kin",), "unknown key `kin`", "did you mean `kind`?"),
        ({}, (), "the document lacks `number`", "number: ..."),
        ([1], (), "the document wants keys with values, not a list", None),
        (None, (), "the document wants keys with values, not nothing", None),
        ({"number": "abc"}, ("number",), "`number` wants a number, not `abc`", "1/255"),
        ({"number": "1/0"}, ("number",), "wants a number", "1/255"),
        ({"number": True}, ("number",), "not `true`", "1/255"),
        ({"number": float("nan")}, ("number",), "not `nan`", "1/255"),
        ({"number": 10**400}, ("number",), "wants a number", "1/255"),
        ({"number": 1, "mode": "fst"}, ("mode",), "`mode` is `fst`", "did you mean `fast`?"),
        ({"number": 1, "mode": [1]}, ("mode",), "wants one word, not a list", "known: fast, slow"),
        ({"number": 1, "pair": [1, 2, 3]}, ("pair",), "`pair` wants 2 values, not 3", None),
        ({"number": 1, "pair": [1, "b"]}, ("pair", 1), "value 2 of `pair` wants a whole", None),
        ({"number": 1, "pair": 1.5}, ("pair", 0), "a whole number, not `1.5`", None),
        ({"number": 1, "many": None}, ("many", 0), "wants a number, not nothing", "0.5"),
        ({"number": 1, "flag": 1}, ("flag",), "`flag` wants true or false, not `1`", None),
        ({"number": 1, "inner": {"size": 0}}, ("inner", "size"), "must be positive", "like 3"),
        ({"number": 1, "inner": {}}, ("inner",), "`inner` lacks `size`", "size: ..."),
        ({"number": 1, "inner": {"size": 1, "word": 5}}, ("inner", "word"), "text", "quotes"),
        ({"number": 1, "rows": [{"size": 1}, {"sise": 1}]}, ("rows", 1, "sise"), "`sise`", "size"),
        ({"number": 1, "mode": "x" * 99}, ("mode",), "`mode` is", "fast"),
    ],
)
def test_what_is_refused_and_where(
    document: Any, keys: tuple[Any, ...], says: str, hints: str | None
) -> None:
    with pytest.raises(BadValue) as caught:
        from_plain(Outer, document, also=("kind",))
    assert caught.value.keys == keys
    assert says in caught.value.message
    assert (hints or "") in (caught.value.hint or "")
