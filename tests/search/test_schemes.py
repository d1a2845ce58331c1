"""Schemes of one engine compared, and tensors with a zero point of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from edgedl.backends import backend, in_scheme
from edgedl.core.progress import silent
from edgedl.core.target import OPENVINO, OPENVINO_SKEWED, SCHEMES
from edgedl.passes.ranges import Range
from edgedl.passes.scales import quantizer
from edgedl.runtime import installed_engines
from edgedl.search.candidates import int8_candidate
from edgedl.search.prepared import Prepared
from edgedl.search.schemes import in_better_scheme
from tests.models import NETS
from tests.search.small import counted, prepared, ways


@pytest.fixture(autouse=True)
def _empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "store"))


def swish_net() -> onnx.ModelProto:
    """x, conv1, its SiLU, then conv2 and a depthwise convolution that read it."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 4, 3, 3), "w2": (8, 8, 1, 1), "w3": (8, 1, 3, 3), "w4": (4, 8, 1, 1)}
    weights = [
        onnx.numpy_helper.from_array(
            (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32), name
        )
        for name, shape in shapes.items()
    ]
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["x", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        make("Sigmoid", ["c1"], ["gate"], "sigmoid"),
        make("Mul", ["c1", "gate"], ["silu"], "product"),
        make("Conv", ["silu", "w2"], ["c2"], "conv2"),
        make("Sigmoid", ["c2"], ["gate2"], "sigmoid2"),
        make("Mul", ["c2", "gate2"], ["silu2"], "product2"),
        make("Conv", ["silu2", "w3"], ["c3"], "depthwise", pads=[1, 1, 1, 1], group=8),
        make("Conv", ["c3", "w4"], ["y"], "conv4"),
    ]
    tensors = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4, 12, 12])
        for name in ("x", "y")
    ]
    graph = onnx.helper.make_graph(nodes, "swish", tensors[:1], tensors[1:], weights)
    opsets = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_a_lopsided_range_has_a_zero_point_of_its_own_where_all_readers_take_one() -> None:
    silu = Range(-0.25, 4.75)
    symmetric = quantizer(silu, OPENVINO, offset=True)
    skewed = quantizer(silu, OPENVINO_SKEWED, offset=True, skewed=True)
    assert (symmetric.zero_point, skewed.zero_point) == (128, 13)
    assert skewed.scale == pytest.approx(5.0 / 255)
    assert symmetric.scale == pytest.approx(4.75 / 127)
    even = Range(-4.0, 4.5)
    assert quantizer(even, OPENVINO_SKEWED, offset=True, skewed=True).zero_point == 128
    positive = Range(0.0, 4.5)
    assert quantizer(positive, OPENVINO_SKEWED, skewed=True).zero_point == 0


def test_depthwise_convolutions_read_symmetric_tensors(tmp_path: Path) -> None:
    clean = prepared(swish_net(), tmp_path)
    built = backend("onnxruntime")  # whose engine is there; the scheme is what is looked at
    histograms = counted(clean, "onnxruntime")
    skewed = in_scheme(built, OPENVINO_SKEWED)
    found = int8_candidate(skewed, Prepared(clean, histograms), "minmax", label="x").plan
    assert found is not None
    codes = {name: (q.dtype, q.zero_point) for name, q in found.activations.items()}
    assert codes["silu2"] == ("uint8", 128)
    assert codes["silu"][0] == "uint8"
    assert 0 < codes["silu"][1] < 100


@pytest.mark.parametrize("engine", installed_engines())
def test_another_scheme_answers_as_its_plan_says(engine: str, tmp_path: Path) -> None:
    built = backend(engine)
    clean = prepared(swish_net(), tmp_path)
    at = ways(swish_net(), tmp_path, engine)
    histograms = counted(clean, engine)
    for scheme in built.schemes:
        start = Prepared(clean, histograms)
        one = int8_candidate(in_scheme(built, scheme), start, "minmax", label="x")
        with one.open(1) as session:
            answers = [session.run(feed) for feed in at.expected.feeds]
        wanted = np.concatenate([a["y"].ravel() for a in at.expected.answers])
        found = np.concatenate([a["y"].ravel() for a in answers])
        error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        assert error < 0.1


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("engine", installed_engines())
def test_the_better_scheme_is_one_of_the_engines(engine: str, net: str, tmp_path: Path) -> None:
    built, at = backend(engine), ways(NETS[net](), tmp_path, engine)
    start = Prepared(at.clean, counted(at.clean, engine))
    said: list[str] = []

    def note(text: str, done: int, of: int) -> None:
        said.append(text)

    found = [
        in_better_scheme(built, start, at.expected, 1, progress).scheme
        for progress in (silent, note)
    ]
    assert found[0] == found[1]
    assert not said
    assert found[0] in (built.scheme, *built.schemes)
    assert found[0].name in SCHEMES
