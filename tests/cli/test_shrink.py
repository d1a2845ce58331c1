"""`edgedl shrink`, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedl.cli import main


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((4, 32), (32, 3))]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "act"),
        helper.make_node("MatMul", ["r", "w1"], ["scores"], "last"),
    ]
    graph = helper.make_graph(
        nodes, "m", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(one, f"w{i}") for i, one in enumerate(weights)],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), "m.onnx")
    np.savez("s.npz", x=rng.standard_normal((120, 4)).astype(np.float32))


def status(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    code = caught.value.code
    return code if isinstance(code, int) else 0


def test_a_float_model_in_and_a_float_model_out(capsys: pytest.CaptureFixture[str]) -> None:
    code = status("shrink", "m.onnx", "--samples", "s.npz", "--macs", "0.5", "--epochs", "1",
                  "--target", "onnxruntime", "-o", "small.onnx", "--json")  # fmt: skip
    said = capsys.readouterr()
    assert code == 0
    found = json.loads(said.out.strip().splitlines()[-1])
    assert found["output"] == "small.onnx"
    assert found["recipe"] == "small.yaml"
    assert found["original"]["file"] == "m.onnx"
    assert found["original"]["agreement"]["samples"] == 24
    assert said.err.startswith("recipe: small.yaml\n")
    onnx.checker.check_model("small.onnx")
    assert status("make", "small.yaml", "--until", "export", "-o", "again.onnx") == 0
    assert Path("again.onnx").read_bytes() == Path("small.onnx").read_bytes()


def test_mistakes_have_a_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str) -> tuple[int, str]:
        return status("shrink", *arguments), capsys.readouterr().err

    code, said = told("m.onnx")
    assert code == 2
    assert "hint: --samples S.npz" in said
    code, said = told("m.onnx", "--samples", "s.npz", "--macs", "0.5", "--latency", "0.5")
    assert code == 2
    assert "both say how much stays" in said
    code, said = told("m.onnx", "--samples", "s.npz", "--latency", "1.5")
    assert code == 2
    code, said = told("gone.onnx", "--samples", "s.npz")
    assert code == 1
    assert "gone.onnx" in said
    Path("m.yaml").write_text("mine: 1\n")
    code, said = told("m.onnx", "--samples", "s.npz")
    assert code == 1
    assert said.startswith("error: m.yaml: is there already")
    assert "hint: -o" in said
