"""An ONNX file in, a smaller one out: pruned and taught by its own answers, without labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import edgedl
from edgedl.core.errors import BadOption, BadSamples, EdgeError, Unsupported
from edgedl.core.progress import silent
from edgedl.line.begin import begun
from edgedl.line.brought import FIRST_LINE, passes_for, write_recipe
from edgedl.line.foresee import foresee
from edgedl.line.make import make
from edgedl.line.shrunk import judged_by
from edgedl.recipe import read_recipe
from edgedl.runtime import any_engine
from edgedl.train.data.load import load
from edgedl.train.data.settings import Data
from edgedl.train.shrink.drawn import drawn_loss
from edgedl.yamls import read_yaml

ROWS, CLASSES = 400, 3


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)


def blobs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, ROWS)
    x = 4 * rng.standard_normal((CLASSES, 6))[labels] + rng.standard_normal((ROWS, 6))
    return x.astype(np.float32), labels


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A trained network of three layers, wide enough that half of it is faster, as a file."""
    x, labels = (torch.from_numpy(one) for one in blobs())
    torch.manual_seed(0)
    wide = 512
    network = nn.Sequential(nn.Linear(6, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU(),
                            nn.Linear(wide, CLASSES))  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), labels).backward()
        optimizer.step()
    nodes, constants, last = [], [], "x"
    for i in (0, 2, 4):
        layer = network[i]
        assert isinstance(layer, nn.Linear)
        for name, value in (("w", layer.weight), ("b", layer.bias)):
            constants.append(numpy_helper.from_array(value.detach().numpy(), f"{name}{i}"))
        out = "scores" if i == 4 else f"dense{i}"
        nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [out], f"fc{i}", transB=1))
        if i != 4:
            nodes.append(helper.make_node("Relu", [out], [f"relu{i}"], f"act{i}"))
        last = f"relu{i}"
    path = tmp_path / "m.onnx"
    onnx.save(_model(nodes, constants, "scores"), path)
    np.savez(tmp_path / "s.npz", x=x.numpy())
    np.savez(tmp_path / "l.npz", x=x.numpy(), labels=labels.numpy())
    return path


def _model(nodes: list[onnx.NodeProto], constants: list[TensorProto], out: str) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "m",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)], constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_unlabelled_samples_are_enough(model: Path) -> None:
    path = write_recipe(model, "s.npz", Path("small.edl"), macs=0.3, epochs=3, target="onnxruntime")
    text = path.read_text()
    assert text.startswith(FIRST_LINE)
    path.write_text(text.replace("bench: {", "bench: {seconds: 0.5, "))
    found = make(path)
    first, pruned = found.shrink
    assert pruned.parameters < 0.5 * first.parameters
    assert pruned.figure is None
    for row in found.shrink:
        assert row.original is not None
        assert row.original["samples"] == ROWS // 5
        assert row.original["top1"] >= 0.95
    assert found.original is not None
    assert found.original["file"] == "m.onnx"
    assert found.original["speedup"]["a"] != found.original["own"]["a"]
    assert "as original" in found.text()
    assert "beside m.onnx" in found.text()
    assert json.dumps(found.to_json())
    # held against the file, not against the pruned network in float32
    rows = load(Data(arrays="s.npz", task="unlabelled"), seed=0, cache=Path("cache")).test.rows
    with any_engine().open_model("m.onnx", settings={}, threads=1) as session:
        wanted = [session.run({"x": blobs()[0][row][None]})["scores"].argmax() for row in rows]
    with edgedl.open("small.edl", threads=1) as session:
        given = [session.run({"x": blobs()[0][row][None]})["scores"].argmax() for row in rows]
    same = float(np.mean(np.array(wanted) == np.array(given)))
    assert found.original["agreement"]["top1"] == pytest.approx(same)


def test_labels_tell_accuracy_and_teach_nothing(model: Path) -> None:
    path = write_recipe(model, "l.npz", Path("small.onnx"), macs=0.5)
    data = read_yaml(path).data
    assert data["data"]["task"] == "classification"
    assert data["distil"]["weight"] == 1
    recipe = read_recipe(path)
    assert (recipe.distil is None, recipe.train.epochs) == (False, 0)
    # a float file is what ships, and each step is judged by it
    assert judged_by(begun(recipe, silent)).precision == "float32"
    bundle = read_recipe(write_recipe(model, "l.npz", Path("small.edl"), macs=0.5))
    assert judged_by(begun(bundle, silent)).precision == "int8"
    inputs, labels = blobs()
    some = labels < CLASSES - 1
    np.savez("few.npz", x=inputs[some], labels=labels[some])
    fewer = write_recipe(model, "few.npz", Path("few.edl"))
    assert f"class_count: {CLASSES}" in fewer.read_text()
    assert foresee(fewer, until="train").stages[0].name == "data"
    np.savez("v.npz", x=blobs()[0], labels=blobs()[0][:, :1])
    values = read_yaml(write_recipe(model, "v.npz", Path("small.onnx"), answers="values")).data
    # the file answers in the labels' own units
    assert values["data"]["task"] == "regression"
    assert values["data"]["standardize"] is False


