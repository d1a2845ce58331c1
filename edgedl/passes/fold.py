"""Compute once what does not depend on the inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewriteRuleSet
from onnxscript.rewriter.rules import common as rules

from edgedl.core.model import Model
from edgedl.passes.clean import eliminate_identities
from edgedl.passes.graph import drop_unused_initializers, rewrite
from edgedl.passes.regroup import absorb_affine, regroup_gelu

KEPT = frozenset({"DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"})
GROWING = frozenset({"ConstantOfShape", "Expand", "Tile", "Range", "EyeLike", "OneHot"})
SMALL_ELEMENTS = 1024
NORMS = (
    rules.fuse_batchnorm_into_conv_rule,
    rules.fuse_batchnorm_into_conv_transpose_rule,
    rules.fuse_batchnorm_into_gemm_rule,
)


@dataclass(frozen=True)
class Fold:
    """Constants computed, batch norms and scalings folded into the products before them.

    A constant expression is folded where its result is no larger than its inputs, or has at most
    1024 elements; conversions of stored integers to float stay, since they are what makes a
    quantized model small.

    Attributes:
        norms: whether batch norms are folded, too; what is trained on keeps them.
    """

    name: ClassVar[str] = "fold"
    norms: bool = True

    def __call__(self, model: Model) -> Model:
        return rewrite(model, self)

    def edit(self, graph: ir.Model) -> None:
        for _ in range(2):
            fold_constants_ir(
                graph,
                onnx_shape_inference=False,
                input_size_limit=1 << 40,
                output_size_limit=1 << 40,
                should_fold=_worth_folding,
            )
            RewriteRuleSet(
                [
                    *(NORMS if self.norms else ()),
                    rules.conv_affine_fusion_rule,
                    rules.normalize_pad_format_conv_rule,
                    rules.fuse_pad_into_conv_rule,
                    rules.no_op_transpose_rule,
                    rules.transpose_transpose_rule,
                    rules.no_op_cast_rule,
                    rules.no_op_expand_rule,
                    rules.reshape_reshape_rule,
                    rules.successive_relu_rule,
                ]
            ).apply_to_model(graph)
        absorb_affine(graph.graph)
        regroup_gelu(graph.graph)
        eliminate_identities(graph)
        ir.passes.Sequential(
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.DeduplicateInitializersPass(),
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedOpsetsPass(),
            common.NameFixPass(),
        )(graph)
        drop_unused_initializers(graph)


def _worth_folding(node: ir.Node) -> bool:
    if node.op_type in KEPT:
        return False
    given = sum(_elements(value) or 0 for value in node.inputs if value is not None)
    made = _grown(node) if node.op_type in GROWING else _made(node)
    if made is None:
        return node.op_type not in GROWING
    return made <= max(given, SMALL_ELEMENTS)


def _made(node: ir.Node) -> int | None:
    sizes = [_elements(value) for value in node.outputs]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _grown(node: ir.Node) -> int | None:
    """Elements that an operator makes whose result may be far larger than its inputs."""
    shape = node.inputs[0] if node.op_type == "ConstantOfShape" else None
    if node.op_type == "Expand":
        shape = node.inputs[1]
    if shape is None or shape.const_value is None:
        return _made(node)
    asked = math.prod(int(size) for size in shape.const_value.numpy())
    return asked * (_elements(node.inputs[0]) or 1) if node.op_type == "Expand" else asked  # type: ignore[arg-type]


def _elements(value: ir.Value) -> int | None:
    if value.const_value is not None:
        return math.prod(value.const_value.shape.numpy())
    if value.shape is None or not value.shape.is_static():
        return None
    return math.prod(value.shape.numpy())
