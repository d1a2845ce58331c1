"""Tiny ONNX models, made the same every time, and samples for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedl.core.model import Model, Signature
from edgedl.core.samples import Samples, from_arrays
from edgedl.core.target import SCHEMES
from edgedl.passes.graph import open_model
from tests.sequences import classifier

Shape = Sequence[int | str | None]
# Those of engines that compute anything in int8.
INT8_SCHEMES = {name: scheme for name, scheme in SCHEMES.items() if scheme.operators}


class Sketch:
    """A graph in the making, its weights drawn from one seeded source."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        fan_in = max(1, int(np.prod(shape)) // max(shape))
        drawn = self.random.standard_normal(shape) / np.sqrt(fan_in)
        return self.constant(name, drawn.astype(np.float32))

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        output: str,
        *,
        name: str | None = None,
        **attributes: object,
    ) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name or output, **attributes))
        return output

    def conv(
        self,
        data: str,
        output: str,
        given: int,
        made: int,
        kernel: int = 3,
        stride: int = 1,
        group: int = 1,
    ) -> str:
        weight = self.weight(f"{output}_w", made, given // group, kernel, kernel)
        bias = self.weight(f"{output}_b", made)
        pads, strides = [kernel // 2] * 4, [stride] * 2
        return self.node(
            "Conv", [data, weight, bias], output, pads=pads, strides=strides, group=group
        )

    def head(self, data: str, channels: int, classes: int = 5) -> str:
        """Mean over the image, then a dense layer that makes `logits`."""
        self.node("GlobalAveragePool", [data], "pooled")
        self.node("Flatten", ["pooled"], "flat")
        weight, bias = self.weight("fc_w", channels, classes), self.weight("fc_b", classes)
        return self.node("Gemm", ["flat", weight, bias], "logits", name="fc")

    def model(
        self, x: Shape, y: Shape, *, output: str = "logits", opset: int = 17, ir_version: int = 8
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "net", [_float("x", x)], [_float(output, y)], self.weights
        )
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def _float(name: str, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def conv_net(batch: int | str = 1, seed: int = 0) -> onnx.ModelProto:
    """conv, relu, strided conv, relu, mean, dense."""
    net = Sketch(seed)
    net.conv("x", "conv1", 3, 8)
    net.node("Relu", ["conv1"], "relu1")
    net.conv("relu1", "conv2", 8, 8, stride=2)
    net.node("Relu", ["conv2"], "relu2")
    net.head("relu2", 8)
    return net.model([batch, 3, 8, 8], [batch, 5])


def dynamic_net() -> onnx.ModelProto:
    """`conv_net` with a dynamic batch, height and width."""
    net = conv_net("batch")
    dimensions = net.graph.input[0].type.tensor_type.shape.dim
    for position, name in ((2, "height"), (3, "width")):
        dimensions[position].dim_param = name
    return net


def residual_net() -> onnx.ModelProto:
    """conv, relu, conv, add, relu, max pool, conv, mean, dense."""
    net = Sketch(1)
    net.conv("x", "conv1", 3, 8)
    net.node("Relu", ["conv1"], "relu1")
    net.conv("relu1", "conv2", 8, 8)
    net.node("Add", ["conv2", "relu1"], "sum")
    net.node("Relu", ["sum"], "relu2")
    net.node("MaxPool", ["relu2"], "small", kernel_shape=[2, 2], strides=[2, 2])
    net.conv("small", "conv3", 8, 8)
    net.head("conv3", 8)
    return net.model([1, 3, 8, 8], [1, 5])


def depthwise_net() -> onnx.ModelProto:
    """conv, clip, depthwise conv, clip, pointwise conv, mean, dense."""
    net = Sketch(2)
    net.constant("zero", np.float32(0).reshape(()))
    net.constant("six", np.float32(6).reshape(()))
    net.conv("x", "conv1", 3, 8)
    net.node("Clip", ["conv1", "zero", "six"], "clip1")
    net.conv("clip1", "depthwise", 8, 8, group=8)
    net.node("Clip", ["depthwise", "zero", "six"], "clip2")
    net.conv("clip2", "pointwise", 8, 12, kernel=1)
    net.head("pointwise", 12)
    return net.model([1, 3, 8, 8], [1, 5])


def gemm_net(transposed: bool = False) -> onnx.ModelProto:
    """dense, relu, dense; the weights stand as (out, in) where `transposed`."""
    net = Sketch(3)
    order = (12, 16) if transposed else (16, 12)
    net.node(
        "Gemm",
        ["x", net.weight("fc1_w", *order), net.weight("fc1_b", 12)],
        "fc1",
        transB=int(transposed),
    )
    net.node("Relu", ["fc1"], "relu1")
    shape = (5, 12) if transposed else (12, 5)
    net.node(
        "Gemm", ["relu1", net.weight("fc2_w", *shape), net.weight("fc2_b", 5)], "logits",
        name="fc2", transB=int(transposed),
    )  # fmt: skip
    return net.model([1, 16], [1, 5])


def matmul_net() -> onnx.ModelProto:
    """Two dense layers over a sequence, each a product and an addition."""
    net = Sketch(4)
    net.node("MatMul", ["x", net.weight("w1", 16, 12)], "product1")
    net.node("Add", ["product1", net.weight("b1", 12)], "dense1")
    net.node("Relu", ["dense1"], "relu1")
    net.node("MatMul", ["relu1", net.weight("w2", 12, 5)], "product2")
    net.node("Add", ["product2", net.weight("b2", 5)], "logits")
    return net.model([1, 4, 16], [1, 4, 5])


def attention_net() -> onnx.ModelProto:
    """One attention head with a residual addition and a layer norm."""
    net = Sketch(5)
    for name in ("query", "key", "value"):
        net.node("MatMul", ["x", net.weight(f"{name}_w", 16, 8)], name)
    net.node("Transpose", ["key"], "key_t", perm=[0, 2, 1])
    net.node("MatMul", ["query", "key_t"], "scores")
    net.node("Mul", ["scores", net.constant("scale", np.float32(8**-0.5).reshape(()))], "scaled")
    net.node("Softmax", ["scaled"], "weights", axis=-1)
    net.node("MatMul", ["weights", "value"], "mixed")
    net.node("MatMul", ["mixed", net.weight("out_w", 8, 16)], "projected")
    net.node("Add", ["x", "projected"], "sum")
    net.constant("gain", np.ones(16, np.float32))
    net.node("LayerNormalization", ["sum", "gain"], "normal", axis=-1)
    net.node("MatMul", ["normal", net.weight("fc_w", 16, 5)], "logits", name="fc")
    return net.model([1, 6, 16], [1, 6, 5])


def concat_net() -> onnx.ModelProto:
    """Two branches side by side, then a conv over both."""
    net = Sketch(6)
    net.conv("x", "left", 3, 4)
    net.node("Relu", ["left"], "left_relu")
    net.conv("x", "right", 3, 6, kernel=1)
    net.node("Concat", ["left_relu", "right"], "both", axis=1)
    net.conv("both", "conv3", 10, 8)
    net.node("Relu", ["conv3"], "relu3")
    net.head("relu3", 8)
    return net.model([1, 3, 8, 8], [1, 5])


def image_net() -> onnx.ModelProto:
    """Image to image: its last conv makes the model's output."""
    net = Sketch(7)
    net.conv("x", "conv1", 3, 8)
    net.node("Relu", ["conv1"], "relu1")
    net.conv("relu1", "picture", 8, 3)
    return net.model([1, 3, 8, 8], [1, 3, 8, 8], output="picture")


def if_net() -> onnx.ModelProto:
    """A conv, then one of two products inside an If, by the sign of the input's mean."""
    net = Sketch(8)
    net.conv("x", "conv1", 3, 8)
    net.node("Relu", ["conv1"], "relu1")
    net.node("GlobalAveragePool", ["relu1"], "pooled")
    net.node("Flatten", ["pooled"], "flat")
    net.node("ReduceMean", ["x"], "mean", keepdims=0)
    net.constant("zero", np.float32(0).reshape(()))
    net.node("Greater", ["mean", "zero"], "bright")
    bodies = {}
    for branch in ("then", "else"):
        body = Sketch(9 if branch == "then" else 10)
        body.node("MatMul", ["flat", body.weight(f"{branch}_w", 8, 5)], f"{branch}_logits")
        bodies[f"{branch}_branch"] = helper.make_graph(
            body.nodes, branch, [], [_float(f"{branch}_logits", [1, 5])], body.weights
        )
    net.node("If", ["bright"], "logits", name="choice", **bodies)
    return net.model([1, 3, 8, 8], [1, 5])


def old_net() -> onnx.ModelProto:
    """Opset 11 with what old exporters did: weights listed as inputs, Constant nodes, Dropout."""
    net = Sketch(11)
    net.conv("x", "conv1", 3, 8)
    net.node("Relu", ["conv1"], "relu1")
    net.node("Identity", ["relu1"], "same")
    net.node("Dropout", ["same"], "kept", ratio=0.5)
    net.node("ReduceMean", ["kept"], "mean", axes=[2, 3], keepdims=0)
    net.node("Unsqueeze", ["mean"], "wide", axes=[0])
    net.node("Squeeze", ["wide"], "narrow", axes=[0])
    weight = numpy_helper.from_array(net.random.standard_normal((8, 5)).astype(np.float32))
    net.node("Constant", [], "fc_w", value=weight)
    net.node("MatMul", ["narrow", "fc_w"], "product")
    net.node("Softmax", ["product"], "logits", axis=1)
    made = net.model([1, 3, 8, 8], [1, 5], opset=11, ir_version=3)
    made.graph.input.extend(_float(weight.name, weight.dims) for weight in net.weights)
    return made


def batchnorm_net() -> onnx.ModelProto:
    """conv, batch norm, relu, conv without bias, batch norm, mean, dense."""
    net = Sketch(12)
    for i, (data, given) in enumerate((("x", 3), ("relu1", 8)), start=1):
        weight = net.weight(f"conv{i}_w", 8, given, 3, 3)
        net.node("Conv", [data, weight], f"conv{i}", pads=[1] * 4)
        statistics = [
            net.constant(f"{part}{i}", net.random.uniform(0.5, 1.5, 8).astype(np.float32))
            for part in ("gain", "shift", "mean", "variance")
        ]
        net.node("BatchNormalization", [f"conv{i}", *statistics], f"normal{i}", epsilon=1e-3)
        net.node("Relu", [f"normal{i}"], f"relu{i}")
    net.head("relu2", 8)
    return net.model([1, 3, 8, 8], [1, 5])


NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "conv": conv_net,
    "dynamic": dynamic_net,
    "residual": residual_net,
    "depthwise": depthwise_net,
    "gemm": gemm_net,
    "gemm_transposed": lambda: gemm_net(transposed=True),
    "matmul": matmul_net,
    "attention": attention_net,
    "concat": concat_net,
    "image": image_net,
    "if": if_net,
    "old": old_net,
    "batchnorm": batchnorm_net,
    "recurrent": lambda: classifier(32, 24, 8),
}


def saved(net: onnx.ModelProto, folder: Path) -> Model:
    """The model, opened from a file of its own in `folder`."""
    path = folder / "net.onnx"
    path.write_bytes(net.SerializeToString())
    return open_model(path)


def feeds(signature: Signature, count: int = 4, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Normal inputs in the model's shapes, integers from 0 to 7; dynamic axes are 1 in front and 8
    elsewhere."""
    random = np.random.default_rng(seed)

    def draw(shape: Shape, dtype: str) -> np.ndarray:
        sizes = [d if isinstance(d, int) else 8 if i else 1 for i, d in enumerate(shape)]
        if "int" in dtype:
            return random.integers(0, 8, sizes).astype(dtype)
        return random.standard_normal(sizes).astype(dtype if "float" in dtype else np.float32)

    return [{t.name: draw(t.shape or (), t.dtype) for t in signature.inputs} for _ in range(count)]


def samples(signature: Signature, count: int = 32, seed: int = 1) -> Samples:
    """Normal samples, bound to the signature."""
    rows = feeds(signature, count, seed)
    arrays = {
        t.name: np.concatenate([row[t.name] for row in rows])
        if t.has_batch_axis
        else np.stack([row[t.name] for row in rows])
        for t in signature.inputs
    }
    return from_arrays(arrays).bind(signature)


def answers(
    model: Path | bytes, rows: Sequence[dict[str, np.ndarray]], engine_name: str = "onnxruntime"
) -> list[dict[str, np.ndarray]]:
    """What an engine answers to each feed, on one thread."""
    from edgedl.runtime import engine

    with engine(engine_name).open_model(model, settings={}, threads=1) as session:
        return [session.run(row) for row in rows]
