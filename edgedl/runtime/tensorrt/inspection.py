"""What an engine consists of and what each part takes, by TensorRT's own inspector and profiler."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgedl.runtime.session import Operator
from edgedl.runtime.tensorrt.session import TensorRtSession

WARM_RUNS = 10
CONVERSIONS = frozenset({"reformat", "cast", "quantize", "dequantize", "scale_conversion"})
NODES = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
# By what the inspector writes of a tensor's format, in lower case; the first that fits tells.
PRECISIONS = (
    ("fp8", "fp8"),
    ("bf16", "bf16"),
    ("bfloat16", "bf16"),
    ("fp16", "float16"),
    ("half", "float16"),
    ("int8", "int8"),
    ("int4", "int4"),
    ("fp32", "float32"),
    ("float", "float32"),
)


def operators_of(
    trt: Any, session: TensorRtSession, feed: Mapping[str, np.ndarray], runs: int
) -> list[Operator]:
    """The layers of one run, timed by the median over `runs` of them where there are more than one.

    Kinds, precisions and the model's own nodes are told of an engine that was built in detail; of
    another one, names alone.

    Raises:
        WrongInput: the feed is not the engine's. EngineFailed: it failed while it ran.
    """
    ready, bound = session.bound(feed)
    context = ready.context(bound)
    times: dict[str, list[float]] = {}
    profiler = _profiler(trt, times)
    context.profiler = profiler
    for turn in range(runs + WARM_RUNS if runs > 1 else 1):
        if turn == WARM_RUNS and runs > 1:
            times.clear()
        session.run(feed)
    inspector = session.inspector()
    inspector.execution_context = context
    information = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return described(information, times if runs > 1 else {}, set(times))


def _profiler(trt: Any, times: dict[str, list[float]]) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.setdefault(layer_name, []).append(ms)

    return Profiler()


def described(
    information: str, times: Mapping[str, list[float]], ran: set[str] | None = None
) -> list[Operator]:
    """Operators from the inspector's JSON, a layer each.

    Args:
        times: milliseconds of each layer's runs, by name.
        ran: layers that the profiler told of, which the inspector may not name.
    """
    layers = json.loads(information).get("Layers", [])
    found = [_operator(layer, times) for layer in layers]
    missing = sorted((ran or set()) - {operator.name for operator in found})
    return found + [Operator("layer", "", name, _us(times, name)) for name in missing]


def _operator(layer: Any, times: Mapping[str, list[float]]) -> Operator:
    if isinstance(layer, str):
        return Operator("layer", "", layer, _us(times, layer))
    name, kind = str(layer.get("Name", "")), str(layer.get("LayerType", "layer"))
    nodes = tuple(dict.fromkeys(NODES.findall(str(layer.get("Metadata", "")))))
    return Operator(kind, _precision(kind, layer), name, _us(times, name), layers=nodes)


def _us(times: Mapping[str, list[float]], name: str) -> float | None:
    return float(np.median(times[name])) * 1e3 if times.get(name) else None


def _precision(kind: str, layer: Mapping[str, Any]) -> str:
    """What a layer reads its first tensor in."""
    if kind.lower() in CONVERSIONS:
        return "conversion"
    tensors = [*layer.get("Inputs", ()), *layer.get("Outputs", ())]
    for tensor in tensors:
        text = str(tensor.get("Format/Datatype", "")).lower()
        for word, precision in PRECISIONS:
            if word in text:
                return precision
    return "integer"
