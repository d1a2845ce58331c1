"""Data frames out of pickles, of which nothing is run."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.errors import BadSamples
from edgedl.train.data.frames import read_frames
from tests.train.data import pickled

COLUMNS = {
    "acc-x": np.array([0.5, -1e9, 3.25]),
    "acc-y": np.array([1.0, 2.0, 3.0]),
    "label": np.array([1, -1, 12]),
}


@pytest.mark.parametrize("fortran", [False, True])
def test_columns_come_back(fortran: bool) -> None:
    frame = pickled.frame(COLUMNS, fortran)
    found = read_frames(pickled.document({1: [frame, frame], 2: [frame]}), "a")
    assert {key: len(frames) for key, frames in found.items()} == {1: 2, 2: 1}
    for name, column in COLUMNS.items():
        assert found[2][0][name].tolist() == column.tolist()
        assert found[2][0][name].dtype == column.dtype


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_run(protocol: int, tmp_path: Path) -> None:
    content = pickle.dumps({1: [Harmful(tmp_path / "made")]}, protocol)
    with pytest.raises(BadSamples, match="is not read"):
        read_frames(content, "a")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"cos\nsystem\n(X\x02\x00\x00\x00lstR.", "the name `os system`"),
        (b"cnumpy\nload\n.", "the name `numpy load`"),
        (b"i__builtin__\nslice\n.", "the operation INST"),
        (b"].", "a list, not frames by key"),
        (pickled.document({1: [pickled.number(3)]}), "a int where a Made belongs"),
        (pickled.document({1: [pickled.array(np.zeros(2))]}), "belongs"),
        (b"t.", "without a beginning"),
        (b"", "pickle"),
    ],
)
def test_what_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(BadSamples, match=says) as caught:
        read_frames(content, "a.pkl")
    assert caught.value.where == "a.pkl"
    assert caught.value.hint


def test_arrays_of_objects_are_refused() -> None:
    strange = COLUMNS | {"label": np.array([1, 2, 3])}
    content = pickled.document({1: [pickled.frame(strange)]})
    assert content.count(b"i8") == 1
    with pytest.raises(BadSamples, match="an array of `O8`"):
        read_frames(content.replace(b"i8", b"O8"), "a")


@given(st.integers(0, 2000), st.binary(min_size=1, max_size=4))
def test_damage_is_an_error_or_other_numbers(place: int, damage: bytes) -> None:
    content = pickled.document({1: [pickled.frame(COLUMNS)]})
    place %= len(content)
    try:
        read_frames(content[:place] + damage + content[place + len(damage) :], "a")
    except BadSamples as error:
        assert error.where == "a"


@given(st.binary(max_size=60))
def test_any_bytes_are_an_error(content: bytes) -> None:
    try:
        read_frames(content, "a")
    except BadSamples as error:
        assert error.where == "a"
