"""Models of a wanted size, written with the ONNX helpers, the same bytes every time."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

OPSET = 18
EXTERNAL_BYTES = 1 << 30
CHANNELS, CLASSES = 16, 10
LAYERS, ENTRY = 8, 256
BLOCK, AROUND = 5, 6  # operators of a residual block, and before, between and behind them


class Builder:
    """Nodes and weights; weights go to a file beside the model where there will be many bytes."""

    def __init__(self, path: Path, external: bool) -> None:
        self.path = path
        self.data = path.with_name(path.name + ".data") if external else None
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.written = 0
        if self.data is not None:
            self.data.write_bytes(b"")

    def weight(self, *shape: int, scale: float) -> str:
        """A tensor of normal values with this deviation."""
        values = self.rng.standard_normal(shape, np.float32)
        values *= np.float32(scale)
        tensor = TensorProto(
            name=f"weight{len(self.weights)}", dims=shape, data_type=TensorProto.FLOAT
        )
        if self.data is None:
            tensor.raw_data = values.tobytes()
        else:
            with self.data.open("ab") as file:
                values.tofile(file)
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": self.data.name, "offset": self.written, "length": values.nbytes}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            self.written += values.nbytes
        self.weights.append(tensor)
        return tensor.name

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        output = f"value{len(self.nodes)}"
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        return output

    def save(self, inputs: tuple[int, ...], last: str) -> tuple[int, ...]:
        """Write the model; returns the shape of a sample."""
        given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, *inputs])
        found = helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, CLASSES])
        graph = helper.make_graph(self.nodes, "net", [given], [found], self.weights)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        self.path.write_bytes(model.SerializeToString())
        return inputs


def deep_net(path: Path, operators: int, side: int) -> tuple[int, ...]:
    """About so many operators: half in residual blocks of two 3x3 convolutions of 16 channels over
    `side` x `side`, half in blocks of two Gemms, a residual one and a plain one."""
    build = Builder(path, external=False)
    blocks = max(2, round((operators - AROUND) / BLOCK))
    calm = 1 / math.sqrt(blocks)
    size = CHANNELS * 9

    def convolution(x: str, inside: int, scale: float) -> str:
        weight = build.weight(CHANNELS, inside, 3, 3, scale=scale / math.sqrt(inside * 9 / 2))
        return build.node("Conv", x, weight, build.weight(CHANNELS, scale=0.1), pads=[1, 1, 1, 1])

    def gemm(x: str, inside: int, out: int, scale: float) -> str:
        weight = build.weight(inside, out, scale=scale / math.sqrt(inside / 2))
        return build.node("Gemm", x, weight, build.weight(out, scale=0.1))

    x = build.node("Relu", convolution("input", 3, 1.0))
    for _ in range(blocks // 2):
        y = convolution(build.node("Relu", convolution(x, CHANNELS, 1.0)), CHANNELS, calm)
        x = build.node("Relu", build.node("Add", x, y))
    x = build.node("Flatten", build.node("GlobalAveragePool", x))
    x = gemm(x, CHANNELS, size, 1.0)
    for _ in range(blocks - blocks // 2):
        # One Gemm around which to go, one behind: compiling blocks of two takes OpenVINO 2026.4.1
        # down with one thread in float32.
        y = build.node("Add", x, build.node("Relu", gemm(x, size, size, calm)))
        x = build.node("Relu", gemm(y, size, size, 1.0))
    return build.save((3, side, side), gemm(x, size, CLASSES, 1.0))


def perceptron(path: Path, parameters: int) -> tuple[int, ...]:
    """About so many parameters in eight layers of one width."""
    # (LAYERS - 2) squares of the width, and what goes in and comes out.
    squares, ends = LAYERS - 2, ENTRY + CLASSES
    root = math.sqrt(ends**2 + 4 * squares * parameters)
    width = max(16, round((root - ends) / (2 * squares) / 16) * 16)
    build = Builder(path, external=4 * parameters >= EXTERNAL_BYTES)
    sizes = [ENTRY, *[width] * (LAYERS - 1), CLASSES]
    x = "input"
    for i, (inside, out) in enumerate(pairwise(sizes)):
        weight = build.weight(inside, out, scale=1 / math.sqrt(inside / 2))
        x = build.node("Gemm", x, weight, build.weight(out, scale=0.1))
        x = build.node("Relu", x) if i < LAYERS - 1 else x
    return build.save((ENTRY,), x)
