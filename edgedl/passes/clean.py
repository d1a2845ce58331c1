"""Remove what a graph carries without need, and name what has no name."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.rewriter import RewriteRuleSet
from onnxscript.rewriter.rules import common as rules
from onnxscript.version_converter import ConvertVersionPass

from edgedl.core.errors import BadModel
from edgedl.core.model import Model
from edgedl.passes.graph import HISTORY_KEY, drop_unused_initializers, rewrite


@dataclass(frozen=True)
class Clean:
    """The same function as a tidy graph in topological order, of opset 13 or later.

    Initialisers that are also inputs become plain initialisers (they forbid constant folding),
    Constant nodes become initialisers, model-local functions are inlined, and identities, dropout,
    dead nodes, duplicates and documentation strings go.

    Attributes:
        min_opset: an older model is raised to it; per-channel scales need 13.

    Raises:
        BadModel: the opset cannot be raised.
    """

    name: ClassVar[str] = "clean"
    min_opset: int = 13

    def __call__(self, model: Model) -> Model:
        return rewrite(model, self)

    def edit(self, graph: ir.Model) -> None:
        history = graph.metadata_props.get(HISTORY_KEY)
        ir.passes.Sequential(
            common.RemoveInitializersFromInputsPass(),
            common.InlinePass(),
            common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.TopologicalSortPass(),
        )(graph)
        raise_opset(graph, self.min_opset)
        RewriteRuleSet([rules.dropout_inference_rule, rules.dropout_zero_rule]).apply_to_model(
            graph
        )
        _drop_dropout(graph)
        eliminate_identities(graph)
        ir.passes.Sequential(
            common.CommonSubexpressionEliminationPass(),
            common.DeduplicateInitializersPass(),
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedOpsetsPass(),
            common.ClearMetadataAndDocStringPass(),
            common.NameFixPass(),
            common.TopologicalSortPass(),
        )(graph)
        drop_unused_initializers(graph)
        graph.ir_version = max(graph.ir_version or 8, 8)
        if history is not None:
            graph.metadata_props[HISTORY_KEY] = history


def raise_opset(graph: ir.Model, least: int) -> None:
    """Bring a graph of an older opset to `least`; another is left as it is.

    Raises:
        BadModel: it cannot be raised.
    """
    opset = graph.opset_imports.get("", graph.opset_imports.get("ai.onnx", 1))
    if opset >= least:
        return
    logger = logging.getLogger("onnxscript.version_converter")
    level = logger.level
    logger.setLevel(logging.ERROR)
    refusal = BadModel(
        f"opset {opset} could not be raised to {least}",
        hint=f"export it again with opset_version={least} or later",
    )
    try:
        ConvertVersionPass(least, fallback=True)(graph)
    except Exception as error:
        raise refusal from error
    finally:
        logger.setLevel(level)
    if graph.opset_imports.get("", 0) < least:
        raise refusal
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)


def eliminate_identities(graph: ir.Model) -> None:
    """Remove Identity nodes; graphs with bodies keep theirs, since a body's output may need one."""
    if not any(True for _ in graph.graph.subgraphs()):
        common.IdentityEliminationPass()(graph)


def _drop_dropout(graph: ir.Model) -> None:
    """Bypass Dropout that does not train and whose mask nobody reads."""
    outputs = set(graph.graph.outputs)
    for node in graph.graph:
        data = node.inputs[0] if node.inputs else None
        if node.op_type != "Dropout" or data is None or outputs & set(node.outputs):
            continue
        told = node.inputs[2] if len(node.inputs) > 2 else None
        trains = told is not None and (told.const_value is None or bool(told.const_value.numpy()))
        if not trains and not any(list(mask.uses()) for mask in node.outputs[1:]):
            ir.convenience.replace_all_uses_with(node.outputs[0], data)
