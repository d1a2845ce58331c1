"""Counts of a model, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgedl.passes.clean import Clean
from edgedl.passes.inspect import inspect
from edgedl.passes.quantize import Quantize
from tests import models


def test_a_convolutional_net(tmp_path: Path) -> None:
    found = inspect(models.saved(models.conv_net(), tmp_path))
    assert found.operators == {
        "Conv": 2, "Relu": 2, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1,
    }  # fmt: skip
    assert found.parameters == (8 * 3 * 9 + 8) + (8 * 8 * 9 + 8) + (8 * 5 + 5)
    assert found.macs == 64 * 8 * 3 * 9 + 16 * 8 * 8 * 9 + 8 * 5
    assert found.weight_bytes == {"float": 4 * found.parameters}
    assert (found.opset, found.quantized, found.in_bodies) == (17, False, 0)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["macs"] == found.macs


@pytest.mark.parametrize(
    ("net", "macs"),
    [
        ("depthwise", 64 * (8 * 3 * 9 + 8 * 9 + 12 * 8) + 12 * 5),
        ("gemm", 16 * 12 + 12 * 5),
        ("gemm_transposed", 16 * 12 + 12 * 5),
        ("matmul", 4 * (16 * 12 + 12 * 5)),
        ("attention", 6 * (3 * 16 * 8 + 8 * 6 + 6 * 8 + 8 * 16 + 16 * 5)),
        ("old", 64 * 8 * 3 * 9 + 8 * 5),
    ],
)
def test_multiply_accumulates(net: str, macs: int, tmp_path: Path) -> None:
    assert inspect(models.saved(models.NETS[net](), tmp_path)).macs == macs


def test_a_dynamic_batch_counts_as_one(tmp_path: Path) -> None:
    fixed = inspect(models.saved(models.conv_net(), tmp_path)).macs
    assert inspect(models.saved(models.conv_net("batch"), tmp_path)).macs == fixed


def test_unknown_sizes_have_no_count(tmp_path: Path) -> None:
    assert inspect(models.saved(models.dynamic_net(), tmp_path)).macs is None


STATE, WIDE = 4, 3


def recurrent(kind: str, gates: int) -> models.Sketch:
    net = models.Sketch()
    weights = (net.weight("W", 1, gates * STATE, WIDE), net.weight("R", 1, gates * STATE, STATE))
    net.node(kind, ["x", *weights], "y", hidden_size=STATE)
    return net


def branching() -> models.Sketch:
    net, inner = models.Sketch(), models.Sketch()
    bodies = {}
    for name, width in (("then_branch", 7), ("else_branch", 5)):
        made = helper.make_node(
            "MatMul", ["x", inner.weight(f"{name}_w", WIDE, width)], [name], name
        )
        shape = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        bodies[name] = helper.make_graph([made], name, [], [shape])
    net.weights = inner.weights
    net.constant("is", np.asarray(True))
    net.node("If", ["is"], "y", **bodies)
    return net


def scanning() -> models.Sketch:
    net = models.Sketch()
    step = helper.make_node("MatMul", ["one", net.weight("w", 2, WIDE, 7)], ["made"], "made")
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [step],
        "body",
        [info("one", TensorProto.FLOAT, [1, WIDE])],
        [info("made", TensorProto.FLOAT, [2, 1, 7])],
    )
    net.node("Scan", ["x"], "y", body=body, num_scan_inputs=1)
    return net


def equation() -> models.Sketch:
    net = models.Sketch()
    net.node("Einsum", ["x", net.weight("w", WIDE, 7)], "y", equation="tbi,io->tbo")
    return net


def heads() -> models.Sketch:
    net = models.Sketch()
    net.node("Attention", ["x", "x", "x"], "y", q_num_heads=1, kv_num_heads=1)
    return net


@pytest.mark.parametrize(
    ("net", "macs"),
    [
        (recurrent("LSTM", 4), 5 * 4 * STATE * (WIDE + STATE)),
        (recurrent("GRU", 3), 5 * 3 * STATE * (WIDE + STATE)),
        (branching(), 5 * WIDE * 7),
        (scanning(), 5 * 2 * WIDE * 7),
        (equation(), 5 * WIDE * 7),
        (heads(), 5 * 1 * 1 * (WIDE + WIDE)),
    ],
    ids=["lstm", "gru", "if", "scan", "einsum", "attention"],
)
def test_products_within_operators_are_counted(
    net: models.Sketch, macs: int, tmp_path: Path
) -> None:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        net.nodes,
        "within",
        [info("x", TensorProto.FLOAT, [5, 1, WIDE])],
        [info("y", TensorProto.FLOAT, None)],
        net.weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    assert inspect(models.saved(made, tmp_path)).macs == macs


def test_integer_operators_and_functions_count_as_what_they_stand_for(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    scale, zero = np.asarray(0.1, np.float32), np.asarray(0, np.int8)
    net = models.Sketch()
    for name, array in {"s": scale, "z": zero, "w": np.ones((6, 4), np.int8)}.items():
        net.constant(name, array)
    net.node("QuantizeLinear", ["x", "s", "z"], "q")
    net.node("QLinearMatMul", ["q", "s", "z", "w", "s", "z", "s", "z"], "p")
    net.node("DequantizeLinear", ["p", "s", "z"], "d")
    net.node("Block", ["d"], "y", domain="own")
    inner = helper.make_node("MatMul", ["a", "t"], ["b"])
    turned = helper.make_node("Transpose", ["a"], ["t"], perm=[1, 0])
    block = helper.make_function(
        "own", "Block", ["a"], ["b"], [turned, inner], [helper.make_opsetid("", 17)]
    )
    graph = helper.make_graph(
        net.nodes,
        "integers",
        [info("x", TensorProto.FLOAT, [2, 6])],
        [info("y", TensorProto.FLOAT, [2, 2])],
        net.weights,
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("own", 1)],
        functions=[block],
        ir_version=8,
    )
    assert inspect(models.saved(made, tmp_path)).macs == 2 * 6 * 4 + 2 * 4 * 2


def test_bodies_are_counted(tmp_path: Path) -> None:
    found = inspect(models.saved(models.if_net(), tmp_path))
    assert found.operators["MatMul"] == 2
    assert found.in_bodies == 2


def test_a_constant_node_is_a_parameter(tmp_path: Path) -> None:
    net = models.old_net()
    whole = inspect(models.saved(net, tmp_path)).parameters
    assert whole == (8 * 3 * 9 + 8) + 8 * 5
    onnx.checker.check_model(net)


def test_a_quantized_model_says_so(tmp_path: Path) -> None:
    model = Clean()(models.saved(models.conv_net(), tmp_path))
    found = inspect(Quantize(models.samples(model.signature))(model))
    assert found.quantized
    assert found.weight_bytes["int8"] >= 8 * 3 * 9 + 8 * 8 * 9 + 8 * 5
    assert [step.name for step in found.history] == ["clean", "place"]
