"""Static int8: calibrate, plan, then place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from edgedl.core.errors import BadOption, nearest
from edgedl.core.model import Model
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.core.target import SCHEMES
from edgedl.passes.calibrate import calibrate
from edgedl.passes.graph import read, rewrite
from edgedl.passes.layout import EXTENTS, Extent, layout
from edgedl.passes.place import Place
from edgedl.passes.plan import Plan, Quantizer
from edgedl.passes.ranges import METHODS, Histogram, Method, Methods
from edgedl.passes.recurrent import int8_recurrent, own_tensors
from edgedl.passes.scales import decide, not_finite


@dataclass(frozen=True)
class Quantize:
    """The model in int8 by the rules of a target's scheme, as ONNX QDQ with float biases.

    Attributes:
        samples: what calibration runs, bound to the model's signature.
        scheme: the engine whose rules decide.
        method: how a tensor's range is found.
        extent: how far the rules go.
        keep_float: nodes that stay float, and why.
    """

    name: ClassVar[str] = "quantize"
    tolerance: ClassVar[float] = 0.9
    samples: Samples
    scheme: str = "onnxruntime"
    method: Method = "mse"
    extent: Extent = "full"
    keep_float: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, model: Model) -> Model:
        return rewrite(model, Place(self.plan(model)))

    def plan(self, model: Model, progress: Progress = silent) -> Plan:
        """The plan that placing will carry out.

        Raises:
            BadOption: a scheme, method, extent or node that is not there.
        """
        graph = read(model.path)
        nodes = {node.name or "" for node in graph.graph}
        for setting, values, known in (
            ("scheme", [self.scheme], set(SCHEMES)),
            ("method", [self.method], set(METHODS)),
            ("extent", [self.extent], set(EXTENTS)),
            ("node", list(self.keep_float), nodes),
        ):
            for value in values:
                if value not in known:
                    raise BadOption(f"unknown {setting} `{value}`", hint=nearest(value, known))
        found = layout(graph, SCHEMES[self.scheme], extent=self.extent, keep_float=self.keep_float)
        histograms = calibrate(model, found.tensors, self.samples, progress=progress)
        return plan(
            model,
            self.scheme,
            histograms,
            self.method,
            extent=self.extent,
            keep_float=self.keep_float,
        )


def plan(
    model: Model,
    scheme: str,
    histograms: Mapping[str, Histogram],
    method: Methods,
    *,
    extent: Extent = "full",
    keep_float: Mapping[str, str] | None = None,
    given: Mapping[str, Quantizer] | None = None,
) -> Plan:
    """A plan from histograms that were counted before, for any extent within theirs.

    Operators whose tensors were not finite, or were never seen, stay float.

    Args:
        given: quantizers that are decided already, by tensor.
    """
    graph = read(model.path)
    rules = SCHEMES[scheme]
    kept = dict(keep_float or {})
    while True:
        found = layout(graph, rules, extent=extent, keep_float=kept)
        broken = not_finite(found, histograms)
        int8 = {d.node for d in found.decisions if d.precision == "int8"}
        recurrent = int8_recurrent(found.decisions) if broken else ()
        culprits = {node for name in broken for node in found.readers[name] if node in int8} | {
            node.name or ""
            for node in (graph.graph if recurrent else ())
            if node.name in recurrent
            and broken & {value.name for value, _ in own_tensors(node, rules)}
        } or {
            node.name or ""
            for node in (graph.graph if broken else ())
            if node.name in int8 and broken & {value.name for value in node.outputs}
        }
        if not broken or not culprits:
            return decide(found, rules, histograms, method, given)
        kept |= dict.fromkeys(culprits, "a tensor of its was not finite during calibration")
