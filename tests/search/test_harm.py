"""What each int8 operator alone does to the answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from edgedl.runtime import installed_engines
from edgedl.search.harm import measured_harm
from tests.models import NETS, conv_net
from tests.search.small import counted, full_plan, ways

INSTALLED = installed_engines()


@pytest.fixture(autouse=True)
def _empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "store"))


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("engine", INSTALLED)
def test_every_operator_has_a_figure(engine: str, net: str, tmp_path: Path) -> None:
    at = ways(NETS[net](), tmp_path, engine)
    full = full_plan(at.clean, engine, counted(at.clean, engine))
    assert full.plan is not None
    harm = measured_harm(full, at.expected, full.plan.int8, seconds=1e9)
    assert list(harm) == list(full.plan.int8)
    assert all(0 <= noise <= 1 for noise in harm.values())
    assert any(noise > 0 for noise in harm.values()) == bool(harm)


def spoiled(net: onnx.ModelProto, weight: str) -> onnx.ModelProto:
    """A product whose outputs have one weight far larger than all others: 8 bits leave nothing of
    those."""
    [tensor] = [t for t in net.graph.initializer if t.name == weight]
    array = onnx.numpy_helper.to_array(tensor).copy()
    flat = array.reshape(len(array), -1)
    flat[:, 0] = 400 * np.abs(flat).max()
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, weight))
    return net


@pytest.mark.parametrize("engine", INSTALLED)
def test_the_operator_whose_weights_lose_most_is_the_most_harmful(
    engine: str, tmp_path: Path
) -> None:
    net = conv_net()
    [node] = [n for n in net.graph.node if n.name == "conv2" or n.output[0] == "conv2"]
    at = ways(spoiled(net, node.input[1]), tmp_path, engine)
    full = full_plan(at.clean, engine, counted(at.clean, engine))
    assert full.plan is not None
    harm = measured_harm(full, at.expected, full.plan.int8, seconds=1e9)
    name = next(n for n in harm if "conv2" in n)
    assert name in sorted(harm, key=lambda one: -harm[one])[:2]


@pytest.mark.parametrize("engine", INSTALLED[:1])
def test_time_that_does_not_suffice_measures_the_first_two(engine: str, tmp_path: Path) -> None:
    at = ways(conv_net(), tmp_path, engine)
    full = full_plan(at.clean, engine, counted(at.clean, engine))
    assert full.plan is not None
    order = list(reversed(full.plan.int8))
    now = iter(range(10**6))
    found = measured_harm(full, at.expected, order, seconds=0.5, clock=lambda: float(next(now)))
    assert list(found) == order[:2]


@pytest.mark.parametrize("engine", INSTALLED[:1])
def test_what_was_measured_is_noted(engine: str, tmp_path: Path) -> None:
    at = ways(conv_net(), tmp_path, engine)
    full = full_plan(at.clean, engine, counted(at.clean, engine))
    assert full.plan is not None
    first = measured_harm(full, at.expected, full.plan.int8, seconds=1e9)
    assert first
    assert measured_harm(full, at.expected, (), seconds=0.0) == first
