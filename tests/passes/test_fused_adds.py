"""Residual additions where an engine adds in a convolution's kernel: one operand is quantized."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedl.core.target import TENSORRT
from edgedl.passes.clean import Clean
from edgedl.passes.graph import read
from edgedl.passes.layout import Layout, layout
from tests.models import Sketch, saved


def planned(net: Sketch, folder: Path, **kept: str) -> Layout:
    model = Clean()(saved(net.model([1, 3, 8, 8], [1, 5]), folder))
    return layout(read(model.path), TENSORRT, keep_float=kept)


def told(found: Layout, node: str) -> tuple[str, str]:
    [decision] = [one for one in found.decisions if one.node == node]
    return decision.precision, decision.reason


def two_branches() -> Sketch:
    """A shortcut with a convolution of its own, made before the branch that it waits for."""
    net = Sketch()
    net.conv("x", "stem", 3, 8)
    net.conv("stem", "shortcut", 8, 8, kernel=1)
    net.conv("stem", "branch1", 8, 8)
    net.node("Relu", ["branch1"], "relu1")
    net.conv("relu1", "branch2", 8, 8)
    net.node("Add", ["branch2", "shortcut"], "sum")
    net.node("Relu", ["sum"], "relu2")
    net.conv("relu2", "last", 8, 8)
    net.head("last", 8)
    return net


def test_of_two_convolutions_the_later_adds_and_the_other_is_quantized(tmp_path: Path) -> None:
    found = planned(two_branches(), tmp_path)
    assert told(found, "sum") == ("int8", "added in the kernel of an int8 convolution")
    assert found.readers["shortcut"] == ("sum",)
    assert "branch2" not in found.readers
    assert found.readers["relu2"] == ("last",)


def test_a_sum_in_a_float_convolution_is_float(tmp_path: Path) -> None:
    found = planned(two_branches(), tmp_path, branch2="asked for")
    assert told(found, "sum") == ("float", "the convolution that it is added in is float")
    assert "shortcut" not in found.readers


def test_a_convolution_that_others_read_adds_nothing(tmp_path: Path) -> None:
    net = Sketch()
    net.conv("x", "stem", 3, 8)
    net.node("Relu", ["stem"], "relu0")
    net.conv("relu0", "branch", 8, 8)
    net.node("Sigmoid", ["branch"], "gate")
    net.node("Add", ["branch", "relu0"], "sum")
    net.node("Mul", ["sum", "gate"], "gated")
    net.conv("gated", "last", 8, 8)
    net.head("last", 8)
    found = planned(net, tmp_path)
    precision, reason = told(found, "sum")
    assert precision == "float"
    assert "within a convolution's kernel" in reason


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid"])
def test_behind_an_activation_nothing_can_be_added(activation: str, tmp_path: Path) -> None:
    net = Sketch()
    net.conv("x", "stem", 3, 8)
    net.conv("stem", "branch", 8, 8)
    net.node(activation, ["branch"], "active")
    net.node("Add", ["active", "stem"], "sum")
    net.conv("sum", "last", 8, 8)
    net.head("last", 8)
    assert told(planned(net, tmp_path), "sum")[0] == "float"
