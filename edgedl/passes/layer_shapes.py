"""The layers of a graph by what decides their cost."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from edgedl.core.layers import GATES, LayerShape
from edgedl.core.model import Model
from edgedl.passes.graph import read, shape_of

CONVOLUTIONS = {"Conv": "conv", "ConvTranspose": "conv_transpose"}


def layer_shapes(model: Model) -> dict[str, LayerShape]:
    """Layers with constant weights by the names of their nodes, in graph order, for a batch of 1.

    Left out are those whose input has no fixed shape, and transposed convolutions that are given
    the size of what they make.
    """
    found: dict[str, LayerShape] = {}
    for node in read(model.path).graph:
        data = node.inputs[0] if node.inputs else None
        if len(node.inputs) < 2 or data is None or data.shape is None:
            continue
        weight = node.inputs[1]
        dims = shape_of(data)
        if weight is None or weight.const_value is None or weight.is_graph_input():
            continue
        fixed = [d for d in dims[1:] if isinstance(d, int)]
        if len(fixed) < len(dims) - 1 or node.domain not in ("", "ai.onnx"):
            continue
        shape = _shape(node, [dims[0] if isinstance(dims[0], int) else 1, *fixed])
        if shape is not None:
            found[node.name or ""] = shape
    return found


def _shape(node: ir.Node, given: list[int]) -> LayerShape | None:
    assert node.inputs[1] is not None
    assert node.inputs[1].const_value is not None
    weight = node.inputs[1].const_value.shape.numpy()
    attributes = node.attributes
    if node.op_type in CONVOLUTIONS:
        kernel = tuple(weight[2:])
        rank, groups = len(kernel), attributes.get_int("group", 1)
        forward = node.op_type == "Conv"
        if attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or (
            not forward and {"output_shape", "output_padding"} & attributes.keys()
        ):
            return None
        return LayerShape(
            "conv" if forward else "conv_transpose",
            inputs=given[1],
            outputs=weight[0] if forward else weight[1] * groups,
            size=tuple(given[2:]),
            kernel=kernel,
            stride=tuple(attributes.get_ints("strides", (1,) * rank)),
            padding=tuple(attributes.get_ints("pads", (0,) * 2 * rank)),
            dilation=tuple(attributes.get_ints("dilations", (1,) * rank)),
            groups=groups,
        )
    if node.op_type in ("Gemm", "MatMul") and len(weight) == 2:
        turned = node.op_type == "Gemm" and attributes.get_int("transB", 0) == 1
        wide = (weight[1], weight[0]) if turned else (weight[0], weight[1])
        return LayerShape("linear", *wide, size=(prod(given[:-1]),))
    kind = node.op_type.lower()
    if kind in GATES:
        wide = (weight[2], weight[1] // GATES[kind])
        return LayerShape(
            "lstm" if kind == "lstm" else "gru", *wide, size=(given[0],), directions=weight[0]
        )
    return None
