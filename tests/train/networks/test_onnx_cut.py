"""What is cut of an ONNX file: heads, flattened places, and tables that answer, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgedl.train.networks.deploy import deployed
from edgedl.train.networks.trial import example
from edgedl.train.shapes import TensorShape
from edgedl.train.shrink.cutting import cut, proved
from edgedl.train.shrink.groups import groups_of
from tests.train.networks.test_onnx import (
    answers,
    assert_alike,
    brought,
    engine_answers,
    floats,
    graph,
    inputs_of,
    written,
)
from tests.train.shrink.cut_cases import silenced


def attention(path: Path, batch: int | str, order: str) -> Path:
    """Three heads of two channels, their queries, keys and values of one layer, as files have it:
    `steps`: as torch's own module, steps first and heads beside the batch; `vit`: batch first."""
    node = helper.make_node
    free = batch if isinstance(batch, int) else -1
    steps = order == "steps"
    parted = [4, free, 3, 6] if steps else [free, 4, 3, 3, 2]
    sizes = {"parted": parted, "heads": [4, free if free < 0 else 3 * free, 2],
             "flat": [free if free < 0 else 4 * free, 6], "apart": [4, free, 6],
             "whole": [free, 4, 6]}  # fmt: skip
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0, 2])] if steps else []
    nodes += [node("MatMul", ["t" if steps else "x", "w"], ["qkv"], "qkv"),
              node("Reshape", ["qkv", "parted"], ["three"])]  # fmt: skip
    for i, name in enumerate("qkv"):
        nodes.append(node("Gather", ["three", f"at{i}"], [f"{name}0"], axis=2))
        if steps:
            nodes.append(node("Reshape", [f"{name}0", "heads"], [f"{name}1"]))
        source = f"{name}1" if steps else f"{name}0"
        turned = [1, 0, 2] if steps else [0, 2, 1, 3]
        nodes.append(node("Transpose", [source], [f"{name}2"], perm=turned))
    turned = [0, 2, 1] if steps else [0, 1, 3, 2]
    nodes += [node("Transpose", ["k2"], ["k3"], perm=turned), node("MatMul", ["q2", "k3"], ["s"]),
              node("Softmax", ["s"], ["p"], axis=-1), node("MatMul", ["p", "v2"], ["o"]),
              node("Transpose", ["o"], ["u"], perm=[1, 0, 2] if steps else [0, 2, 1, 3]),
              node("Reshape", ["u", "flat" if steps else "whole"], ["f"]),
              node("MatMul", ["f", "wo"], ["out"], "out")]  # fmt: skip
    if steps:
        nodes += [node("Reshape", ["out", "apart"], ["a"]),
                  node("Transpose", ["a"], ["b"], perm=[1, 0, 2])]  # fmt: skip
    nodes.append(node("MatMul", ["b" if steps else "out", "last"], ["y"], "last"))
    read = {name for one in nodes for name in one.input}
    weights = {name: np.array(value, np.int64) for name, value in sizes.items() if name in read}
    weights |= {f"at{i}": np.array(i, np.int64) for i in range(3)}
    weights |= {"w": floats(6, 18), "wo": floats(6, 6), "last": floats(6, 2)}
    return graph(nodes, {"x": [batch, 4, 6]}, ["y"], weights, path)


@pytest.mark.parametrize("batch", [1, "batch"])
@pytest.mark.parametrize("order", ["steps", "vit"])
def test_heads_of_one_layer_are_cut(batch: int | str, order: str, tmp_path: Path) -> None:
    path = attention(tmp_path / "g.onnx", batch, order)
    back = brought(path)
    feeds = example(inputs_of(path), 3)
    for i in range(3):
        [one] = (value[i : i + 1] for value in feeds)
        wanted = engine_answers(path, {"x": one.numpy()})
        assert_alike({"y": answers(back, feeds)["y"][i : i + 1]}, wanted)
    structure = proved(back, groups_of(back, feeds))
    group = structure.group("layers.qkv")
    assert (group.size, group.unit) == (6, 2)
    silenced(back, structure, {group.name: [2, 3]})
    before = answers(back, feeds)
    cut(back, structure, {group.name: [2, 3]})
    assert tuple(back.layers["qkv"].weight.shape) == (12, 6)
    assert_alike(answers(back, feeds), before)


def test_sizes_in_a_file_follow_what_is_cut(tmp_path: Path) -> None:
    """As `view(-1, 5 * 2 * 2)` is written, and as the first size is where it is one."""
    node = helper.make_node
    for batch, flat in (("batch", [-1, 20]), (1, [1, 20]), (1, [1, -1])):
        nodes = [node("Conv", ["x", "w"], ["c"], "conv"), node("Relu", ["c"], ["r"]),
                 node("Reshape", ["r", "flat"], ["f"]),
                 node("MatMul", ["f", "m"], ["y"], "fc")]  # fmt: skip
        weights = {"w": floats(5, 2, 3, 3), "flat": np.array(flat, np.int64), "m": floats(20, 3)}
        path = graph(nodes, {"x": [batch, 2, 4, 4]}, ["y"], weights, tmp_path / "g.onnx")
        back = brought(path)
        feeds = example(inputs_of(path), 3)
        structure = proved(back, groups_of(back, feeds))
        assert [(one.name, one.size) for one in structure.groups] == [("layers.conv", 5)]
        silenced(back, structure, {"layers.conv": [1, 4]})
        before = answers(back, feeds)
        cut(back, structure, {"layers.conv": [1, 4]})
        assert tuple(back.layers["fc"].weight.shape) == (3, 12)
        assert_alike(answers(back, feeds), before)


def test_a_table_and_what_answers_by_it_stay_one_weight(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [node("Gather", ["table", "ids"], ["e"], "table"),
             node("MatMul", ["e", "w"], ["h"], "mix"),
             node("MatMul", ["h", "turned"], ["y"], "answer")]  # fmt: skip
    table = floats(9, 4)
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(one, name) for name, one in
         (("table", table), ("w", floats(4, 4)), ("turned", table.T.copy()))],
    )  # fmt: skip
    path = tmp_path / "g.onnx"
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path
    )
    back = brought(path, {"ids": TensorShape((5,), "int64", 9)})
    assert back.layers["answer"].weight is back.layers["table"].weight
    feeds = example(back.inputs, 3)
    structure = proved(back, groups_of(back, feeds))
    cut(back, structure, {structure.groups[0].name: [1]})
    assert back.layers["answer"].weight is back.layers["table"].weight
    optimizer = torch.optim.SGD(back.parameters(), 0.1)
    back.train()(*feeds).square().mean().backward()
    optimizer.step()
    again = written(deployed(back.eval(), back.inputs)[0], back.inputs, tmp_path / "again.onnx")
    twice = brought(again, back.inputs)
    layers = [one.weight for one in twice.layers.values()]
    assert layers[-1] is layers[0]
    assert tuple(layers[0].shape) == (9, 3)
