"""Small nets that do a task, fitted in closed form, and int8 versions with one fault planted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedl.core.model import Model
from edgedl.core.samples import Samples, from_arrays
from edgedl.passes.fold import Fold
from edgedl.passes.graph import open_model, rewrite
from edgedl.passes.place import Place
from edgedl.passes.plan import Plan, Quantizer
from edgedl.passes.quantize import Quantize
from edgedl.runtime import engine
from tests.models import Sketch

SIDE, CLASSES, WIDE = 12, 5, 16


def pictures(count: int = 48, seed: int = 0) -> dict[str, np.ndarray]:
    """Stripes of five directions, each in a colour of its own, in 0..1, with noise."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    images = np.empty((count, 3, SIDE, SIDE), np.float32)
    colours = np.asarray([[1, 0.5, 0], [0, 0.5, 1], [1, 0, 0.2], [0.2, 0, 1], [0.6, 1, 0.1]])
    for i, label in enumerate(labels):
        angle = np.pi * label / CLASSES
        wave = np.sin(6 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) + random.uniform(0, 6))
        images[i] = 0.5 + 0.4 * colours[label][:, None, None] * wave
        images[i] += colours[label][:, None, None] * 0.1
    images += random.normal(0, 0.03, images.shape)
    return {"x": np.clip(images, 0, 1).astype(np.float32), "labels": labels.astype(np.int64)}


def gabors() -> np.ndarray:
    """Sixteen edge filters of 3x3 over three colours."""
    y, x = np.mgrid[-1:2, -1:2]
    made = np.empty((WIDE, 3, 3, 3), np.float32)
    for i in range(WIDE):
        angle = np.pi * i / WIDE
        edge = np.cos(angle) * x + np.sin(angle) * y + 0.3 * (i % 3)
        colour = np.asarray([1 + np.cos(2 * i), 1 + np.sin(2 * i), 1 + np.cos(2 * i + 2)])
        made[i] = 0.25 * edge * colour[:, None, None]
    return made


def mixing(seed: int = 3) -> np.ndarray:
    """Orthogonal mixtures of sixteen channels, blurred over 3x3."""
    turned, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((WIDE, WIDE)))
    blur = np.outer([1, 2, 1], [1, 2, 1]) / 16
    return (turned[:, :, None, None] * blur).astype(np.float32)


def edge_net(
    folder: Path,
    *,
    first: np.ndarray | None = None,
    second: np.ndarray | None = None,
    gain: np.ndarray | None = None,
    concat: float | None = None,
) -> Model:
    """conv, (batch norm,) relu, (concat with a louder twin,) conv, relu, mean, dense.

    The dense layer is fitted to the pictures by least squares.
    """
    net = Sketch()
    first = gabors() if first is None else first
    second = mixing() if second is None else second
    net.constant("conv1_w", first)
    net.node("Conv", ["x", "conv1_w"], "conv1", pads=[1] * 4)
    last = "conv1"
    if gain is not None:
        zeros, ones = np.zeros(WIDE, np.float32), np.ones(WIDE, np.float32)
        for name, array in (("g", gain), ("b", zeros), ("m", zeros), ("v", ones)):
            net.constant(f"norm_{name}", array.astype(np.float32))
        last = net.node(
            "BatchNormalization", [last, "norm_g", "norm_b", "norm_m", "norm_v"], "norm"
        )
    net.node("Relu", [last], "relu1")
    last = "relu1"
    if concat is not None:
        net.constant("loud_w", first * np.float32(concat))
        net.node("Conv", ["x", "loud_w"], "loud", pads=[1] * 4)
        net.node("Relu", ["loud"], "loud_relu")
        last = net.node("Concat", ["relu1", "loud_relu"], "both", axis=1)
        second = np.concatenate([second, np.zeros_like(second)], axis=1)
    net.constant("conv2_w", second)
    net.constant("conv2_b", np.full(second.shape[0], 0.05, np.float32))
    net.node("Conv", [last, "conv2_w", "conv2_b"], "conv2", pads=[1] * 4, strides=[2, 2])
    net.node("Relu", ["conv2"], "relu2")
    net.node("GlobalAveragePool", ["relu2"], "pooled")
    net.node("Flatten", ["pooled"], "flat")
    headless = net.model([1, 3, SIDE, SIDE], [1, second.shape[0]], output="flat")
    data = pictures(200, seed=9)
    rows = features(headless, data["x"])
    targets = np.eye(CLASSES)[data["labels"]] * 4 - 1
    wide = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    fitted = np.linalg.solve(wide.T @ wide + 0.1 * np.eye(wide.shape[1]), wide.T @ targets)
    net.constant("fc_w", fitted[:-1].astype(np.float32))
    net.constant("fc_b", fitted[-1].astype(np.float32))
    net.node("Gemm", ["flat", "fc_w", "fc_b"], "logits", name="fc")
    return save(net.model([1, 3, SIDE, SIDE], [1, CLASSES]), folder / "float.onnx")