def test_the_dry_run_needs_no_labels_either(model: Path) -> None:
    path = write_recipe(model, "s.npz", Path("small.onnx"), macs=0.5)
    assert [stage.name for stage in foresee(path, until="train").stages][:2] == ["data", "train"]


def test_the_recipe_is_not_written_over_another_file(model: Path) -> None:
    Path("small.yaml").write_text("mine: 1\n")
    with pytest.raises(EdgeError, match="did not write it") as caught:
        edgedl.shrink(model, "s.npz", "small.edl")
    assert caught.value.where == "small.yaml"
    assert Path("small.yaml").read_text() == "mine: 1\n"
    assert not Path("small.edl").exists()


def test_options_that_do_not_fit_are_told(model: Path) -> None:
    for more, output in (
        ({"latency": 0.5, "macs": 0.5}, "a.edl"), ({}, "m.onnx"), ({}, "a.tflite"),
        ({"answers": "class"}, "a.edl"),
    ):  # fmt: skip
        with pytest.raises(BadOption):
            edgedl.shrink(model, "s.npz", output, **more)  # type: ignore[arg-type]
    assert not Path("a.yaml").exists()


def test_samples_that_do_not_fit_the_model_are_told(model: Path) -> None:
    np.savez("named.npz", y=np.zeros((4, 6), np.float32))
    np.savez("long.npz", x=np.zeros((4, 7), np.float32))
    np.savez("bytes.npz", x=np.zeros((4, 6), np.uint8))
    for name, said in (("named", "`y` is not an input"), ("long", "the model takes"),
                       ("bytes", "is uint8"), ("gone", "no such file")):  # fmt: skip
        with pytest.raises(BadSamples, match=said):
            edgedl.shrink(model, f"{name}.npz", "a.edl")
    with pytest.raises(BadSamples, match=r"no `\.npz` file") as caught:
        edgedl.shrink(model, ".", "a.edl")
    assert "folder" in str(caught.value.hint)
    with pytest.raises(BadSamples, match="no `labels`") as caught:
        edgedl.shrink(model, "l.npz", "a.edl", test="s.npz")
    assert caught.value.where == "s.npz"


def test_operators_that_cannot_be_brought_back_are_named(model: Path) -> None:
    del model
    det = helper.make_node("Hardmax", ["x"], ["scores"], "hard")
    onnx.save(_model([det], [], "scores"), "odd.onnx")
    with pytest.raises(EdgeError, match="operator `Hardmax` of node `hard`") as caught:
        edgedl.shrink("odd.onnx", "s.npz", "a.edl")
    assert "compressing it without training still works" in str(caught.value.hint)


def test_a_quantized_model_is_refused_with_its_operator(model: Path) -> None:
    del model
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    zero = numpy_helper.from_array(np.uint8(128), "zero")
    weight = numpy_helper.from_array(np.ones((6, 3), np.float32), "w")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quant"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], "dequant"),
        helper.make_node("MatMul", ["d", "w"], ["scores"], "fc"),
    ]
    onnx.save(_model(nodes, [scale, zero, weight], "scores"), "int8.onnx")
    with pytest.raises(Unsupported, match="quantized already, by operator `QuantizeLinear`") as got:
        edgedl.shrink("int8.onnx", "s.npz", "a.edl")
    assert got.value.hint == "bring the float model that it was made of"


def test_epochs_are_as_many_as_samples_want() -> None:
    assert passes_for(100, apart=False) == 100
    assert passes_for(10_000, apart=True) == round(80_000 / 9_000)
    assert passes_for(1_000_000, apart=False) == 4


def test_a_loss_without_labels_tells_channels_apart() -> None:
    """Against its own answers a network would have no gradient; against drawn ones a channel that
    nothing comes through has none, and one that decides has some."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 4)
    with torch.no_grad():
        layer.weight[:, 0] = 0
        layer.weight[:, 1] = torch.tensor([3.0, -3, 1, 0])
    x = torch.randn(64, 3)
    for kind in ("classes", "flags", "values", None):
        gates = torch.ones(3, requires_grad=True)
        value = drawn_loss(kind, 0)(layer(x * gates), x)
        [given] = torch.autograd.grad(value, gates)
        assert given[0] == 0
        assert given[1].abs() > 0
    twice = [drawn_loss("classes", 1)(layer(x), x).item() for _ in range(2)]
    assert twice[0] == twice[1]


def test_drawn_classes_come_as_often_as_the_network_says() -> None:
    """Of shares 0.75 and 0.25 the mean loss is their entropy, 0.5623."""
    shares = torch.tensor([[0.75, 0.25]]).repeat(20_000, 1)
    for outputs in (shares, shares.log() + 5):
        kind = None if outputs is shares else "classes"
        assert float(drawn_loss(kind, 0)(outputs, shares)) == pytest.approx(0.5623, abs=0.01)
