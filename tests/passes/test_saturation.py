"""Sums of 16 bits, emulated, predicted, and as an engine makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedl.core.samples import from_arrays
from edgedl.core.target import ONNXRUNTIME
from edgedl.passes.calibrate import calibrate
from edgedl.passes.plan import Plan
from edgedl.passes.quantize import plan
from edgedl.passes.saturation import at_risk, saturates
from edgedl.search.candidates import tensors_to_watch
from tests.models import saved


@pytest.mark.parametrize(
    ("machine", "engine", "expected"),
    [
        ({"architecture": "x86_64", "isa": ["avx2"], "isa_cap": None}, "onnxruntime", True),
        ({"architecture": "x86_64", "isa": ["avx2", "avx512f"], "isa_cap": None}, "openvino", True),
        ({"architecture": "x86_64", "isa": ["avx512_vnni"], "isa_cap": None}, "openvino", False),
        ({"architecture": "x86_64", "isa": ["avx512_vnni"], "isa_cap": "AVX2"}, "openvino", True),
        ({"architecture": "x86_64", "isa": ["avx_vnni"], "isa_cap": "AVX2"}, "onnxruntime", False),
        (
            {"architecture": "x86_64", "isa": ["avx_vnni"], "isa_cap": "AVX2_VNNI"},
            "openvino",
            False,
        ),
        (
            {"architecture": "x86_64", "isa": ["avx512_vnni"], "isa_cap": "AVX2_VNNI"},
            "openvino",
            True,
        ),
        ({"architecture": "aarch64", "isa": ["neon"], "isa_cap": None}, "onnxruntime", False),
    ],
)
def test_which_machines_saturate(machine: dict[str, object], engine: str, expected: bool) -> None:
    assert saturates(machine, engine) is expected


def product_net(weight: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, weight.shape[1]])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def planned(weight: np.ndarray, data: np.ndarray, folder: Path) -> tuple[Plan, dict[str, float]]:
    model = saved(product_net(weight), folder)
    samples = from_arrays({"x": data.astype(np.float32)}).bind(model.signature)
    histograms = calibrate(model, tensors_to_watch(model, [ONNXRUNTIME]), samples)
    made = plan(model, "onnxruntime", histograms, "minmax")
    return made, at_risk(made, model, histograms)


def test_what_cannot_overflow_is_not_at_risk(tmp_path: Path) -> None:
    alternating = np.zeros((4, 2), np.float32)
    alternating[::2] = 1.0  # of two neighbours, one is 0
    made, risk = planned(alternating, np.full((8, 4), 3.0), tmp_path)
    assert made.int8 == ("product",)
    assert risk == {}


def test_the_share_at_risk_by_hand(tmp_path: Path) -> None:
    weight = np.ones((4, 2), np.float32)  # codes of 127 throughout
    rng = np.random.default_rng(0)
    data = rng.choice([0.0, 1.0], (64, 4))  # codes of 0 and 255, evenly
    _, risk = planned(weight, data, tmp_path)
    # Two ones in a row, a quarter of all pairs, pass 32,767.
    assert risk["product"] == pytest.approx(np.mean(data) ** 2, abs=0.1)
