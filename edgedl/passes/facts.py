"""What planning asks of a graph: operands, readers, and which operators only move data."""

from __future__ import annotations

import onnx_ir as ir

from edgedl.core.target import Scheme


class Facts:
    """What planning asks of a graph, looked up once.

    Attributes:
        nodes: in graph order.
        places: the place of each in that order.
        outputs: the names of the model's outputs.
    """

    def __init__(self, graph: ir.Model) -> None:
        self.graph = graph.graph
        self.nodes = list(graph.graph)
        self.places = {node: number for number, node in enumerate(self.nodes)}
        self.outputs = {value.name for value in graph.graph.outputs}

    def constant(self, value: ir.Value | None) -> bool:
        """Whether a value is known before the model runs."""
        return value is not None and value.const_value is not None and not value.is_graph_input()

    def computed(self, node: ir.Node) -> list[ir.Value]:
        """The float32 operands that are not constants."""
        return [
            value
            for value in node.inputs
            if value is not None
            and not self.constant(value)
            and value.dtype in (None, ir.DataType.FLOAT)
        ]

    def readers(self, value: ir.Value) -> list[ir.Node]:
        """The nodes that read a value, those in bodies of operators as well."""
        return [user.node for user in value.uses()]

    def result(self, node: ir.Node) -> ir.Value:
        """The tensor that a node makes once the engine has fused its activation."""
        value = node.outputs[0]
        readers = self.readers(value)
        if (
            node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add")
            and len(readers) == 1
            and value.name not in self.outputs
            and readers[0].graph is self.graph
            and self.clips_at_zero(readers[0])
        ):
            return readers[0].outputs[0]
        return value

    def result_is_coded(self, node: ir.Node, scheme: Scheme) -> bool:
        """Whether the engine's integer kernel of a node gives codes alone: where one that could
        give float has an activation behind it, and no bias between, onnxruntime takes its float
        kernel instead, and expands the weights in every call."""
        if node.op_type not in scheme.optional_outputs:
            return scheme.outputs
        apart = node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None
        return scheme.outputs and not apart and self.result(node) is not node.outputs[0]

    def clips_at_zero(self, node: ir.Node) -> bool:
        """Whether a node is a Relu, or a Clip that begins at zero."""
        if node.op_type == "Relu":
            return True
        if node.op_type != "Clip" or len(node.inputs) < 2 or node.inputs[1] is None:
            return False
        low = node.inputs[1].const_value
        return low is not None and float(low.numpy()) == 0.0


def is_product(node: ir.Node) -> bool:
    """Whether an operator multiplies and sums, which is what int8 is for."""
    return node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum")


def computed_operands(node: ir.Node, facts: Facts, scheme: Scheme) -> list[ir.Value]:
    """The operands of an int8 operator that are quantized as activations."""
    fused = fused_operand(node, facts, scheme)
    operands = [value for value in facts.computed(node) if value is not fused]
    return operands[: 1 if is_product(node) and node.op_type != "MatMul" else None]


def fused_operand(node: ir.Node, facts: Facts, scheme: Scheme) -> ir.Value | None:
    """The operand of an Add that comes straight out of a convolution whose kernel makes the sum as
    well, where the scheme's engine has such kernels: of two the later one, the other being what is
    waited for."""
    if node.op_type != "Add" or not scheme.fuses_adds:
        return None
    made = [
        (facts.places[maker], value)
        for value in facts.computed(node)
        if (maker := value.producer()) is not None
        and maker.op_type in ("Conv", "ConvTranspose")
        and len(facts.readers(value)) == 1
        and value.name not in facts.outputs
    ]
    return max(made, key=lambda one: one[0])[1] if made else None


def is_move(node: ir.Node, scheme: Scheme) -> bool:
    """Whether an operator only carries values, so that integer codes go through it as well."""
    if node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") != "nearest":
        return False
    return node.domain in ("", "ai.onnx") and node.op_type in scheme.moves
