"""Answers of processors without VNNI: by hand, as onnxruntime gave them there, and as OpenVINO
gives them under a cap."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgedl.benchmark.machine import this_machine
from edgedl.core.errors import Missing
from edgedl.core.model import Model
from edgedl.passes import emulate
from edgedl.passes.emulate import Emulated, could_pass, missing, not_emulated
from edgedl.passes.graph import open_model
from edgedl.passes.saturation import LEAST, MOST, saturates
from edgedl.runtime import engine, installed_engines
from tests.passes.coded import Case, cases

HASWELL = Path(__file__).with_name("haswell.npz")
CASES = {case.name: case for case in cases()}
needs_runner = pytest.mark.skipif(
    "onnxruntime" not in installed_engines(), reason="onnxruntime computes the stages"
)


def by_pairs(read: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Neighbours added in 16 bits, one pair after another."""
    total = np.zeros((weights.shape[1], read.shape[1]), np.int64)
    for first in range(0, weights.shape[0], 2):
        pair = weights[first : first + 2].T.astype(np.int64) @ read[first : first + 2]
        total += np.clip(pair, LEAST, MOST)
    return total


def exact(read: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(weights.T.astype(np.int64) @ read.astype(np.int64))


def test_what_is_missing_by_hand() -> None:
    full = np.array([[255], [255]], np.int16)
    for pair, expected in (
        ([127, 127], 32767 - 64770),
        ([-128, -128], -32768 + 65280),
        ([64, 64], 0),  # 32,640
        ([65, 64], 32767 - 32895),
        ([127, -127], 0),
    ):
        weights = np.array(pair, np.int16)[:, None]
        assert missing(full, weights).item() == expected
        assert could_pass(weights) is (expected != 0)


def test_an_odd_last_product_stands_alone() -> None:
    read = np.array([[2], [3], [255]], np.int16)
    assert missing(read, np.array([[5], [7], [127]], np.int16)).item() == 0


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.booleans())
def test_the_same_as_pair_by_pair(seed: int, summed: int, large: bool) -> None:
    rng = np.random.default_rng(seed)
    read = rng.integers(0, 256, (summed, 7)).astype(np.int16)
    weights = rng.integers(90 if large else -128, 128, (summed, 5)).astype(np.int16)
    assert np.array_equal(missing(read, weights), by_pairs(read, weights) - exact(read, weights))


def saved(case: Case, folder: Path) -> Model:
    path = folder / "net.onnx"
    onnx.save(case.net, path)
    return open_model(path)


def answer(case: Case, model: Model, engine_name: str, *, saturating: bool) -> np.ndarray:
    with Emulated(model, engine_name, saturating=saturating) as session:
        return next(iter(session.run({"x": case.x}).values()))


@needs_runner
@pytest.mark.parametrize("name", list(CASES))
def test_as_onnxruntime_answered_on_a_processor_without_vnni(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = saved(case, tmp_path)
    with np.load(HASWELL) as answers:
        there = answers[name]
    found = answer(case, model, "onnxruntime", saturating=True)
    assert np.array_equal(found, there)
    whole = answer(case, model, "onnxruntime", saturating=False)
    differs = not np.array_equal(whole, there)
    assert differs == (name != "depthwise")


@needs_runner
@pytest.mark.skipif(
    saturates(this_machine().to_json(), "onnxruntime"), reason="this processor saturates"
)
@pytest.mark.parametrize("name", list(CASES))
def test_exact_sums_are_this_processors(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = saved(case, tmp_path)
    with engine("onnxruntime").open_model(model.path, settings={}) as session:
        here = next(iter(session.run({"x": case.x}).values()))
    # What lies in the middle of two codes may be rounded to either.
    step = 4096.0 if here.size > 200 else 2048.0
    found = answer(case, model, "onnxruntime", saturating=False)
    assert np.mean(found != here) < 0.005
    assert np.abs(found - here).max() <= step


SCRIPT = """
import sys
import numpy as np
from edgedl.runtime import engine
from tests.passes.coded import cases
found = {}
for case in cases():
    data = case.net.SerializeToString()
    with engine("openvino").open_model(data, settings={"precision": "f32"}, threads=1) as session:
        found[case.name] = next(iter(session.run({"x": case.x}).values()))
np.savez(sys.argv[1], **found)
"""


@needs_runner
@pytest.mark.skipif(
    "openvino" not in installed_engines() or platform.machine() not in ("x86_64", "AMD64"),
    reason="needs OpenVINO on x86, whose kernels can be capped",
)
@pytest.mark.parametrize("cap", ["AVX2", "AVX2_VNNI"])
def test_as_openvino_answers_under_a_cap(cap: str, tmp_path: Path) -> None:
    if cap == "AVX2_VNNI" and "avx_vnni" not in this_machine().isa:
        pytest.skip("this processor has no VNNI without AVX-512")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "found.npz")],
        env={
            **os.environ,
            "ONEDNN_MAX_CPU_ISA": cap,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz") as answers:
        for name, case in CASES.items():
            model = saved(case, tmp_path)
            found = answer(case, model, "openvino", saturating=cap == "AVX2")
            slack = 1e-3 * np.abs(answers[name]).max()
            assert np.mean(np.abs(found - answers[name]) > slack) < 0.005, name


@needs_runner
def test_operators_and_their_noise(tmp_path: Path) -> None:
    case = CASES["conv3_16"]
    model = saved(case, tmp_path)
    store = Path(os.environ["EDGEDL_STORE"]) if "EDGEDL_STORE" in os.environ else None
    with Emulated(model, "onnxruntime", saturating=True) as session:
        [node] = session.operators
        session.run({"x": case.x})
        lost, power = session.noise[node]
        assert 0 < lost < power
    if store is not None:
        assert not list(store.glob(".emulated-*"))
    depthwise = saved(CASES["depthwise"], tmp_path)
    with Emulated(depthwise, "onnxruntime", saturating=True) as session:
        assert session.operators == ()


def test_without_onnxruntime_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulate, "installed_engines", lambda: ("openvino",))
    with pytest.raises(Missing, match="onnxruntime"):
        Emulated(saved(CASES["matmul_16"], tmp_path), "onnxruntime", saturating=True)


def test_what_is_not_emulated_is_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["codes", "scale", "zero"], name="in"),
        helper.make_node("MatMulInteger", ["codes", "w", "zero"], ["sums"], name="product"),
        helper.make_node("Cast", ["sums"], ["real"], to=TensorProto.FLOAT, name="cast"),
        helper.make_node("Mul", ["real", "scale"], ["y"], name="scaled"),
    ]
    graph = helper.make_graph(
        nodes,
        "dynamic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.full((4, 3), 100, np.int8), "w")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "d.onnx")
    [told] = not_emulated(open_model(tmp_path / "d.onnx"))
    assert "product" in told
    assert not_emulated(saved(CASES["conv3_16"], tmp_path)) == ()
