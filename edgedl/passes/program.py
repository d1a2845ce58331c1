"""A graph in and out of plain data: a model as a `Program`, and a model with other constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir
import onnx_ir.passes.common as common

from edgedl.core.errors import BadOption
from edgedl.core.model import Model
from edgedl.core.program import Constants, Operation, Program
from edgedl.passes.graph import constant, read, rewrite

ANEW = "leave out the plan's `tuned`, or make it anew: --effort normal --report DIR"
GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def program_of(model: Model) -> Program:
    """A model's graph as plain data; its weights stay memory-mapped until they are used."""
    graph = read(model.path)
    common.TopologicalSortPass()(graph)
    constants = {
        name: value.const_value.numpy()
        for name, value in graph.graph.initializers.items()
        if value.const_value is not None
    }
    operations = tuple(
        Operation(
            node.op_type,
            node.name or "",
            tuple("" if value is None else value.name or "" for value in node.inputs),
            tuple(value.name or "" for value in node.outputs),
            {
                name: _plain(attribute)
                for name, attribute in node.attributes.items()
                if attribute.type not in GRAPHS
            },
            node.domain,
        )
        for node in graph.graph
    )
    return Program(model.signature, operations, constants, graph.opset_imports[""])


def digest_of_weights(model: Model) -> str:
    """SHA-256 of the names and values of a model's constants."""
    digest: str = Constants(program_of(model).constants).to_json()["digest"]
    return digest


def _plain(attribute: ir.Attr) -> Any:
    if attribute.type == ir.AttributeType.TENSOR:
        return attribute.as_tensor().numpy()
    value = attribute.value
    return tuple(value) if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class Reweigh:
    """The graph with other values in some of its constants, of the same shapes and types.

    Raises:
        BadOption: the graph has no such constant, or it has another shape or type.
    """

    name: ClassVar[str] = "reweigh"
    arrays: Constants

    def __call__(self, model: Model) -> Model:
        return rewrite(model, self)

    def edit(self, graph: ir.Model) -> None:
        values = graph.graph.initializers
        for name, array in self.arrays.of.items():
            old = values[name].const_value if name in values else None
            if old is None:
                raise BadOption(
                    f"the model has no constant `{name}`",
                    hint=ANEW,
                )
            if old.shape.numpy() != array.shape or old.dtype.numpy() != array.dtype:
                raise BadOption(
                    f"constant `{name}` is {old.dtype} {list(old.shape.numpy())}, and {array.dtype}"
                    f" {list(array.shape)} was to take its place",
                    hint=ANEW,
                )
            values[name].replace_all_uses_with(constant(graph.graph, f"{name}_tuned", array))
        common.RemoveUnusedNodesPass()(graph)
