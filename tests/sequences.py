"""Tiny networks with recurrent operators, made the same every time."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, FED = 12, 24


def recurrent_net(
    operator: str = "LSTM",
    *,
    hidden: int = 32,
    fed: int = FED,
    batch: int | str = 1,
    direction: str = "forward",
    given: Collection[str] = (),
    outputs: Collection[str] = ("y",),
    seed: int = 0,
    **attributes: object,
) -> onnx.ModelProto:
    """One recurrent operator named `it`, whose weights are drawn and whose W is four times R.

    Args:
        given: of `bias`, `lengths`, `initial_h`, `initial_c`, `peepholes` those that it is given as
            constants; with `?` behind it, as an input of the model.
        outputs: of `y`, `y_h` and `y_c` those that the model gives.
    """
    random = np.random.default_rng(seed)
    ways = 2 if direction == "bidirectional" else 1
    rows = GATES[operator] * hidden
    shapes = {
        "w": (ways, rows, fed),
        "r": (ways, rows, hidden),
        "bias": (ways, 2 * rows),
        "lengths": (batch,),
        "initial_h": (ways, batch, hidden),
        "initial_c": (ways, batch, hidden),
        "peepholes": (ways, 3 * hidden),
    }
    inputs, weights, operands = [], [], ["x"]
    for name, shape in shapes.items():
        kind = TensorProto.INT32 if name == "lengths" else TensorProto.FLOAT
        if f"{name}?" in given:
            inputs.append(helper.make_tensor_value_info(name, kind, shape))
        elif name in ("w", "r") or name in given:
            drawn = random.standard_normal(shape) / np.sqrt(hidden) * (1 if name == "w" else 0.5)
            array = np.full(shape, STEPS - 2) if name == "lengths" else drawn
            dtype = helper.tensor_dtype_to_np_dtype(kind)
            weights.append(numpy_helper.from_array(array.astype(dtype), name))
        else:
            operands.append("")
            continue
        operands.append(name)
    while operands[-1] == "":
        operands.pop()
    made = [name if name in outputs else "" for name in ("y", "y_h", "y_c")]
    made = made[: 3 if operator == "LSTM" else 2]
    while made[-1] == "":
        made.pop()
    node = helper.make_node(
        operator, operands, made, "it", hidden_size=hidden, direction=direction, **attributes
    )
    sizes = {"y": [STEPS, ways, batch, hidden]}
    graph = helper.make_graph(
        [node],
        "recurrent",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [STEPS, batch, fed]), *inputs],
        [
            helper.make_tensor_value_info(
                name, TensorProto.FLOAT, sizes.get(name, [ways, batch, hidden])
            )
            for name in outputs
        ],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def classifier(hidden: int = 64, fed: int = 40, steps: int = 50, seed: int = 0) -> onnx.ModelProto:
    """Frames through a dense layer, two LSTMs, one of them bidirectional, and a dense layer behind
    the last frame's state: (1, frames, features) to (1, classes)."""
    random = np.random.default_rng(seed)
    weights: list[onnx.TensorProto] = []

    def constant(name: str, array: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(array, name))
        return name

    def weight(name: str, *shape: int) -> str:
        drawn = random.standard_normal(shape) / np.sqrt(hidden)
        return constant(name, drawn.astype(np.float32))

    def lstm(name: str, data: str, read: int, made: list[str], way: str) -> onnx.NodeProto:
        ways = 2 if way == "bidirectional" else 1
        operands = [
            data,
            weight(f"{name}_w", ways, 4 * hidden, read),
            weight(f"{name}_r", ways, 4 * hidden, hidden),
            weight(f"{name}_b", ways, 8 * hidden),
        ]
        return helper.make_node("LSTM", operands, made, name, hidden_size=hidden, direction=way)

    nodes = [
        helper.make_node("Transpose", ["x"], ["frames"], "frames", perm=[1, 0, 2]),
        helper.make_node("MatMul", ["frames", weight("in_w", fed, hidden)], ["mixed"], "mixed"),
        helper.make_node("Relu", ["mixed"], ["active"], "active"),
        lstm("both", "active", hidden, ["pair"], "bidirectional"),
        helper.make_node("Transpose", ["pair"], ["turned"], "turned", perm=[0, 2, 1, 3]),
        helper.make_node(
            "Reshape", ["turned", constant("flat", np.asarray([0, 0, -1]))], ["wide"], "wide"
        ),
        lstm("last", "wide", 2 * hidden, ["", "state"], "forward"),
        helper.make_node(
            "Squeeze", ["state", constant("way", np.asarray([0]))], ["vector"], "vector"
        ),
        helper.make_node(
            "Gemm", ["vector", weight("out_w", hidden, 7), weight("out_b", 7)], ["logits"], "out"
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, steps, fed])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 7])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
