"""An ONNX file comes back into torch with its answers, and can be trained, cut and exported."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image as Picture
from torch import nn

from edgedl.core.errors import BadValue, EdgeError, Unsupported
from edgedl.core.progress import silent
from edgedl.export import export
from edgedl.line.begin import begun, network_of
from edgedl.passes.graph import open_model
from edgedl.recipe import read_recipe
from edgedl.runtime import any_engine
from edgedl.train.graphs.brought import Brought
from edgedl.train.graphs.layers import Scale, Shift
from edgedl.train.networks import build
from edgedl.train.networks.deploy import deployed
from edgedl.train.networks.trial import example
from edgedl.train.shapes import TensorShape
from tests.models import NETS, saved
from tests.train.networks.cases import CASES, Case
from tests.train.networks.made import made
from tests.train.networks.test_export import settle

GOLDEN = Path(__file__).parents[2] / "golden"
RANDOM = np.random.default_rng(0)
Inputs = Mapping[str, TensorShape]


def inputs_of(path: Path) -> dict[str, TensorShape]:
    shapes = {}
    for tensor in open_model(path).signature.inputs:
        assert tensor.shape is not None
        sizes = tuple(size if isinstance(size, int) else 16 for size in tensor.shape[1:])
        shapes[tensor.name] = TensorShape(sizes, tensor.dtype)
    return shapes


def brought(path: Path, inputs: Inputs | None = None) -> Brought:
    network = build("onnx", inputs or inputs_of(path), None, {"file": str(path)})
    assert isinstance(network, Brought)
    return network.eval()


def answers(network: nn.Module, feeds: tuple[torch.Tensor, ...]) -> dict[str, np.ndarray]:
    shipped, _ = deployed(network, {})
    with torch.no_grad():
        return {name: value.numpy() for name, value in shipped(*feeds).items()}


def engine_answers(path: Path, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with any_engine().open_model(path, settings={}, threads=1) as session:
        return dict(session.run(feed))


def assert_alike(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(found) == list(wanted)
    for name, answer in wanted.items():
        assert found[name].shape == answer.shape
        size = float(np.abs(answer).max())
        assert np.abs(found[name] - answer).max() <= 1e-4 * size


def written(network: nn.Module, inputs: Inputs, path: Path, batch: int = 1) -> Path:
    feeds = [dict(zip(inputs, (v.numpy() for v in example(inputs, batch)), strict=True))]
    export(network, feeds, path)
    return path


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def graph(
    nodes: list[Any],
    inputs: dict[str, list[Any]],
    outputs: list[str],
    weights: dict[str, np.ndarray],
    path: Path,
    opset: int = 18,
) -> Path:
    def value(name: str, shape: list[Any] | None) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    made = helper.make_graph(
        nodes,
        "g",
        [value(name, shape) for name, shape in inputs.items()],
        [value(name, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=9), path)
    return path


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


# One of each kind of layer: exporting takes its time.
KINDS = ("resnet8", "mobilenetv2", "vit", "unet", "lstm", "gru", "text_encoder")


@pytest.mark.parametrize("case", [c for c in CASES if c.exported and c.name in KINDS], ids=str)
def test_our_networks_come_back(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = made(case, monkeypatch)
    settle(trained)
    network, inputs = deployed(trained.eval(), case.inputs)
    path = written(network.eval(), inputs, tmp_path / "first.onnx")
    back = brought(path, inputs)
    for batch in (1, 3):
        feeds = example(inputs, batch)
        wanted = engine_answers(path, {n: v.numpy() for n, v in zip(inputs, feeds, strict=True)})
        assert_alike(answers(back, feeds), wanted)
    again = written(deployed(back, inputs)[0], inputs, tmp_path / "again.onnx")
    before, after = operators(path), operators(again)
    assert after.total() <= before.total() + 4
    for kind in ("Conv", "LSTM", "GRU", "MatMul", "Gemm", "LayerNormalization"):
        assert after[kind] == before[kind]
    signature, same = open_model(path).signature, open_model(again).signature
    assert [t.name for t in signature.inputs] == [t.name for t in same.inputs]
    assert [t.name for t in signature.outputs] == [t.name for t in same.outputs]


@pytest.mark.parametrize(
    "name", ["detector", "efficientnet", "mobilenet_v2", "mobilenet_v3", "vit"]
)
def test_files_for_one_sample_come_back_for_any_batch(name: str, tmp_path: Path) -> None:
    path = GOLDEN / f"{name}.onnx"
    inputs = inputs_of(path)
    back = brought(path)
    several = example(inputs, 3)
    together = answers(back, several)
    for i in range(3):
        one = tuple(value[i : i + 1] for value in several)
        wanted = engine_answers(path, {n: v.numpy() for n, v in zip(inputs, one, strict=True)})
        assert_alike({n: value[i : i + 1] for n, value in together.items()}, wanted)
    again = written(deployed(back, inputs)[0], inputs, tmp_path / "again.onnx")
    assert operators(again).total() <= operators(path).total() + 3
    shape = open_model(again).signature.outputs[0].shape
    assert shape is not None
    assert not isinstance(shape[0], int)


@pytest.mark.parametrize("name", sorted(set(NETS) - {"if"}))
def test_small_graphs_come_back(name: str, tmp_path: Path) -> None:
    path = saved(NETS[name](), tmp_path).path
    inputs = inputs_of(path)
    feeds = example(inputs, 1)
    wanted = engine_answers(path, {n: v.numpy() for n, v in zip(inputs, feeds, strict=True)})
    assert_alike(answers(brought(path), feeds), wanted)


def test_a_batch_may_stand_behind_other_axes(tmp_path: Path) -> None:
    """As attention of torch exports: steps first, then made one with the batch, and apart again."""
    node = helper.make_node
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("Reshape", ["t", "flat"], ["f"]),
             node("Gemm", ["f", "w", "b"], ["g"]), node("Reshape", ["g", "apart"], ["a"]),
             node("Transpose", ["a"], ["y"], perm=[1, 0, 2])]  # fmt: skip
    shapes = {"flat": np.array([-1, 6], np.int64), "apart": np.array([4, -1, 6], np.int64)}
    weights = {**shapes, "w": floats(6, 6), "b": floats(6)}
    path = graph(nodes, {"x": ["batch", 4, 6]}, ["y"], weights, tmp_path / "g.onnx")
    feeds = example(inputs_of(path), 5)
    assert_alike(answers(brought(path), feeds), engine_answers(path, {"x": feeds[0].numpy()}))


def test_every_weight_learns_and_names_are_the_nodes(tmp_path: Path) -> None:
    first, second = brought(GOLDEN / "vit.onnx"), brought(GOLDEN / "vit.onnx")
    names = dict(first.named_parameters())
    assert list(names) == [name for name, _ in second.named_parameters()]
    assert {"layers.conv2d.weight", "layers.layer_norm.weight"} <= set(names)
    first.train()
    first(*example(inputs_of(GOLDEN / "vit.onnx"), 2)).square().mean().backward()
    assert [name for name, value in names.items() if value.grad is None] == []
    assert all(
        float(value.grad.abs().sum()) > 0 for value in names.values() if value.grad is not None
    )
    second.load_state_dict(first.state_dict())


def test_norms_that_a_file_has_stay_norms(tmp_path: Path) -> None:
    back = brought(saved(NETS["batchnorm"](), tmp_path).path)
    norms = [layer for layer in back.layers.values() if isinstance(layer, nn.BatchNorm2d)]
    assert norms
    before = norms[0].running_mean
    assert before is not None
    before = before.clone()
    back.train()(*example(back.inputs, 4))
    assert norms[0].running_mean is not None
    assert not torch.equal(before, norms[0].running_mean)


def test_factors_and_offsets_by_channel_are_layers(tmp_path: Path) -> None:
    """y = relu(x) * s + b, with s and b along the channels."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "act"),
        helper.make_node("Mul", ["r", "s"], ["m"], "scaled"),
        helper.make_node("Add", ["b", "m"], ["y"], "moved"),
    ]
    weights = {"s": floats(4, 1, 1), "b": floats(1, 4, 1, 1)}
    path = graph(nodes, {"x": [1, 4, 3, 3]}, ["y"], weights, tmp_path / "g.onnx")
    back = brought(path)
    scale, shift = back.layers["scaled"], back.layers["moved"]
    assert isinstance(scale, Scale)
    assert isinstance(shift, Shift)
    assert (scale.axis, shift.axis) == (-3, -3)
    x = torch.randn(2, 4, 3, 3)
    wanted = torch.relu(x) * torch.tensor(weights["s"]) + torch.tensor(weights["b"])
    assert torch.equal(back(x), wanted)


