"""Sums of 16 bits, emulated, predicted, and as an engine makes them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
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
from edgedl.passes.saturation import at_risk, saturates, saturating_product
from edgedl.runtime import installed_engines
from edgedl.search.candidates import tensors_to_watch
from tests.models import saved

SUMMED, COLUMNS = 64, 32


def test_a_pair_overflows_by_hand() -> None:
    full = np.array([[255, 255]], np.uint8)
    assert saturating_product(full, np.array([[127], [127]], np.int8)).item() == 32767
    assert saturating_product(full, np.array([[-127], [-127]], np.int8)).item() == -32768
    assert saturating_product(full, np.array([[64], [64]], np.int8)).item() == 255 * 128
    assert saturating_product(full, np.array([[127], [-127]], np.int8)).item() == 0
    four = np.array([[255, 255, 1, 1]], np.uint8)
    assert saturating_product(four, np.array([[127], [127], [5], [6]], np.int8)).item() == 32778


def test_an_odd_last_product_stands_alone() -> None:
    codes = np.array([[2, 3, 255]], np.uint8)
    assert saturating_product(codes, np.array([[5], [7], [127]], np.int8)).item() == 31 + 32385


def test_seven_bits_never_overflow() -> None:
    rng = np.random.default_rng(0)
    codes = rng.choice(np.array([0, 255], np.uint8), (8, SUMMED))
    weights = rng.choice(np.array([-63, 63], np.int8), (SUMMED, COLUMNS))
    exact = codes.astype(np.int64) @ weights.astype(np.int64)
    assert np.array_equal(saturating_product(codes, weights), exact)


@pytest.mark.parametrize(
    ("machine", "engine", "expected"),
    [
        ({"architecture": "x86_64", "isa": ["avx2"], "isa_cap": None}, "onnxruntime", True),
        ({"architecture": "x86_64", "isa": ["avx2", "avx512f"], "isa_cap": None}, "openvino", True),
        ({"architecture": "x86_64", "isa": ["avx512_vnni"], "isa_cap": None}, "openvino", False),
        ({"architecture": "x86_64", "isa": ["avx512_vnni"], "isa_cap": "AVX2"}, "openvino", True),
        ({"architecture": "x86_64", "isa": ["avx_vnni"], "isa_cap": "AVX2"}, "onnxruntime", False),
        ({"architecture": "aarch64", "isa": ["neon"], "isa_cap": None}, "onnxruntime", False),
    ],
)
def test_which_machines_saturate(machine: dict[str, object], engine: str, expected: bool) -> None:
    assert saturates(machine, engine) is expected


def product_net(weight: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
            helper.make_node("Relu", ["h"], ["y"], name="relu"),
        ],
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


SCRIPT = """
import json, sys
import numpy as np
from edgedl.runtime import engine
with np.load(sys.argv[1]) as arrays:
    x = arrays["x"]
with engine("openvino").open_model(sys.argv[2], settings={}, threads=1) as session:
    [name] = [tensor.name for tensor in session.signature.inputs]
    rows = [next(iter(session.run({name: row}).values())) for row in x]
print(json.dumps([row.ravel().tolist() for row in rows]))
"""


def coded_net(weights: np.ndarray, operator: str) -> onnx.ModelProto:
    """Codes in, sums of codes out: every scale is 1."""
    convolves = operator == "Conv"
    tail = [1, 1] if convolves else []
    stored = weights.T.reshape(COLUMNS, SUMMED, 1, 1) if convolves else weights
    constants = {
        "one": np.float32(1),
        "none": np.uint8(0),
        "w": np.ascontiguousarray(stored),
        "ones": np.ones(COLUMNS, np.float32),
        "zeros": np.zeros(COLUMNS, np.int8),
    }
    axis = 0 if convolves else 1
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "one", "none"], ["codes"]),
            helper.make_node("DequantizeLinear", ["codes", "one", "none"], ["real"]),
            helper.make_node("DequantizeLinear", ["w", "ones", "zeros"], ["weights"], axis=axis),
            helper.make_node(operator, ["real", "weights"], ["y"]),
        ],
        "coded",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, SUMMED, *tail])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, COLUMNS, *tail])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.skipif(
    "openvino" not in installed_engines() or platform.machine() not in ("x86_64", "AMD64"),
    reason="needs OpenVINO on x86, whose kernels can be capped",
)
@pytest.mark.parametrize("operator", ["MatMul", "Conv"])
@pytest.mark.parametrize("cap", ["AVX2", "AVX2_VNNI"])
def test_the_emulation_is_what_an_engine_computes(operator: str, cap: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    weights = rng.integers(-127, 128, (SUMMED, COLUMNS)).astype(np.int8)
    weights[:, ::2] = rng.integers(100, 128, (SUMMED, COLUMNS // 2))
    codes = rng.integers(0, 256, (4, SUMMED)).astype(np.uint8)
    shape = (4, 1, SUMMED, 1, 1) if operator == "Conv" else (4, 1, SUMMED)
    np.savez(tmp_path / "x.npz", x=codes.astype(np.float32).reshape(shape))
    onnx.save(coded_net(weights, operator), tmp_path / "m.onnx")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "x.npz"), str(tmp_path / "m.onnx")],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": cap},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = np.array(json.loads(done.stdout.splitlines()[-1]))
    exact = codes.astype(np.int64) @ weights.astype(np.int64)
    emulated = saturating_product(codes, weights)
    assert np.abs(emulated - exact).max() > 1000
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if cap == "AVX2_VNNI" and "avx_vnni" not in flags and "avx512_vnni" not in flags:
        pytest.skip("this processor has no VNNI")
    assert np.array_equal(answers, emulated if cap == "AVX2" else exact)
