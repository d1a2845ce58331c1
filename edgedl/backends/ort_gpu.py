"""Build for onnxruntime on a GPU: the payload is the ONNX file, its precision written in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgedl.backends.as_onnx import AsOnnx
from edgedl.core.target import ONNXRUNTIME_CUDA, TENSORRT, Target
from edgedl.runtime import engine

NO_INT8 = "onnxruntime's CUDA provider has no int8 kernels: float16 is the way to be faster there"


@dataclass(eq=False)
class OrtGpuBackend(AsOnnx):
    """One of onnxruntime's two providers on this machine's GPU.

    Precision is written into the graph, as for TensorRT. The CUDA provider computes codes in float:
    its scheme puts nothing into int8.

    Attributes:
        build: how TensorRT builds, as `edgedl.runtime.tensorrt.settings.Build` writes it.
    """

    typed = True
    build: Mapping[str, Any] = field(default_factory=dict)

    def check(self, target: Target) -> None:
        super().check(target)
        # the engine's own trial: a provider that does not start is an error before anything is made
        ready = getattr(engine(self.engine), "ready", None)
        if ready is not None:
            ready()

    def settings(self, precision: str) -> Mapping[str, Any]:
        return {"build": dict(self.build)} if self.build else {}

    def variants(
        self, settings: Mapping[str, Any], kinds: Collection[str]
    ) -> Mapping[str, Mapping[str, Any]]:
        """On the CUDA provider, convolutions with the channels last."""
        if self.scheme != ONNXRUNTIME_CUDA or settings.get("channels_last"):
            return {}
        if not any("Conv" in kind for kind in kinds):
            return {}
        return {"channels last": {**settings, "channels_last": True}}


CUDA = OrtGpuBackend("onnxruntime-cuda", ONNXRUNTIME_CUDA)
TENSORRT_BACKEND = OrtGpuBackend("onnxruntime-tensorrt", TENSORRT)
