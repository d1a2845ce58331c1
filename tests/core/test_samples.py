"""Samples bound to a signature: which row is whose, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.errors import BadSamples
from edgedl.core.model import Signature, Tensor
from edgedl.core.samples import from_arrays

X = np.arange(24, dtype=np.float32).reshape(4, 6)


def takes(*inputs: Tensor) -> Signature:
    return Signature(inputs, ())


def one(shape: tuple[int | str | None, ...] | None, dtype: str = "float32") -> Signature:
    return takes(Tensor("x", dtype, shape))


@pytest.mark.parametrize("first", [1, "batch", None])
def test_a_batch_axis_is_kept(first: int | str | None) -> None:
    bound = from_arrays({"x": X}).bind(one((first, 6)))
    assert len(bound) == 4
    np.testing.assert_array_equal(bound.feed(2)["x"], X[2:3])


def test_without_a_batch_axis_a_sample_is_an_element() -> None:
    bound = from_arrays({"x": X.reshape(4, 2, 3)}).bind(one((2, 3)))
    np.testing.assert_array_equal(bound.feed(3)["x"], X.reshape(4, 2, 3)[3])


def test_a_scalar_input_takes_one_number_a_sample() -> None:
    bound = from_arrays({"x": X[:, 0]}).bind(one(()))
    feed = bound.feed(1)["x"]
    assert feed.shape == ()
    assert feed.dtype == np.float32
    assert feed == 6


def test_axes_are_kept_input_by_input() -> None:
    signature = takes(Tensor("image", "float32", (1, 6)), Tensor("threshold", "float32", ()))
    bound = from_arrays({"threshold": X[:, 1], "image": X}).bind(signature)
    feed = bound.feed(0)
    assert {name: array.shape for name, array in feed.items()} == {"image": (1, 6), "threshold": ()}
    assert list(feed) == ["image", "threshold"]


@pytest.mark.parametrize("first", [1, "time", None])
def test_an_array_of_an_axis_more_holds_whole_inputs(first: int | str | None) -> None:
    length = first if isinstance(first, int) else 3
    whole = np.arange(4 * length * 2, dtype=np.float32).reshape(4, length, 2)
    bound = from_arrays({"x": whole}).bind(one((first, 2)))
    np.testing.assert_array_equal(bound.feed(2)["x"], whole[2])
    with pytest.raises(BadSamples, match="the model takes"):
        from_arrays({"x": whole}).bind(one((first, 5)))


def test_an_input_of_unknown_rank_takes_elements() -> None:
    assert from_arrays({"x": X}).bind(one(None)).feed(0)["x"].shape == (6,)


def test_a_feed_is_an_array_of_its_own() -> None:
    bound = from_arrays({"x": X.copy(order="F")}).bind(one((1, 6)))
    feed = bound.feed(0)["x"]
    assert feed.flags.c_contiguous
    assert feed.flags.writeable
    feed += 100
    np.testing.assert_array_equal(bound.feed(0)["x"], X[:1])


def test_a_feed_has_the_machines_byte_order() -> None:
    bound = from_arrays({"x": X.astype(">f4")}).bind(one((1, 6)))
    feed = bound.feed(1)["x"]
    np.testing.assert_array_equal(feed, X[1:2])
    assert feed.dtype == np.dtype("float32")


def test_iteration_and_take_follow_the_rows() -> None:
    bound = from_arrays({"x": X, "labels": np.array([7, 8, 9, 10])}).bind(one((1, 6)))
    taken = bound.take([3, 1]).take([1])
    assert [feed["x"][0, 0] for feed in taken] == [6.0]
    assert taken.chosen_labels is not None
    assert taken.chosen_labels.tolist() == [8]


def test_labels_are_not_an_input() -> None:
    found = from_arrays({"x": X, "labels": np.arange(4)})
    assert set(found.source.arrays) == {"x"}


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({}, "no input arrays"),
        ({"labels": np.arange(3)}, "no input arrays"),
        ({"x": np.float32(3)[()].reshape(())}, "no sample axis"),
        ({"x": np.array([{}, {}], dtype=object)}, "Python objects"),
        ({"x": X, "y": X[:3]}, "unlike length"),
        ({"x": X[:0]}, "no samples"),
        ({"x": X, "labels": np.arange(3)}, "3 labels for 4 samples"),
        ({"x": X, "labels": np.array(1)}, "0 labels for 4 samples"),
    ],
)
def test_arrays_that_are_no_samples(arrays: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(BadSamples, match=says) as caught:
        from_arrays(arrays, where="s.npz")
    assert caught.value.where == "s.npz"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("arrays", "signature", "says", "hints"),
    [
        ({"y": X}, one((1, 6)), "`y` is not an input", "known: x"),
        ({"x": X, "y": X}, one((1, 6)), "`y` is not an input", "known: x"),
        (
            {"x": X},
            takes(Tensor("x", "float32", (1, 6)), Tensor("y", "float32", (1, 6))),
            "`y`",
            "y=",
        ),
        ({"x": X.astype(np.float64)}, one((1, 6)), "float64", "astype('float32')"),
        ({"x": X.astype(np.int64)}, one((1, 6)), "int64", "astype('float32')"),
        ({"x": X}, one((1, 7)), r"shape \(6\), the model takes \(7\)", "batch axis"),
        ({"x": X}, one((1, 6, 1)), r"shape \(6\)", "batch axis"),
        ({"x": X}, one((4, 6)), r"shape \(6\), the model takes \(4, 6\)", "first axis"),
        ({"x": X[0]}, one((1, 6)), r"shape \(\)", "save it as `x[None]`"),
        ({"x": X[:, None, :, None]}, one((1, 6, 1, 1)), r"\(1, 6, 1\)", "x.transpose(0, 2, 1, 3)"),
        ({"x": X.astype(np.uint8)}, one((1, 6)), "uint8", "scaled as in training"),
        ({"x": X}, one((2, "w")), r"the model takes \(2, w\)", "first axis"),
        ({"x": np.where(X == 13, np.nan, X)}, one((1, 6)), "sample 2 of `x`", "NaN"),
        ({"x": np.where(X == 0, -np.inf, X)}, one((1, 6)), "sample 0 of `x`", "NaN"),
    ],
)
def test_arrays_that_do_not_fit_the_model(
    arrays: dict[str, np.ndarray], signature: Signature, says: str, hints: str
) -> None:
    with pytest.raises(BadSamples, match=says) as caught:
        from_arrays(arrays).bind(signature)
    assert hints in (caught.value.hint or "")


def test_only_the_chosen_rows_must_be_finite() -> None:
    found = from_arrays({"x": np.where(X == 13, np.nan, X)}).take([0, 1])
    assert len(found.bind(one((1, 6)))) == 2


@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.data())
def test_split_is_disjoint_and_seeded(count: int, seed: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, count))
    second = data.draw(st.integers(0, count - first))
    found = from_arrays({"x": np.arange(count)})
    groups = [group.rows.tolist() for group in found.split([first, second], seed)]
    assert [len(group) for group in groups] == [first, second]
    chosen = groups[0] + groups[1]
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(range(count))
    assert [group.rows.tolist() for group in found.split([first, second], seed)] == groups


def test_other_seeds_split_otherwise() -> None:
    found = from_arrays({"x": np.arange(100)})
    assert found.split([50], 0)[0].rows.tolist() != found.split([50], 1)[0].rows.tolist()


def test_digest_tells_data_apart() -> None:
    labels = np.arange(4)
    variants = [
        {"x": X},
        {"z": X},
        {"x": X + 1},
        {"x": X.astype(np.float64)},
        {"x": X.reshape(4, 3, 2)},
        {"x": X, "labels": labels},
        {"x": X, "labels": labels[::-1]},
        {"x": X[:3]},
    ]
    digests = [from_arrays(arrays).digest for arrays in variants]
    assert len(set(digests)) == len(digests)


def test_digest_is_of_the_data_not_of_where_it_lies() -> None:
    here = from_arrays({"x": X, "y": X[:, 0]}, where="here")
    there = from_arrays({"y": X[:, 0].copy(), "x": np.asfortranarray(X)}, where="there")
    assert here.digest == there.digest
    assert here.take([0, 2]).digest == from_arrays({"x": X[[0, 2]], "y": X[[0, 2], 0]}).digest


def test_what_lies_in_memory_has_no_origin() -> None:
    assert from_arrays({"x": X}).origin(3) is None
    found = from_arrays({"x": X}, origin={"npz": "s.npz"}).take([3, 1, 2]).origin(2)
    assert found == {"npz": "s.npz", "rows": [3, 1]}
