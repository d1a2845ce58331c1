"""Samples that are prepared once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.core import kept as kept_module
from edgedl.core.errors import BadSamples
from edgedl.core.kept import Kept, kept, read_ahead
from edgedl.core.model import Signature
from edgedl.core.samples import Samples, from_arrays


@dataclass(frozen=True)
class Slow:
    """A source that notes what is loaded from it; sample 5 is damaged."""

    loaded: list[int] = field(default_factory=list)
    origin: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return 10

    def bind(self, signature: Signature, rows: np.ndarray) -> Slow:
        return self

    def load(self, row: int) -> int:
        self.loaded.append(row)
        if row == 5:
            raise BadSamples("damaged", where="5.png")
        return row

    def prepare(self, raw: int) -> dict[str, np.ndarray]:
        image = np.full((2, 3), raw, np.float32)
        return {"image": image, "scalar": np.array(raw), "none": np.zeros((0, 2), np.int8)}

    def digest(self, rows: np.ndarray) -> str:
        return "digest"


def slow() -> tuple[Slow, Samples]:
    source = Slow()
    return source, kept(Samples(source, None, np.arange(10)))


def test_each_is_prepared_once() -> None:
    source, samples = slow()
    for _ in range(3):
        for i in (2, 7, 2):
            feed = samples.feed(i)
            assert feed["image"].tolist() == [[i] * 3] * 2
            assert feed["image"].dtype == np.float32
            assert feed["scalar"] == i
            assert feed["scalar"].shape == ()
            assert feed["none"].shape == (0, 2)
    assert source.loaded == [2, 7]
    assert samples.digest == kept(samples).digest


def test_what_is_read_is_an_array_of_its_own() -> None:
    _, samples = slow()
    samples.feed(1)["image"] += 5
    samples.feed(1)["image"] += 5
    assert samples.feed(1)["image"].tolist() == [[1] * 3] * 2


def test_beyond_the_limit_they_are_prepared_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "MOST_BYTES", 3 * 32 + 31)
    source, samples = slow()
    for _ in range(2):
        for i in range(5):
            assert samples.feed(i)["scalar"] == i
    assert source.loaded == [0, 1, 2, 3, 4, 3, 4]


def test_reading_ahead_names_what_is_damaged() -> None:
    source, samples = slow()
    told: list[tuple[str, int, int]] = []
    read_ahead(samples.take([1, 2]), lambda *words: told.append(words))
    assert source.loaded == [1, 2]
    assert [words[1:] for words in told] == [(1, 2), (2, 2)]
    with pytest.raises(BadSamples, match="damaged"):
        read_ahead(samples.take([4, 5, 6]))
    assert source.loaded == [1, 2, 4, 5]


def test_reading_ahead_ends_where_nothing_more_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "MOST_BYTES", 40)
    source, samples = slow()
    read_ahead(samples.take([1, 2, 3, 4]))
    assert source.loaded == [1, 2]


def test_a_file_that_cannot_grow_costs_time_alone() -> None:
    source, samples = slow()
    assert isinstance(samples.source, Kept)
    with Path("/dev/full").open("rb+", buffering=0) as full:
        samples = replace(samples, source=replace(samples.source, file=full))
        assert samples.feed(3)["scalar"] == samples.feed(3)["scalar"] == 3
        assert source.loaded == [3, 3]


@dataclass(frozen=True)
class Ragged(Slow):
    """Each sample is longer than the one before."""

    def prepare(self, raw: int) -> dict[str, np.ndarray]:
        return {"x": np.arange(raw + 1)}


def test_samples_of_unlike_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "MOST_LAYOUTS", 3)
    source = Ragged()
    samples = kept(Samples(source, None, np.arange(5)))
    for _ in range(2):
        assert [feed["x"].tolist() for feed in samples] == [[*range(i + 1)] for i in range(5)]
    assert source.loaded == [0, 1, 2, 3, 4, 3, 4]


def test_arrays_are_kept_already() -> None:
    samples = from_arrays({"x": np.zeros((2, 3), np.float32)})
    assert kept(samples) is samples