def test_groups_normalized_by_hand_are_one_layer(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "grouped"], ["g"], "split"),
        helper.make_node("InstanceNormalization", ["g", "one", "zero"], ["n"], "norm"),
        helper.make_node("Reshape", ["n", "whole"], ["w"], "join"),
        helper.make_node("Mul", ["w", "s"], ["m"], "scale"),
        helper.make_node("Add", ["m", "b"], ["y"], "shift"),
    ]
    weights = {
        "grouped": np.array([0, 2, -1]), "whole": np.array([1, 6, 5, 5]),
        "one": np.ones(2, np.float32), "zero": np.zeros(2, np.float32),
        "s": floats(6, 1, 1), "b": floats(6, 1, 1),
    }  # fmt: skip
    path = graph(nodes, {"x": [1, 6, 5, 5]}, ["y"], weights, tmp_path / "g.onnx")
    back = brought(path)
    [layer] = back.layers.values()
    assert isinstance(layer, nn.GroupNorm)
    assert (layer.num_groups, layer.num_channels) == (2, 6)


def test_zeros_that_are_joined_are_padding(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Concat", ["c", "zeros"], ["y"], "wider", axis=1),
    ]
    weights = {"w": floats(3, 2, 1, 1), "zeros": np.zeros((1, 2, 4, 4), np.float32)}
    path = graph(nodes, {"x": [1, 2, 4, 4]}, ["y"], weights, tmp_path / "g.onnx")
    back = brought(path)
    assert back(torch.randn(3, 2, 4, 4)).shape == (3, 5, 4, 4)
    assert back.whole == {"conv": "output `y`"}


