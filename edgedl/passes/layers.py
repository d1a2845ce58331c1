"""Layers side by side as one small graph, each between neighbours, for an engine to be timed on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from edgedl.core.layers import GATES, LayerShape
from edgedl.core.target import SCHEMES
from edgedl.passes.layout import layout
from edgedl.passes.place import Place
from edgedl.passes.ranges import Histogram
from edgedl.passes.scales import decide

OPSET, IR_VERSION = 17, 8
INPUT, OUTPUT, STATES = "x", "y", "_states"
READER_OUTPUTS = 8
# Kinds whose features stand last.
FEATURES_LAST = ("linear", *GATES)
# What ranges are found from: activations are rectified, as behind most layers.
SEEN = np.array([0.0, 0.5, 1.0, 4.0], np.float32)
STATES_SEEN = np.array([-1.0, 0.0, 1.0], np.float32)


@dataclass(frozen=True)
class Stand:
    """Layers in a row, several such rows side by side, each layer with weights of its own.

    Attributes:
        rows: how many there are, all with the same input.
        depth: layers in a row; more than 1 only where a layer makes what it reads, 0 for what
            stands behind the last layer and nothing else.
    """

    shape: LayerShape
    rows: int = 1
    depth: int = 1

    @property
    def given(self) -> tuple[int, ...]:
        """The shape of its input."""
        shape = self.shape
        wide = shape.inputs if self.depth else shape.outputs
        if shape.kind in GATES:
            return (*shape.size, 1, wide)
        if shape.kind == "linear":
            return (1, *_rows(shape), wide)
        return (1, wide, *(shape.size if self.depth else shape.out_size))

    @property
    def made(self) -> tuple[int, ...]:
        """The shape of its output."""
        shape = self.shape
        if shape.kind in GATES:
            return (*shape.size, shape.directions, 1, self.rows * shape.outputs)
        if shape.kind == "linear":
            return (1, *_rows(shape), self.rows * READER_OUTPUTS)
        return (1, self.rows * shape.outputs, *(1 for _ in shape.size))


def _rows(shape: LayerShape) -> tuple[int, ...]:
    """The axis of a dense layer's rows; one row has none."""
    return () if shape.size == (1,) else shape.size


@dataclass(frozen=True)
class Written:
    """A stand as an ONNX file, from one input `x` to one output `y`, float32 of batch 1.

    Attributes:
        refused: why its layers compute in float though int8 was asked for; None where they do not.
    """

    data: bytes
    refused: str | None = None


def written(stand: Stand, scheme: str | None = None) -> Written:
    """A stand in float, or in int8 by a scheme, as any other model: ranges are of rectified
    activations, weights are drawn.

    A rectifier stands behind each layer that is not recurrent, and at the end of a row what reads
    its codes as a next layer would and makes little of them: the mean of an image or a series, 8
    outputs of a dense layer. Recurrent layers begin at states of zero.
    """
    proto = _Sketch(stand).model()
    if scheme is None:
        return Written(proto.SerializeToString())
    graph, rules = ir.serde.deserialize_model(proto), SCHEMES[scheme]
    found = layout(graph, rules)
    layers = [decision for decision in found.decisions if decision.node.startswith("layer_")]
    reason = next((d.reason for d in layers if d.precision == "float"), None)
    rectified, states = Histogram(), Histogram()
    rectified.add(SEEN)
    states.add(STATES_SEEN)
    seen = {name: states if name.endswith(STATES) else rectified for name in found.tensors}
    Place(decide(found, rules, seen, "minmax")).edit(graph)
    data: bytes = ir.serde.serialize_model(graph).SerializeToString()
    return Written(data, reason)


