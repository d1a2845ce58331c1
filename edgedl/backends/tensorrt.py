"""Build for TensorRT and TensorRT-RTX: the payload is the ONNX file, and how to build from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgedl.backends.installed import Installed
from edgedl.core.target import TENSORRT, Scheme
from edgedl.runtime.payload import BUILD, Payload


@dataclass
class TensorRtBackend(Installed):
    """One of the two libraries on this machine's GPU.

    Networks are strongly typed: the precision stands in the model, and no setting changes it.

    Attributes:
        build: how engines are built, as `edgedl.runtime.tensorrt.settings.Build` writes it.
    """

    engine: str
    build: Mapping[str, Any] = field(default_factory=dict)
    scheme: Scheme = TENSORRT
    typed = True

    def settings(self, precision: str) -> Mapping[str, Any]:
        return {"build": dict(self.build)} if self.build else {}

    def payload(self, precision: str, settings: Mapping[str, Any]) -> Payload:
        return portable(self.engine, precision, settings)


def portable(engine_name: str, precision: str, settings: Mapping[str, Any]) -> Payload:
    """The payload of an ONNX file that its engine builds from where it is opened.

    Args:
        settings: `build`, as `edgedl.runtime.tensorrt.settings.Build` writes it, where anything is
            to be said.
    """
    return Payload(engine_name, BUILD, f"models/{engine_name}.onnx", precision, dict(settings))


BACKEND = TensorRtBackend("tensorrt")
BACKEND_RTX = TensorRtBackend("tensorrt_rtx")