def test_heads_are_told(tmp_path: Path) -> None:
    back = brought(saved(NETS["attention"](), tmp_path).path)
    vit = brought(GOLDEN / "vit.onnx")
    assert set(vit.heads.values()) == {10}
    assert all(back.layers[name].out_features % size == 0 for name, size in back.heads.items())


@pytest.mark.parametrize(
    ("kind", "attributes", "reason"),
    [
        ("GRU", {"hidden_size": 2}, "linear_before_reset is 0"),
        ("GRU", {"hidden_size": 2, "linear_before_reset": 1, "clip": 3.0}, "its clip"),
        ("LSTM", {"hidden_size": 2, "activations": ["Sigmoid", "Relu", "Tanh"]}, "its activations"),
    ],
)
def test_recurrence_that_torch_lacks_is_refused(
    kind: str, attributes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    gates = {"GRU": 3, "LSTM": 4}[kind]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], "turn", perm=[1, 0, 2]),
        helper.make_node(kind, ["t", "w", "r"], ["", "h"], "cell", **attributes),
        helper.make_node("Squeeze", ["h", "first"], ["y"], "flat"),
    ]
    weights = {"w": floats(1, gates * 2, 3), "r": floats(1, gates * 2, 2), "first": np.array([0])}
    path = graph(nodes, {"x": ["n", 5, 3]}, ["y"], weights, tmp_path / "g.onnx")
    with pytest.raises(Unsupported, match=f"{kind} node `cell`.*{reason}|activations"):
        brought(path)


def test_branches_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="operator `If` of node `"):
        brought(saved(NETS["if"](), tmp_path).path)


def test_quantized_files_are_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "codes"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], "values"),
    ]
    weights = {"s": np.float32(0.1).reshape(()), "z": np.uint8(3).reshape(())}
    path = graph(nodes, {"x": ["n", 4]}, ["y"], weights, tmp_path / "g.onnx")
    with pytest.raises(
        Unsupported, match="quantized already, by operator `QuantizeLinear` of node `codes`"
    ):
        brought(path)


