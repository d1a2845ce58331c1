"""The step that trains on: it changes nothing, and says what training follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedl.core.errors import BadValue
from edgedl.core.fields import from_plain
from edgedl.core.registry import load
from edgedl.train.shrink import STEPS
from edgedl.train.shrink.distil import Distil
from edgedl.train.shrink.step import Ground, Step
from tests.train.small import convolutional, images, same, weights


def test_it_changes_nothing(tmp_path: Path) -> None:
    step: Step = from_plain(Distil, {"name": "distil", "epochs": 3, "lr": 0.01})
    assert load(STEPS["distil"], "a step") is Distil
    assert (step.name, step.promise, step.rounds) == ("distil", "accuracy", 1)
    assert (step.epochs, step.lr) == (3, 0.01)
    network = convolutional()
    before = weights(network)
    ground = Ground(images(4), lambda o, y: o.sum(), None)
    change = step.decide(network, ground, 0)
    step.apply(network, change)
    step.settle(network)
    assert change == {}
    assert same(before, weights(network))


def test_what_it_trains_by_is_checked() -> None:
    assert (Distil().epochs, Distil().lr) == (None, None)
    with pytest.raises(BadValue, match="`lr` is 0"):
        Distil(lr=0.0)
    with pytest.raises(BadValue, match="`epochs` is -1"):
        Distil(epochs=-1)
