"""Convolutions on OpenVINO's direct kernels: the same answers, by other kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedl.passes.graph import read
from tests.models import NETS, feeds, saved

openvino = pytest.importorskip("openvino")
ENGINE = __import__("edgedl.runtime.openvino.engine", fromlist=["ENGINE"]).ENGINE


def _convolutions(path: Path) -> list[str]:
    return [node.name or "" for node in read(path).graph if node.op_type == "Conv"]


@pytest.mark.parametrize("net", NETS)
def test_the_answers_stay(net: str, tmp_path: Path) -> None:
    model = saved(NETS[net](), tmp_path)
    names = _convolutions(model.path)
    settings = {"precision": "f32", "other_kernels": [*names, "no such node"]}
    with (
        ENGINE.open_model(model.path, settings={"precision": "f32"}, threads=1) as own,
        ENGINE.open_model(model.path, settings=settings, threads=1) as other,
    ):
        assert other.signature == own.signature
        for feed in feeds(model.signature):
            for name, wanted in own.run(feed).items():
                np.testing.assert_allclose(other.run(feed)[name], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("net", ["conv", "residual", "depthwise", "dynamic"])
def test_the_named_ones_alone_take_direct_kernels(net: str, tmp_path: Path) -> None:
    model = saved(NETS[net](), tmp_path)
    first, *others = _convolutions(model.path)
    feed = feeds(model.signature)[0]
    kernels = {}
    for chosen in ([], [first], [first, *others]):
        settings = {"other_kernels": chosen}
        session = ENGINE._compiled(model.path, settings, 1, profiled=True)
        with session:
            session.run(feed)
            kernels[len(chosen)] = {
                name.removesuffix("/WithoutBiases"): kernel
                for name, (_, kernel) in session.executed().items()
            }
    assert kernels[1][first].startswith("jit")
    assert all(kernels[1][name] == kernels[0][name] for name in others)
    assert all(kernels[1 + len(others)][name].startswith("jit") for name in (first, *others))
