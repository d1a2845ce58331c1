"""Maps over a picture, and where the network's input lies in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl.core.errors import BadValue, WrongInput
from edgedl.runtime.process.image import Image, Resize
from edgedl.runtime.process.maps import Keypoints, Mask, Point
from edgedl.runtime.process.place import Place
from edgedl.runtime.process.postprocess import Seen

SIDES = st.integers(1, 60)
AS_IT_IS = Place((2, 3), (2, 3), (2, 3), (0, 0))


@st.composite
def images(draw: st.DrawFn) -> Image:
    way = draw(st.sampled_from(["shorter", "exactly", "letterbox", None]))
    size: Any = draw(SIDES) if way == "shorter" else (draw(SIDES), draw(SIDES))
    resize = None if way is None else Resize(**{way: size}, interpolation="nearest")
    crop = None
    if resize is not None and draw(st.booleans()):
        within = (size, size) if way == "shorter" else size
        crop = draw(st.tuples(*(st.integers(1, side) for side in within)))
    return Image(color="gray", resize=resize, crop=crop, layout="hw", dtype="uint8")


@given(images(), st.tuples(SIDES, SIDES))
@settings(deadline=None)
def test_the_middle_of_an_inputs_pixel_is_where_it_came_from(
    image: Image, picture: tuple[int, int]
) -> None:
    """Pixels whose values are their columns, and then their rows, resized to the nearest."""
    place = image.place(picture)
    for axis in (0, 1):
        shape = (-1, 1) if axis == 0 else (1, -1)
        pixels = np.broadcast_to(np.arange(picture[axis], dtype=np.uint8).reshape(shape), picture)
        found = image.apply(np.ascontiguousarray(pixels))
        assert found.shape == place.area
        rows, columns = np.mgrid[: found.shape[0], : found.shape[1]]
        middles = np.stack([columns, rows], axis=-1) + 0.5
        back = place.points(middles)[..., 1 - axis]
        down, right = place.shift
        inside = (rows >= down) & (rows < down + place.resized[0])
        inside &= (columns >= right) & (columns < right + place.resized[1])
        # a float32 just beside a pixel's edge may lie on either side
        assert (np.abs(back[inside] - (found[inside] + 0.5)) <= 0.5 + 1e-4).all()


def test_a_mask_over_a_cropped_picture() -> None:
    # 4 x 8 pixels halved to 2 x 4, of which the middle 2 x 2 are seen
    place = Image(resize=Resize(exactly=(2, 4)), crop=(2, 2)).place((4, 8))
    values = np.array([[[[0, 1], [1, 0]], [[1, 0], [0, 1]]]], np.float32)
    whole = Mask(outside=9).apply({"y": values}, Seen({}, place))
    assert whole.tolist() == [
        [9, 9, 1, 1, 0, 0, 9, 9],
        [9, 9, 1, 1, 0, 0, 9, 9],
        [9, 9, 0, 0, 1, 1, 9, 9],
        [9, 9, 0, 0, 1, 1, 9, 9],
    ]
    assert whole.dtype == np.int64
    assert Mask().apply({"y": values}).tolist() == [[1, 0], [0, 1]]
    turned = {"y": values.transpose(0, 2, 3, 1)}
    assert Mask(layout="hwc", of="output").apply(turned, Seen({}, place)).tolist() == [
        [1, 0],
        [0, 1],
    ]


def test_a_letterboxed_mask_loses_its_edges() -> None:
    # 2 x 4 pixels doubled to 4 x 8 within 8 x 8, 2 rows above and below; the mask is of half size
    place = Image(resize=Resize(letterbox=(8, 8))).place((2, 4))
    classes = np.arange(16).reshape(4, 4)
    values = (np.arange(16)[:, None, None] == classes).astype(np.float32)
    assert Mask().apply({"y": values}, Seen({}, place)).tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_mask_of_one_class() -> None:
    values = np.array([[[[-2.0, 0.0], [np.log(3), 5.0]]]], np.float32)
    assert Mask(threshold=0.7).apply({"y": values}).tolist() == [[0, 0], [1, 1]]
    assert Mask().apply({"y": values}).tolist() == [[0, 1], [1, 1]]


def test_points_by_name() -> None:
    values = np.zeros((1, 2, 2, 3), np.float32)
    values[0, 0, 1, 2], values[0, 1, 0, 0] = 0.9, 0.4
    after = Keypoints(stride=4, labels=("nose", "tail"))
    nose, tail = after.apply({"y": values})
    assert nose == Point("nose", 10.0, 6.0, pytest.approx(0.9))
    assert tail == Point("tail", 2.0, 2.0, pytest.approx(0.4))
    place = Place((80, 120), (8, 12), (8, 12), (0, 0))
    [only] = Keypoints(stride=4, threshold=0.5).apply({"y": values}, Seen({}, place))
    assert only == Point(None, 100.0, 60.0, pytest.approx(0.9))


@pytest.mark.parametrize(
    ("after", "shape", "says"),
    [
        (Mask(), (2, 3, 4, 4), "maps of one sample"),
        (Mask(), (4, 4), "maps of one sample"),
        (Keypoints(labels=("a",)), (1, 3, 4, 4), "3 maps for 1 labels"),
    ],
)
def test_outputs_that_do_not_fit(after: Any, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(WrongInput, match=says) as caught:
        after.apply({"y": np.zeros(shape, np.float32)}, Seen({}, AS_IT_IS))
    assert caught.value.hint


def test_a_stride_of_nothing() -> None:
    with pytest.raises(BadValue, match="`stride` is 0"):
        Keypoints(stride=0)


@given(images(), st.tuples(SIDES, SIDES))
@settings(deadline=None)
def test_a_map_over_the_picture_is_brought_to_the_input_as_pixels_are(
    image: Image, picture: tuple[int, int]
) -> None:
    """A map goes where Pillow's nearest brings a picture of its values: its rows, and then its
    columns, from 1 on."""
    place = image.place(picture)
    for axis in (0, 1):
        shape = (-1, 1) if axis == 0 else (1, -1)
        numbers = np.arange(1, picture[axis] + 1).reshape(shape)
        whole = np.ascontiguousarray(np.broadcast_to(numbers, picture))
        found = place.taken(whole, 0)
        brought = image.apply(whole.astype(np.uint8)).astype(int)
        assert found.shape == place.area
        assert np.array_equal(found == 0, brought == 0)
        # a middle that lies on a pixel's edge may belong to either side
        middles = np.arange(place.area[axis]) - place.shift[axis] + 0.5
        edges = middles * picture[axis] / place.resized[axis]
        on_edge = np.broadcast_to(
            (np.abs(edges - np.rint(edges)) < 1e-6).reshape(shape), found.shape
        )
        assert np.array_equal(found[~on_edge], brought[~on_edge])
        assert np.abs(found - brought).max(initial=0) <= 1