def test_samples_that_mix_are_refused_by_name(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], "all", keepdims=1),
             helper.make_node("Sub", ["x", "m"], ["y"], "centred")]  # fmt: skip
    path = graph(nodes, {"x": [1, 4]}, ["y"], {}, tmp_path / "g.onnx")
    with pytest.raises(Unsupported, match="one sample at a time at ReduceMean node `all`"):
        brought(path)


def test_what_does_not_fit_the_file_is_said(tmp_path: Path) -> None:
    path = GOLDEN / "mobilenet_v2.onnx"
    with pytest.raises(BadValue, match="the file takes `image float32") as caught:
        brought(path, {"image": TensorShape((3, 28, 28))})
    assert caught.value.keys == ("file",)
    with pytest.raises(BadValue, match="the data has `picture`"):
        brought(path, {"picture": TensorShape((1, 28, 28))})
    with pytest.raises(BadValue, match="no such file"):
        brought(tmp_path / "none.onnx", {"x": TensorShape((1,))})


def test_an_image_folder_is_fed_by_the_files_own_name(tmp_path: Path) -> None:
    """A recipe without classes: images in a flat folder, for a file whose input is `x`."""
    (tmp_path / "images").mkdir()
    for i in range(12):
        pixels = RANDOM.integers(0, 256, (28, 28), np.uint8)
        Picture.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    model = onnx.load(GOLDEN / "mobilenet_v2.onnx")
    model.graph.input[0].name = "x"
    for node in model.graph.node:
        node.input[:] = ["x" if name == "image" else name for name in node.input]
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "r.yaml").write_text(
        "data: {folder: images, task: unlabelled, image: {color: gray, scale: 1/255,"
        " resize: {exactly: [28, 28]}}}\nnetwork: {name: onnx, file: m.onnx}\n"
    )
    line = begun(read_recipe(tmp_path / "r.yaml"), silent)
    assert list(line.dataset.inputs) == ["x"]
    assert line.dataset.outputs is None
    network = network_of(line).eval()
    feed = line.dataset.test.feed(0)
    wanted = engine_answers(tmp_path / "m.onnx", feed)
    assert_alike(answers(network, (torch.from_numpy(feed["x"]),)), wanted)
    with pytest.raises(EdgeError, match="teaches nothing by itself"):
        _ = line.settings


def test_networks_that_need_labels_say_so() -> None:
    with pytest.raises(BadValue, match="how many answers it gives"):
        build("resnet8", {"image": TensorShape((1, 8, 8))}, None, {})


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet", "detector", "vit"])
def test_channels_can_be_cut(name: str, tmp_path: Path) -> None:
    pruning = pytest.importorskip("torch_pruning", reason="it finds what is cut together")
    path = GOLDEN / f"{name}.onnx"
    inputs, back = inputs_of(path), brought(GOLDEN / f"{name}.onnx")
    before = sum(value.numel() for value in back.parameters())
    heads = {back.layers[n]: back.layers[n].out_features // size for n, size in back.heads.items()}
    weights = [
        (layer.weight, layer.weight.ndim + layer.axis)
        for layer in back.layers.values()
        if isinstance(layer, (Scale, Shift))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the library
        pruner = pruning.pruner.MagnitudePruner(
            back, example(inputs, 1), pruning.importance.MagnitudeImportance(),
            pruning_ratio=0.3, ignored_layers=[back.layers[n] for n in back.whole],
            num_heads=heads, prune_num_heads=bool(heads), prune_head_dims=False,
            head_pruning_ratio=0.3, unwrapped_parameters=weights,
        )  # fmt: skip
        pruner.step()
    after = sum(value.numel() for value in back.parameters())
    assert after < 0.75 * before
    feeds = example(inputs, 3)
    back.train()
    loss: Any = sum(value.square().mean() for value in deployed(back, inputs)[0](*feeds).values())
    loss.backward()
    cut = written(deployed(back.eval(), inputs)[0], inputs, tmp_path / "cut.onnx", 1)
    feed = {n: v.numpy() for n, v in zip(inputs, feeds, strict=True)}
    assert_alike(engine_answers(cut, feed), answers(back, feeds))
    assert operators(cut).total() <= operators(path).total() + 3
