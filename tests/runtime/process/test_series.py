"""Sensor frames to inputs: windows, filling up, normalising, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.errors import BadSamples, BadValue
from edgedl.runtime.process.series import Series

TWO = Series(2, 3, mean=(1.0, 10.0), std=(2.0, 5.0))


def test_a_window_by_hand() -> None:
    raw = np.array([[1, 10], [3, 15], [5, 0], [99, 99]])
    # (1-1)/2, (3-1)/2, (5-1)/2; (10-10)/5, (15-10)/5, (0-10)/5; the fourth frame is cut
    assert TWO.apply(raw).tolist() == [[[0, 1, 2], [0, 1, -2]]]
    assert TWO.apply(raw).dtype == np.float32


def test_what_is_shorter_is_followed_by_the_mean() -> None:
    assert TWO.apply(np.array([[3, 15]])).tolist() == [[[1, 0, 0], [1, 0, 0]]]


@pytest.mark.parametrize(
    ("layout", "shape"), [("nct", (1, 2, 3)), ("ntc", (1, 3, 2)), ("ct", (2, 3)), ("tc", (3, 2))]
)
def test_layouts(layout: Any, shape: tuple[int, ...]) -> None:
    series = Series(2, 3, layout=layout)
    found = series.apply(np.arange(6).reshape(3, 2))
    assert series.shape == found.shape == shape
    frames = found.reshape(shape[-2:])
    assert (frames.T if layout.endswith("ct") else frames).tolist() == [[0, 1], [2, 3], [4, 5]]


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 9))
def test_windows_of_a_stream(frames: int, length: int, hop: int) -> None:
    stream = np.arange(frames + 1.0)
    found = list(Series(1, length, hop, layout="tc").windows(stream))
    starts = [start for start in range(0, frames + 1, hop) if start + length <= frames + 1]
    assert [window[:, 0].tolist() for window in found] == [
        stream[start : start + length].tolist() for start in starts
    ]


def test_files(tmp_path: Path) -> None:
    frames = [[1.5, -2], [3, 4e3]]
    (tmp_path / "named.csv").write_text("x,y\n1.5,-2\n3,4e3\n")
    (tmp_path / "bare.csv").write_text("1.5,-2\r\n3,4e3\r\n\r\n")
    np.save(tmp_path / "a.npy", np.array(frames, np.float32))
    for name in ("named.csv", "bare.csv", "a.npy"):
        assert TWO.decode(tmp_path / name).tolist() == frames


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "no frames"),
        ("a.csv", b"1,2\n3\n", "lines of 1 to 2 values"),
        ("a.csv", b"1,2\n3,x\n", "could not convert"),
        ("a.csv", b"\xff\xfe", "cannot be read"),
        ("a.npy", b"no array", "cannot be read"),
        ("a.npy", b"\x93NUMPY\x01\x00", "cannot be read"),
    ],
)
def test_files_that_are_refused(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadSamples, match=says) as caught:
        TWO.decode(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)
    with pytest.raises(BadSamples, match="no such file"):
        TWO.decode(tmp_path / "absent.csv")


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(BadSamples, match="cannot be read"):
        TWO.decode(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (np.zeros((2, 3)), "is not 2 channels"),
        (np.zeros(2), "is not 2 channels"),
        (np.zeros((0, 2)), "no frames"),
        (np.array([["a", "b"]]), "is not 2 channels"),
        (np.array([[np.nan, 0]]), "not finite"),
        (np.array([[1e300, 0]]), "not finite"),
    ],
)
def test_frames_that_are_none(raw: np.ndarray, says: str) -> None:
    with pytest.raises(BadSamples, match=says):
        TWO.apply(raw)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"channels": 0, "length": 1}, "channels"),
        ({"channels": 1, "length": 0}, "length"),
        ({"channels": 4096, "length": 1 << 20}, "length"),
        ({"channels": 1, "length": 1, "hop": 0}, "hop"),
        ({"channels": 2, "length": 1, "mean": (1.0, 2.0, 3.0)}, "mean"),
        ({"channels": 1, "length": 1, "std": (0.0,)}, "std"),
        ({"channels": 1, "length": 1, "mean": (float("inf"),)}, "mean"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(BadValue) as caught:
        Series(**settings)
    assert caught.value.keys == (key,)
    assert caught.value.hint
