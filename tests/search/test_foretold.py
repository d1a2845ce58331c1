"""Processors that are not at hand: whose answers are meant, and what ships for them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedl import verbs
from edgedl.benchmark.machine import processor_of, this_machine
from edgedl.core.errors import Unsupported
from edgedl.core.isa import ISA_VARIABLE
from edgedl.core.target import PROCESSORS, TARGETS
from edgedl.passes.emulate import Emulated
from edgedl.passes.graph import open_model
from edgedl.passes.saturation import saturates
from edgedl.pipeline import compress
from edgedl.runtime import installed_engines
from edgedl.runtime.artifact import find_artifact
from edgedl.search.candidates import Candidate
from edgedl.search.foretold import answering, as_there, foretold, is_emulated
from edgedl.search.ready import backends_of
from edgedl.search.why import before_vnni
from tests.models import conv_net, saved
from tests.search.small import full_plan, prepared

both = pytest.mark.skipif(
    set(installed_engines()) != {"onnxruntime", "openvino"}, reason="needs both engines"
)


def test_a_name_or_a_cap_stands_for_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ISA_VARIABLE, raising=False)
    assert processor_of(None) is None
    assert processor_of("cpu") is None
    assert processor_of("arm64-nodot") is PROCESSORS["arm64-nodot"]
    monkeypatch.setenv(ISA_VARIABLE, "AVX2")
    assert processor_of("onnxruntime") is PROCESSORS["x86-avx2"]
    assert processor_of("x86-avx2-vnni") is PROCESSORS["x86-avx2-vnni"]
    monkeypatch.setenv(ISA_VARIABLE, "SSE41")
    assert processor_of(None) is None


@pytest.mark.parametrize("name", list(PROCESSORS))
def test_each_is_a_target_and_says_whether_it_saturates(name: str) -> None:
    assert name in TARGETS
    machine = PROCESSORS[name].machine()
    assert saturates(machine, "onnxruntime") is (name == "x86-avx2")
    here = saturates(this_machine().to_json(), "onnxruntime")
    assert is_emulated(machine, "onnxruntime") is (here != (name == "x86-avx2"))


def test_what_has_no_codes_is_run_as_it_is(tmp_path: Path) -> None:
    model = saved(conv_net(), tmp_path)
    candidate = Candidate(installed_engines()[0], "float32", "float32", model, {})
    with answering(candidate, PROCESSORS["x86-avx2"].machine(), 1) as session:
        assert not isinstance(session, Emulated)


def test_what_is_said_of_a_foretold_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ISA_VARIABLE, "AVX2")
    processor = PROCESSORS["x86-avx2"]
    assert foretold(None, "openvino") == []
    [ran] = foretold(processor, "openvino")
    assert "ran with the instructions of x86-avx2" in ran
    answers, times = foretold(processor, "onnxruntime")
    assert "onnxruntime's answers for x86-avx2" in answers
    assert "time the bundle there" in times


def steep_net() -> onnx.ModelProto:
    """Two products whose weights are all alike, so that every pair of large codes overflows."""
    rng = np.random.default_rng(0)
    first = np.abs(rng.normal(1.0, 0.05, (32, 48))).astype(np.float32)
    second = rng.normal(0.0, 1.0, (48, 6)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["h"], name="first_product"),
        helper.make_node("Sub", ["h", "middle"], ["c"], name="centre"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "second"], ["y"], name="second_product"),
    ]
    constants = {"first": first, "second": second, "middle": np.float32(16.0)}
    graph = helper.make_graph(
        nodes,
        "steep",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6])],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@both
def test_openvino_is_left_out_where_it_was_not_capped(tmp_path: Path) -> None:
    if saturates(this_machine().to_json(), "openvino"):
        pytest.skip("OpenVINO's sums are those of this processor")
    built, doubts = backends_of(TARGETS["x86-avx2"])
    assert [one.engine for one in built] == ["onnxruntime"]
    assert "ONEDNN_MAX_CPU_ISA=AVX2" in doubts[0]
    codes = tmp_path / "codes.onnx"
    onnx.save(by_hand(), codes)
    artifact = find_artifact(codes, "openvino")
    with pytest.raises(Unsupported, match="before it is loaded") as caught:
        as_there(artifact, open_model(codes), PROCESSORS["x86-avx2"]).open()
    assert caught.value.hint


@both
def test_weights_get_7_bits_for_a_processor_that_saturates(tmp_path: Path) -> None:
    model = saved(steep_net(), tmp_path)
    x = np.random.default_rng(1).random((64, 32)).astype(np.float32)
    np.savez(tmp_path / "s.npz", x=x)
    out = {}
    for target in ("x86-avx2", "x86-avx2-vnni"):
        out[target] = compress(
            model.path, tmp_path / "s.npz", tmp_path / f"{target}.edl", target=target, seconds=0.5
        )
        assert out[target].target == target
        assert any(target in doubt for doubt in out[target].doubts)
    tried = [[choice.name for choice in one.choices] for one in out.values()]
    assert any("7 bits" in name for name in tried[0])
    assert not any("7 bits" in name for name in tried[1])


@pytest.mark.skipif(
    saturates(this_machine().to_json(), "onnxruntime")
    or this_machine().architecture not in ("x86_64", "AMD64")
    or "onnxruntime" not in installed_engines(),
    reason="says what older x86 processors would do, on a later one",
)
def test_a_plan_says_what_overflows_on_older_processors(tmp_path: Path) -> None:
    steep = full_plan(prepared(steep_net(), tmp_path), "onnxruntime")
    [told] = before_vnni(steep)
    assert "--target x86-avx2" in told
    assert steep.plan is not None
    narrow = dataclasses.replace(steep.plan, narrow=steep.plan.int8)
    assert before_vnni(dataclasses.replace(steep, plan=narrow)) == []
    assert before_vnni(dataclasses.replace(steep, prepared=None)) == []


@pytest.mark.skipif("onnxruntime" not in installed_engines(), reason="needs onnxruntime")
def test_an_8_bit_file_is_foretold_to_lose(tmp_path: Path) -> None:
    model = saved(steep_net(), tmp_path)
    codes = tmp_path / "codes.onnx"
    onnx.save(by_hand(), codes)
    x = np.random.default_rng(1).random((16, 32)).astype(np.float32)
    cosine = {}
    for target in ("arm64-dotprod", "x86-avx2"):
        found = verbs.evaluate(
            [model.path, codes], {"x": x}, target=None if target == "cpu" else target
        )
        cosine[target] = found["rows"][1]["agreement"]["cosine"]
        assert found["foretold"]
    assert cosine["arm64-dotprod"] > 0.99 > 0.9 > cosine["x86-avx2"]


def by_hand() -> onnx.ModelProto:
    """The same, its first product in 8 bits."""
    net = steep_net()
    constants = {i.name: numpy_helper.to_array(i) for i in net.graph.initializer}
    scale = np.float32(constants["first"].max() / 127)
    more = {
        "first_codes": np.rint(constants["first"] / scale).astype(np.int8),
        "scale": scale,
        "no": np.int8(0),
        "x_scale": np.float32(1 / 255),
        "x_zero": np.uint8(0),
    }
    net.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in more.items())
    net.graph.node[0].input[:] = ["x_real", "first_real"]
    front = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_codes"]),
        helper.make_node("DequantizeLinear", ["x_codes", "x_scale", "x_zero"], ["x_real"]),
        helper.make_node("DequantizeLinear", ["first_codes", "scale", "no"], ["first_real"]),
    ]
    nodes = [*front, *net.graph.node]
    del net.graph.node[:]
    net.graph.node.extend(nodes)
    return net