def features(net: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    with engine("onnxruntime").open_model(
        net.SerializeToString(), settings={}, threads=1
    ) as session:
        return np.concatenate([session.run({"x": x[None]})["flat"] for x in images])


def save(net: onnx.ModelProto, path: Path) -> Model:
    path.write_bytes(net.SerializeToString())
    return open_model(path)


def planned(model: Model, data: Mapping[str, np.ndarray], **options: Any) -> tuple[Model, Plan]:
    """The folded model and its plan for onnxruntime, calibrated on the data."""
    folded = rewrite(model, Fold())
    samples = from_arrays(data).bind(folded.signature)
    return folded, Quantize(samples, method=options.pop("method", "minmax"), **options).plan(folded)


def coded(folder: Path, model: Model, plan: Plan) -> Path:
    """The plan carried out, beside the float model."""
    path = folder / "int8.onnx"
    path.write_bytes(rewrite(model, Place(plan)).path.read_bytes())
    return path


def with_scale(plan: Plan, tensor: str, factor: float) -> Plan:
    """The plan with one tensor's scale multiplied."""
    old = plan.activations[tensor]
    new = Quantizer(old.dtype, old.scale * factor, old.zero_point)
    return replace(plan, activations={**plan.activations, tensor: new})


def attention_net(folder: Path, tokens: int = 600, width: int = 16) -> Model:
    """Attention in which half of the queries look at themselves and half at everything, and a
    dense layer behind."""
    net = Sketch(5)
    eye = np.eye(width, dtype=np.float32)
    sharp = np.where(np.arange(tokens) % 2 == 0, 6.0, 0.0).astype(np.float32)[:, None]
    net.node("Mul", ["x", net.constant("sharp", sharp)], "query")
    net.node("Transpose", ["x"], "key", perm=[0, 2, 1])
    net.node("MatMul", ["query", "key"], "scores")
    net.node("Softmax", ["scores"], "attention", axis=-1)
    net.node("MatMul", ["attention", "x"], "mixed")
    turned, _ = np.linalg.qr(np.random.default_rng(7).standard_normal((width, width)))
    net.node(
        "MatMul", ["mixed", net.constant("out_w", (eye + turned).astype(np.float32))], "logits"
    )
    made = net.model([1, tokens, width], [1, tokens, width])
    return save(made, folder / "float.onnx")


def tokens(count: int = 16, length: int = 600, width: int = 16, seed: int = 2) -> dict[str, Any]:
    """Sequences whose tokens are near an unlike corner each, so that each finds itself."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((count, length, width)).astype(np.float32)
    x = x / np.linalg.norm(x, axis=-1, keepdims=True) * np.float32(2)
    return {"x": x + np.float32(0.5)}


def softmax_in_int8(folder: Path, model: Model) -> Path:
    """The attention net with the softmax's result between quantizers."""
    plan = Plan(
        "onnxruntime", (), {"attention": Quantizer("uint8", 1 / 255, 0)},
        {"attention": ("mixed",)}, {},
    )  # fmt: skip
    return coded(folder, model, plan)


def head_net(folder: Path, classes: int) -> Model:
    """A detector's head: boxes in pixels and scores of classes in one output, [1, 4 + classes, n],
    by way of a sum as its last operator but the concat."""
    net = Sketch(4)
    net.conv("x", "stem", 3, 8, stride=2)
    net.node("Relu", ["stem"], "seen")
    net.conv("seen", "boxes", 8, 4, kernel=1)
    net.conv("seen", "logits", 8, classes, kernel=1)
    net.constant("stride", np.float32(40))
    net.constant("centre", np.full((1, 4, 1, 1), 150, np.float32))
    net.node("Mul", ["boxes", "stride"], "pixels")
    net.node("Add", ["pixels", "centre"], "placed")
    net.node("Sigmoid", ["logits"], "scores")
    net.node("Concat", ["placed", "scores"], "both", axis=1)
    net.constant("flat", np.array([1, 4 + classes, -1]))
    net.node("Reshape", ["both", "flat"], "head")
    shape = [1, 4 + classes, (SIDE // 2) ** 2]
    return save(net.model([1, 3, SIDE, SIDE], shape, output="head"), folder / "float.onnx")


def one_scale(folder: Path, model: Model, tensor: str, most: float) -> Path:
    """The model with 8 bits of 0 to `most` at one tensor."""
    plan = Plan(
        "onnxruntime", (), {tensor: Quantizer("uint8", most / 255, 0)}, {tensor: ("head",)}, {}
    )
    return coded(folder, model, plan)


def bind(model: Model, data: Mapping[str, np.ndarray]) -> Samples:
    return from_arrays(data).bind(model.signature)


def constants(path: Path) -> dict[str, np.ndarray]:
    net = onnx.load(path)
    return {t.name: numpy_helper.to_array(t) for t in net.graph.initializer}


def float_input(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
