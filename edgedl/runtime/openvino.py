"""OpenVINO's CPU plugin: ONNX in, answers out."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import openvino

from edgedl.core.errors import EngineFailed
from edgedl.core.model import Dimension, Signature, Tensor
from edgedl.runtime.session import InputCheck, Operator, Session, closed

DEVICE = "CPU"
PRECISIONS = {"f32": "float32", "bf16": "bf16", "f16": "float16"}
INTEGER = frozenset({"i8", "u8", "i4", "u4"})
CONVERSIONS = frozenset({"Reorder", "Convert", "FakeQuantize"})
NO_WORK = frozenset({"Input", "Output", "Const", "Parameter", "Result", "Constant", "Reshape"})


@cache
def _core() -> openvino.Core:
    return openvino.Core()


class OpenVinoSession:
    """One compiled model with one infer request; threads take turns."""

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self.signature = Signature(
            tuple(_tensor(port) for port in compiled.inputs),
            tuple(_tensor(port) for port in compiled.outputs),
        )
        self.compiled: openvino.CompiledModel | None = compiled
        self._request: openvino.InferRequest | None = compiled.create_infer_request()
        self._names = [tensor.name for tensor in self.signature.inputs]
        self._outputs = [tensor.name for tensor in self.signature.outputs]
        self._check = InputCheck(self.signature)
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._check(inputs)
        with self._lock:
            request = self._request
            if request is None:
                raise closed()
            try:
                for index, name in enumerate(self._names):
                    array = inputs[name]
                    flags = array.flags
                    if not (flags.c_contiguous and flags.writeable):
                        array = np.array(array, order="C")
                    request.set_input_tensor(
                        index, openvino.Tensor(array, shared_memory=array.ndim > 0)
                    )
                request.infer(share_inputs=True, share_outputs=True)
                return {
                    name: request.get_output_tensor(index).data.copy()
                    for index, name in enumerate(self._outputs)
                }
            except Exception as error:
                raise EngineFailed(f"openvino failed: {_reason(error)}") from error

    def close(self) -> None:
        with self._lock:
            self._request = None
            self.compiled = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    noise = ("Exception from", "Check '", "Summary:")
    telling = [line for line in lines if not line.startswith(noise) and line[-1] != ":"]
    return (telling or lines or [type(error).__name__])[0][:300]


def _tensor(port: Any) -> Tensor:
    shape: list[Dimension] | None = None
    if not port.partial_shape.rank.is_dynamic:
        shape = [d.get_length() if d.is_static else None for d in port.partial_shape]
    dtype = np.dtype(port.element_type.to_dtype()).name
    return Tensor(port.any_name, dtype, None if shape is None else tuple(shape))


class OpenVinoEngine:
    """OpenVINO's CPU plugin.

    `settings["precision"]` (`f32`, `bf16` or `f16`; `f32` where it is absent) is what float
    operators compute in: the plugin's own default may be lower, and is never used by accident.
    """

    name = "openvino"
    version: str = openvino.__version__.split("-")[0]

    def precisions(self) -> tuple[str, ...]:
        offered = _core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
        reduced = [
            name for flag, name in (("BF16", "bf16"), ("FP16", "float16")) if flag in offered
        ]
        return ("float32", *reduced)

    def open_model(
        self, model: bytes | str | Path, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> OpenVinoSession:
        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": settings.get("precision", "f32"),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        source = str(model) if isinstance(model, Path) else model
        try:
            graph = _core().read_model(source)
            return OpenVinoSession(_core().compile_model(graph, DEVICE, config))
        except EngineFailed:
            raise
        except Exception as error:
            raise EngineFailed(f"openvino refuses the model: {_reason(error)}") from error

    def operators(
        self,
        model: bytes | str | Path,
        feed: Mapping[str, np.ndarray],
        *,
        settings: Mapping[str, Any],
        threads: int | None = None,
    ) -> list[Operator]:
        """By the plugin's graph after its fusions; conversions of type or layout have the
        precision `conversion`."""
        session = self.open_model(model, settings=settings, threads=threads)
        assert session.compiled is not None
        found = []
        for node in session.compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            kind = str(info["layerType"].astype(str))
            precision = str(info["runtimePrecision"].astype(str))
            if kind in NO_WORK:
                continue
            if kind in CONVERSIONS:
                precision = "conversion"
            elif precision in INTEGER:
                precision = "int8"
            else:
                precision = PRECISIONS.get(precision, "integer")
            found.append(Operator(kind, precision))
        return found


ENGINE = OpenVinoEngine()