class _Sketch:
    """The graph in the making; every tensor has its shape."""

    def __init__(self, stand: Stand) -> None:
        self._stand, self._shape = stand, stand.shape
        self._random = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._values: list[onnx.ValueInfoProto] = []
        add, read = self._parts()
        ends = []
        for row in range(stand.rows):
            value = INPUT
            for place in range(stand.depth):
                value = add(value, f"layer_{row}_{place}")
            ends.append(read(value, f"read_{row}"))
        axis = len(stand.made) - 1 if stand.shape.kind in FEATURES_LAST else 1
        self._nodes.append(helper.make_node("Concat", ends, [OUTPUT], OUTPUT, axis=axis))

    def model(self) -> onnx.ModelProto:
        ends = [_float(INPUT, self._stand.given)], [_float(OUTPUT, self._stand.made)]
        graph = helper.make_graph(
            self._nodes, "layers", *ends, self._weights, value_info=self._values
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)

    def _parts(self) -> tuple[Callable[[str, str], str], Callable[[str, str], str]]:
        if self._shape.kind in GATES:
            return self._recurrent, lambda value, _: value
        if self._shape.kind == "linear":
            return self._linear, self._read_rows
        return self._convolution, self._read_places

    def _convolution(self, data: str, name: str) -> str:
        shape, forward = self._shape, self._shape.kind == "conv"
        wide = (shape.outputs, shape.inputs) if forward else (shape.inputs, shape.outputs)
        weight = self._weight(f"{name}_w", wide[0], wide[1] // shape.groups, *shape.kernel)
        operands = [data, weight, self._weight(f"{name}_b", shape.outputs)]
        made = (1, shape.outputs, *shape.out_size)
        self._node(
            "Conv" if forward else "ConvTranspose",
            operands,
            name,
            made,
            kernel_shape=shape.kernel,
            strides=shape.stride,
            pads=shape.padding,
            dilations=shape.dilation,
            group=shape.groups,
        )
        return self._node("Relu", [name], f"{name}_rectified", made)

    def _read_places(self, data: str, name: str) -> str:
        made = (1, self._shape.outputs, *(1 for _ in self._shape.size))
        return self._node("GlobalAveragePool", [data], name, made)

    def _linear(self, data: str, name: str) -> str:
        made = self._product(data, self._shape.inputs, self._shape.outputs, name)
        return self._node("Relu", [name], f"{name}_rectified", made)

    def _read_rows(self, data: str, name: str) -> str:
        self._product(data, self._shape.outputs, READER_OUTPUTS, name)
        return name

    def _product(self, data: str, inputs: int, outputs: int, name: str) -> tuple[int, ...]:
        """A dense layer of this name, and the shape of what it makes."""
        made = (1, *_rows(self._shape), outputs)
        weight = self._weight(f"{name}_w", inputs, outputs)
        bias = self._weight(f"{name}_b", outputs)
        if self._shape.size == (1,):
            self._node("Gemm", [data, weight, bias], name, made)
            return made
        self._node("MatMul", [data, weight], f"{name}_product", made)
        self._node("Add", [f"{name}_product", bias], name, made)
        return made

    def _recurrent(self, data: str, name: str) -> str:
        shape = self._shape
        gates, sides = GATES[shape.kind] * shape.outputs, shape.directions
        operands = [
            data,
            self._weight(f"{name}_w", sides, gates, shape.inputs),
            self._weight(f"{name}_r", sides, gates, shape.outputs),
            self._weight(f"{name}_b", sides, 2 * gates),
        ]
        more: dict[str, Any] = {"linear_before_reset": 1} if shape.kind == "gru" else {}
        return self._node(
            shape.kind.upper(),
            operands,
            f"{name}{STATES}",
            (*shape.size, sides, 1, shape.outputs),
            hidden_size=shape.outputs,
            direction="bidirectional" if sides == 2 else "forward",
            **more,
        )

    def _node(
        self,
        kind: str,
        operands: Sequence[str],
        output: str,
        made: Sequence[int],
        **attributes: Any,
    ) -> str:
        self._nodes.append(helper.make_node(kind, operands, [output], output, **attributes))
        self._values.append(_float(output, made))
        return output

    def _weight(self, name: str, *dims: int) -> str:
        drawn = self._random.random(dims, np.float32) - np.float32(0.5)
        self._weights.append(numpy_helper.from_array(drawn, name))
        return name


def _float(name: str, dims: Sequence[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
