"""What OpenVINO tells of the operators that it ran: kernels, precisions, and times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgedl.runtime.openvino.session import OpenVinoSession
from edgedl.runtime.session import Operator

PRECISIONS = {"f32": "float32", "bf16": "bf16", "f16": "float16"}
INTEGER = frozenset({"i8", "u8", "i4", "u4"})
CONVERSIONS = frozenset({"Reorder", "Convert", "FakeQuantize"})
BODIES = frozenset({"If", "Loop", "TensorIterator"})
NO_WORK = frozenset({"Input", "Output", "Const", "Parameter", "Result", "Constant", "Reshape"})
WARM_CALLS = 10


def operators_of(
    session: OpenVinoSession, feed: Mapping[str, np.ndarray], runs: int
) -> list[Operator]:
    """The operators of a session that was compiled to be profiled, as its engine tells them."""
    ran = _ran(session, feed, runs)
    assert session.compiled is not None
    nodes = session.compiled.get_runtime_model().get_ops()
    found = [_operator(node, *ran[name]) for node in nodes if (name := _name(node)) in ran]
    return [operator for operator in found if operator.us or operator.kind not in NO_WORK]


def _ran(
    session: OpenVinoSession, feed: Mapping[str, np.ndarray], runs: int
) -> dict[str, tuple[float | None, str]]:
    """Operators by name: their microseconds in a call (None for a single run), and the kernel."""
    warm_calls = WARM_CALLS if runs > 1 else 0
    for _ in range(warm_calls):
        session.run(feed)
    warm = session.executed()
    for _ in range(runs):
        session.run(feed)
    return {
        name: (
            mean_since(warm.get(name, (0.0, ""))[0], warm_calls, mean, runs) if runs > 1 else None,
            kernel,
        )
        for name, (mean, kernel) in session.executed().items()
    }


def mean_since(warm_mean: float, warm_calls: int, mean: float, calls: int) -> float:
    """The mean of the last `calls` calls, in the unit of both: the plugin's own begins at the very
    first one."""
    return max((mean * (warm_calls + calls) - warm_mean * warm_calls) / calls, 0.0)


def _operator(node: Any, us: float | None, kernel: str) -> Operator:
    info = node.get_rt_info()
    kind = str(info["layerType"].astype(str))
    precision = _precision(kind, str(info["runtimePrecision"].astype(str)))
    layers = str(info["originalLayersNames"].astype(str))
    fused = tuple(layers.split(",")) if layers else ()
    return Operator(kind, precision, _name(node), us, kernel.startswith("ref"), fused)


def _precision(kind: str, plugins: str) -> str:
    if kind in CONVERSIONS:
        return "conversion"
    if kind in BODIES:
        return "integer"  # its condition's or counter's; the plugin does not tell of the body
    return "int8" if plugins in INTEGER else PRECISIONS.get(plugins, "integer")


def _name(node: Any) -> str:
    return str(node.get_friendly_name())
