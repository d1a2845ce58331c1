"""Samples share a call only where it was seen that they do not change one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import EngineFailed
from edgedl.core.model import Tensor
from edgedl.runtime import engine, installed_engines
from edgedl.service.contract import Contract
from edgedl.service.probe import shares
from tests import models
from tests.service.requests import contract

Feed = Mapping[str, np.ndarray]
OF = contract(Tensor("x", "float32", ("n", 4)), outputs=(Tensor("y", "float32", ("n", 4)),))


def alone(function: Any, of: Contract = OF) -> str | None:
    return shares(lambda feed: {"y": function(feed["x"])}, of, 4)


def test_independent_rows_share() -> None:
    assert alone(np.tanh) is None


def test_rows_that_change_one_another_do_not() -> None:
    found = alone(lambda x: x / np.abs(x).max())
    assert found == "a sample's `y` hangs on the other samples of its call"
    assert alone(lambda x: np.cumsum(x, 0).astype(np.float32)) is not None
    assert alone(lambda x: np.cumsum(x[::-1], 0)[::-1].astype(np.float32)) is not None


def test_a_scale_of_the_whole_call_is_found() -> None:
    def quantized(x: np.ndarray) -> np.ndarray:
        scale = np.abs(x).max() / 127
        return (np.round(x / scale) * scale).astype(np.float32)

    assert alone(quantized) is not None


def test_places_count_nothing() -> None:
    found = alone(lambda x: x + np.arange(len(x), dtype=np.float32)[:, None])
    assert found == "a sample's `y` hangs on its place in the call"


def test_a_little_noise_by_place_is_forgiven() -> None:
    assert alone(lambda x: x * (1 + 1e-3 * np.arange(len(x), dtype=np.float32)[:, None])) is None


def test_outputs_without_rows_do_not_share() -> None:
    assert alone(lambda x: x.mean(0)) == "output `y` has no row for each sample"
    assert alone(lambda x: np.float32(x.mean())) == "output `y` has no row for each sample"


@pytest.mark.parametrize("shape", [(1, 4), (4,), (), None])
def test_a_fixed_first_axis_does_not_share(shape: tuple[int, ...] | None) -> None:
    of = contract(Tensor("x", "float32", shape), outputs=(Tensor("y", "float32", ("n", 4)),))
    assert alone(np.tanh, of) == "its first axis is fixed"


def test_first_axes_of_two_names_do_not_share() -> None:
    of = contract(
        Tensor("x", "float32", ("n", 4)), Tensor("z", "float32", ("time", 4)),
        outputs=(Tensor("y", "float32", ("n", 4)),),
    )  # fmt: skip
    assert alone(np.tanh, of) == "its first axis is fixed"


def test_sizes_are_tried_until_one_runs() -> None:
    def picky(x: np.ndarray) -> np.ndarray:
        if x.shape[1] != 32:
            raise EngineFailed("32 only")
        return x

    of = contract(
        Tensor("x", "float32", (None, None)), outputs=(Tensor("y", "float32", (None, None)),)
    )
    assert alone(picky, of) is None

    def never(x: np.ndarray) -> np.ndarray:
        raise EngineFailed("no")

    assert alone(never, of) == "no made-up input of two samples runs"


def test_not_a_number_is_itself() -> None:
    assert alone(lambda x: np.where(x > 0, x, np.nan).astype(np.float32)) is None


@pytest.mark.parametrize("name", installed_engines())
@pytest.mark.parametrize(
    ("net", "shared"), [("dynamic", True), ("conv", False), ("recurrent", False)]
)
def test_real_models(name: str, net: str, shared: bool) -> None:
    data = models.NETS[net]().SerializeToString()
    with engine(name).open_model(data, settings={}, threads=1) as session:
        assert (shares(session.run, Contract.of(session.signature), 4) is None) == shared
