"""Arrays of every odd kind, given to sessions of every installed engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import WrongInput
from edgedl.runtime import engine, installed_engines
from edgedl.runtime.session import EngineSession
from tests import models

SHAPE = (1, 3, 8, 8)


@pytest.fixture(params=installed_engines())
def session(request: pytest.FixtureRequest) -> Iterator[EngineSession]:
    data = models.conv_net().SerializeToString()
    with engine(request.param).open_model(data, settings={}, threads=1) as opened:
        yield opened


def image() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def unaligned(array: np.ndarray) -> np.ndarray:
    room = np.zeros(array.nbytes + 1, np.uint8)
    moved = room[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    assert not moved.flags.aligned
    return moved


def reversed_twice(array: np.ndarray) -> np.ndarray:
    return array[..., ::-1].copy()[..., ::-1]


def with_gaps(array: np.ndarray) -> np.ndarray:
    wide = np.full((2, 3, 8, 16), 7, np.float32)
    wide[1:, :, :, ::2] = array
    return wide[1:, :, :, ::2]


def read_only(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(array.tobytes(), np.float32).reshape(array.shape)


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


class Sub(np.ndarray):
    """A subclass that means nothing by it."""


RIGHT: dict[str, Callable[[np.ndarray], Any]] = {
    "Fortran order": np.asfortranarray,
    "negative strides": reversed_twice,
    "gaps": with_gaps,
    "read-only": read_only,
    "unaligned": unaligned,
    "a view of channels last": channels_last,
    "a subclass": lambda array: array.view(Sub),
    "the native order by name": lambda array: array.view("=f4"),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_however_the_elements_lie_the_answer_is_the_same(session: EngineSession, kind: str) -> None:
    given = RIGHT[kind](image())
    assert np.array_equal(given, image())
    wanted = session.run({"x": image()})["logits"]
    output = np.full_like(wanted, np.nan)
    for _ in range(2):
        np.testing.assert_array_equal(session.run({"x": given})["logits"], wanted)
        session.run_into({"x": given}, {"logits": output})
        np.testing.assert_array_equal(output, wanted)
        output[:] = np.nan
    assert np.array_equal(given, image())


def test_one_value_stretched_over_the_array(session: EngineSession) -> None:
    thin = np.broadcast_to(np.float32(0.5), SHAPE)
    wanted = session.run({"x": np.full(SHAPE, 0.5, np.float32)})["logits"]
    np.testing.assert_array_equal(session.run({"x": thin})["logits"], wanted)


WRONG: dict[str, tuple[Callable[[np.ndarray], Any], str, str]] = {
    "swapped bytes": (lambda a: a.astype(">f4"), "other byte order", ".astype('float32')"),
    "float64": (lambda a: a.astype(np.float64), "is float64, the model takes float32", ".astype"),
    "float16": (lambda a: a.astype(np.float16), "is float16", ".astype"),
    "objects": (lambda a: a.astype(object), "is object", ".astype"),
    "text": (lambda a: a.astype(str), "is <U", ".astype"),
    "a record": (lambda a: np.zeros(SHAPE, [("a", "f4")]), "the model takes float32", ".astype"),
    "complex": (lambda a: a.astype(np.complex64), "is complex64", ".astype"),
    "masked": (lambda a: np.ma.masked_greater(a, 0), "masked", "filled"),
    "a list": (lambda a: a.tolist(), "is list, not an array", "np.asarray"),
    "a number": (lambda a: np.float32(1), "is float32, not an array", "np.asarray"),
    "None": (lambda a: None, "is NoneType", "np.asarray"),
    "bytes": (lambda a: a.tobytes(), "is bytes", "np.asarray"),
    "no axes": (lambda a: np.array(1, np.float32), "has shape ()", "inspect"),
    "no elements": (lambda a: a[:0], "has shape (0, 3, 8, 8)", "inspect"),
    "an image alone": (lambda a: a[0], "has shape (3, 8, 8)", "array[None]"),
    "channels last": (lambda a: a.transpose(0, 2, 3, 1), "(1, 8, 8, 3)", "transpose(0, 3, 1, 2)"),
    "two images": (lambda a: np.concatenate([a, a]), "takes (1, 3, 8, 8)", "inspect"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_fit_is_told_with_a_way_out(session: EngineSession, kind: str) -> None:
    spoil, message, hint = WRONG[kind]
    output = np.empty((1, 5), np.float32)
    for call in (session.run, lambda feed: session.run_into(feed, {"logits": output})):
        with pytest.raises(WrongInput) as caught:
            call({"x": spoil(image())})
        assert "input `x`" in str(caught.value)
        assert message in str(caught.value)
        assert hint in (caught.value.hint or "")
    assert session.run({"x": image()})["logits"].shape == (1, 5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (image(), "not as ndarray"),
        ([image()], "not as list"),
        (None, "not as NoneType"),
        ({}, "no array for input `x`"),
        ({"x": image(), 3: image()}, "`3` is not an input"),
        ({"X": image()}, "`X` is not an input"),
    ],
)
def test_names_that_do_not_fit(session: EngineSession, given: Any, message: str) -> None:
    for call in (session.run, lambda feed: session.run_into(feed, {"logits": image()})):
        with pytest.raises(WrongInput, match=message) as caught:
            call(given)
        assert caught.value.hint


def test_any_mapping_gives_arrays_by_name(session: EngineSession) -> None:
    from types import MappingProxyType

    wanted = session.run({"x": image()})["logits"]
    given = MappingProxyType({"x": image()})
    np.testing.assert_array_equal(session.run(given)["logits"], wanted)


def test_channels_first_given_to_a_model_of_channels_last() -> None:
    from edgedl.core.model import Signature, Tensor
    from edgedl.runtime.session import InputCheck

    check = InputCheck(Signature((Tensor("x", "float32", (None, 8, 8, 3)),), ()))
    with pytest.raises(WrongInput) as caught:
        check({"x": image()})
    assert "`array.transpose(0, 2, 3, 1)`" in (caught.value.hint or "")


def test_the_same_array_with_other_values_has_another_answer(session: EngineSession) -> None:
    given, output = image(), np.empty((1, 5), np.float32)
    first = session.run({"x": given})["logits"]
    session.run_into({"x": given}, {"logits": output})
    given *= -1
    second = session.run({"x": given.copy()})["logits"]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(session.run({"x": given})["logits"], second)
    session.run_into({"x": given}, {"logits": output})
    np.testing.assert_array_equal(output, second)
