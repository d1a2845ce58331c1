"""Build for TensorRT and TensorRT-RTX: the payload is the ONNX file, and how to build from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgedl.backends.as_onnx import AsOnnx
from edgedl.core.target import TENSORRT
from edgedl.runtime.payload import BUILD, Payload


@dataclass(eq=False)
class TensorRtBackend(AsOnnx):
    """One of the two libraries on this machine's GPU.

    Networks are strongly typed: the precision stands in the model, and no setting changes it.

    Attributes:
        build: how engines are built, as `edgedl.runtime.tensorrt.settings.Build` writes it.
    """

    typed = True
    build: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, precision: str) -> Mapping[str, Any]:
        return {"build": dict(self.build)} if self.build else {}

    def payload(self, precision: str, settings: Mapping[str, Any]) -> Payload:
        """What ships of an ONNX file that its engine builds from where it is opened."""
        return Payload(self.engine, BUILD, f"models/{self.engine}.onnx", precision, settings)


BACKEND = TensorRtBackend("tensorrt", TENSORRT)
BACKEND_RTX = TensorRtBackend("tensorrt_rtx", TENSORRT)
