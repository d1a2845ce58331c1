"""OpenVINO's second kernel for a convolution: the plugin's own choice is not always its fastest."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from xml.sax.saxutils import quoteattr

import openvino

CONVOLUTIONS = frozenset({"Convolution", "GroupConvolution"})
# What the plugin adds to the name of a convolution whose bias it takes apart.
WITHOUT_BIAS = "/WithoutBiases"
FLOAT = ' precision="FP32"'
INSTRUCTIONS, SHAPES = ("avx512", "avx2", "sse42"), ("_1x1", "_dw", "")
# Kernels written for one shape each, before those that go by way of batches of matrix products.
PRIORITY = ",".join(f"cpu:jit_{isa}{shape}" for isa in INSTRUCTIONS for shape in SHAPES)


def prefer_direct(core: openvino.Core, graph: openvino.Model, names: Collection[str]) -> None:
    """Have the plugin compute these convolutions with its direct kernels, where it has such.

    The plugin reads its order of preference from `primitives_priority` in an operator's runtime
    information, which its format of models carries and ONNX does not: each convolution is replaced
    by one that was read from that format with the same attributes. Names that the graph has not are
    passed over, and so are kernels that this plugin has not.

    Args:
        names: of ONNX nodes.
    """
    chosen = [
        operator
        for operator in graph.get_ordered_ops()
        if operator.get_type_name() in CONVOLUTIONS
        and operator.get_friendly_name().removesuffix(WITHOUT_BIAS) in names
    ]
    if not chosen:
        return
    made = {op.get_friendly_name(): op for op in core.read_model(_written(chosen)).get_ops()}
    for number, operator in enumerate(chosen):
        twin = made[f"k{number}"]
        for place, source in enumerate(operator.input_values()):
            twin.input(place).replace_source_output(source)
        for reader in operator.output(0).get_target_inputs():
            reader.replace_source_output(twin.output(0))
        twin.output(0).get_tensor().set_names(operator.output(0).get_names())
        twin.set_friendly_name(operator.get_friendly_name())
    graph.validate_nodes_and_infer_types()


def _written(operators: list[Any]) -> bytes:
    """A model in OpenVINO's format that holds operators like these side by side, of open shapes."""
    layers, edges = [], []
    for number, operator in enumerate(operators):
        first = 4 * number
        for place in (0, 1):
            layers.append(_parameter(first + place, operator.input(place)))
            edges.append((first + place, 0, first + 2, place))
        edges.append((first + 2, 2, first + 3, 0))
        ranks = [len(operator.input(place).get_partial_shape()) for place in (0, 1)]
        data = " ".join(f"{k}={quoteattr(_text(v))}" for k, v in operator.get_attributes().items())
        layers.append(
            f'<layer id="{first + 2}" name="k{number}" type="{operator.get_type_name()}"'
            f' version="opset1"><data {data}/><rt_info><attribute name="primitives_priority"'
            f' version="0" value="{PRIORITY}"/></rt_info><input>{_port(0, ranks[0])}'
            f"{_port(1, ranks[1])}</input><output>{_port(2, ranks[0], FLOAT)}</output></layer>"
        )
        layers.append(
            f'<layer id="{first + 3}" name="r{number}" type="Result" version="opset1"><input>'
            f"{_port(0, ranks[0])}</input></layer>"
        )
    joined = "".join(
        f'<edge from-layer="{a}" from-port="{b}" to-layer="{c}" to-port="{d}"/>'
        for a, b, c, d in edges
    )
    text = f"<layers>{''.join(layers)}</layers><edges>{joined}</edges>"
    return f'<net name="kernels" version="11">{text}</net>'.encode()


def _parameter(number: int, port: Any) -> str:
    rank = len(port.get_partial_shape())
    shape, kind = ",".join("?" * rank), port.get_element_type().get_type_name()
    return (
        f'<layer id="{number}" name="p{number}" type="Parameter" version="opset1">'
        f'<data shape="{shape}" element_type="{kind}"/><output>'
        f"{_port(0, rank, FLOAT)}</output></layer>"
    )


def _port(number: int, rank: int, more: str = "") -> str:
    return f'<port id="{number}"{more}>{"<dim>-1</dim>" * rank}</port>'


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ",".join(map(str, value))
