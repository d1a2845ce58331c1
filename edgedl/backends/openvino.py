"""Build for OpenVINO's CPU plugin: the payload is the ONNX file and the precision to open it in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgedl.backends.as_onnx import AsOnnx
from edgedl.core.target import OPENVINO, OPENVINO_SKEWED

HINTS = {"float32": "f32", "int8": "f32", "bf16": "bf16", "float16": "f16"}


class OpenVinoBackend(AsOnnx):
    """OpenVINO on the processor."""

    def settings(self, precision: str) -> Mapping[str, Any]:
        return {"precision": HINTS[precision]}

    def rests(self) -> Mapping[str, Mapping[str, Any]]:
        reduced = self.floats()[1:]
        return {f"rest in {name}": self.settings(name) for name in reduced}


BACKEND = OpenVinoBackend(
    "openvino", OPENVINO, schemes=(OPENVINO_SKEWED,), other_kernels=frozenset({"Conv"})
)
