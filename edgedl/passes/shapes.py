"""Fix dynamic dimensions, and infer every shape that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir
import onnx_ir.passes.common as common

from edgedl.core.errors import BadOption, nearest
from edgedl.core.model import Model
from edgedl.passes.graph import rewrite, shape_of


@dataclass(frozen=True)
class Shapes:
    """The named inputs get these shapes; what follows is inferred where it can be.

    Dynamic axes of other inputs and outputs that bear the same name are fixed with them.

    Attributes:
        fixed: dimensions by input name, such as `{"input": (1, 3, 224, 224)}`.

    Raises:
        BadOption: an unknown input, another rank, or a dimension that is already fixed otherwise.
    """

    name: ClassVar[str] = "shapes"
    fixed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __call__(self, model: Model) -> Model:
        return rewrite(model, self)

    def edit(self, graph: ir.Model) -> None:
        named: dict[str, int] = {}
        inputs = {value.name or "": value for value in graph.graph.inputs}
        for name, shape in self.fixed.items():
            if name not in inputs:
                raise BadOption(
                    f"--shape names `{name}`, which is no input", hint=nearest(name, inputs)
                )
            if min(shape, default=1) < 1:
                raise BadOption(
                    f"--shape gives `{name}` a dimension below 1", hint="dimensions count from 1"
                )
            value = inputs[name]
            old = shape_of(value) if value.shape is not None else (None,) * len(shape)
            if len(old) != len(shape):
                raise BadOption(
                    f"--shape gives `{name}` {len(shape)} dimensions, the model has {len(old)}",
                    hint=f"the model says {'x'.join(map(str, old))}",
                )
            for was, becomes in zip(old, shape, strict=True):
                if isinstance(was, int) and was != becomes:
                    raise BadOption(
                        f"--shape sets {becomes} in `{name}`, where the model has {was}",
                        hint=f"the model says {'x'.join(map(str, old))}",
                    )
                if isinstance(was, str) and named.setdefault(was, becomes) != becomes:
                    raise BadOption(
                        f"--shape sets the axis `{was}` to {named[was]} and to {becomes}",
                        hint="an axis has one size wherever it stands",
                    )
            value.shape = ir.Shape(shape)
        if self.fixed:
            self._forget(graph.graph)
            for value in graph.graph.inputs:
                self._apply(value, named)
        for value in graph.graph.outputs:
            self._apply(value, named)
        common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(graph)

    def _apply(self, value: ir.Value, named: Mapping[str, int]) -> None:
        if value.shape is not None:
            value.shape = ir.Shape(
                [named.get(d, d) if isinstance(d, str) else d for d in shape_of(value)]
            )

    def _forget(self, graph: ir.Graph) -> None:
        """Shapes worked out for the dynamic inputs would contradict the fixed ones."""
        outputs = set(graph.outputs)
        for node in graph:
            for value in node.outputs:
                if value not in outputs:
                    value.shape = None
