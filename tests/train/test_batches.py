"""Batches: whole orders, the same again from any place, and classes as often as asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.errors import BadSamples
from edgedl.core.samples import Samples, from_arrays
from edgedl.train.batches import groups_of, open_data, order_of
from tests.train.small import Row, images, rows_of

CPU = torch.device("cpu")


@given(st.integers(1, 200), st.integers(0, 9), st.integers(0, 9), st.integers(1, 60))
def test_an_epoch_has_every_sample_once(count: int, seed: int, epoch: int, batch: int) -> None:
    order = order_of(count, seed, epoch)
    assert sorted(order) == list(range(count))
    assert np.array_equal(order, order_of(count, seed, epoch))
    groups = groups_of(order, batch, whole=True)
    assert all(len(group) == min(batch, count) for group in groups)
    assert len(groups) == max(1, count // batch)
    assert np.array_equal(np.concatenate(groups_of(order, batch, whole=False)), order)


def test_epochs_and_seeds_differ() -> None:
    orders = [order_of(50, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


@given(st.lists(st.integers(0, 3), min_size=4, max_size=90))
def test_balanced_classes_are_as_frequent_and_so_are_their_samples(labels: list[int]) -> None:
    found = np.array(labels)
    order = order_of(len(found), 0, 0, found)
    assert len(order) == len(found)
    counts = np.bincount(found[order], minlength=4)[np.unique(found)]
    assert counts.max() - counts.min() <= 1
    for label in np.unique(found):
        often = np.bincount(order, minlength=len(found))[found == label]
        assert often.max() - often.min() <= 1


@pytest.mark.parametrize("memory", [0.5, 0.0])
@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_prepared_is_what_was_asked(memory: float, threads: int) -> None:
    samples = images(150).take(range(10, 140))
    groups = groups_of(order_of(130, 0, 0), 17, whole=False)
    arrays: Any = samples.source
    for one in (samples, rows_of(images(150)).take(range(10, 140))):
        data = open_data(one, CPU, memory=memory, threads=threads)
        assert (data.held is None) == (memory == 0)
        for rows, batch in zip(groups[3:], data.stream(groups[3:]), strict=True):
            wanted = arrays.arrays["x"][rows + 10]
            np.testing.assert_array_equal(batch.inputs[0].numpy(), wanted)
            np.testing.assert_array_equal(batch.targets.numpy(), samples.labels[rows + 10])  # type: ignore[index]


def test_types_stay_as_they_come_but_for_reals() -> None:
    arrays = {
        "bytes": np.zeros((4, 3), np.uint8),
        "words": np.zeros((4, 3), np.int64),
        "half": np.ones((4, 3), np.float16),
        "double": np.ones((4, 3), ">f8"),
        "short": np.full((4, 3), 65535, np.uint16),
        "labels": np.array([0.5, 1, 2, 3]),
    }
    data = open_data(from_arrays(arrays), CPU)
    batch = data.batch(np.array([3, 1]))
    assert data.names == ("bytes", "words", "half", "double", "short")
    types = [one.dtype for one in batch.inputs]
    assert types == [torch.uint8, torch.int64, torch.float32, torch.float32, torch.int32]
    assert batch.targets.tolist() == [3, 1]
    assert batch.targets.dtype == torch.float32
    assert data.held is not None
    assert data.held[2].dtype == torch.float16


def test_without_labels_or_by_wish_the_input_is_the_target() -> None:
    samples = images(8)
    batch = open_data(samples, CPU, target="input").batch(np.arange(4))
    assert batch.targets is batch.inputs[0]
    bare = Samples(samples.source, None, samples.rows)
    assert open_data(bare, CPU).batch(np.arange(4)).targets.shape == (4, 2, 8, 8)
    with pytest.raises(BadSamples, match="there are no labels to learn"):
        open_data(bare, CPU, target="labels")


class Ragged(Row):
    """Its sample 5 is longer than the others."""

    def prepare(self, raw: np.ndarray) -> dict[str, np.ndarray]:
        return {"x": np.zeros((1, 3 + int(raw[0] == 5)), np.float32)}


@pytest.mark.parametrize("memory", [0.5, 0.0])
def test_samples_of_unlike_shapes_are_named(memory: float) -> None:
    samples = Samples(Ragged(np.arange(9)), np.zeros(9, np.int64), np.arange(9), "here")
    with pytest.raises(BadSamples, match=r"sample 5 of `x` has shape \(4,\), others \(3,\)"):
        data = open_data(samples, CPU, memory=memory)
        list(data.stream(groups_of(np.arange(9), 9, whole=False)))


class Failing(Row):
    def load(self, row: int) -> np.ndarray:
        if row == 130:
            raise BadSamples("is damaged", where="130.png")
        return super().load(row)


@pytest.mark.parametrize("memory", [0.5, 0.0])
def test_an_error_in_a_thread_is_raised_where_it_is_waited_for(memory: float) -> None:
    samples = Samples(Failing(np.arange(200)), np.zeros(200, np.int64), np.arange(200))
    with pytest.raises(BadSamples, match="is damaged"):
        data = open_data(samples, CPU, memory=memory, threads=2)
        list(data.stream(groups_of(np.arange(200), 16, whole=False)))
