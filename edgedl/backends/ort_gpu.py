"""Build for onnxruntime on a GPU: the payload is the ONNX file, its precision written in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgedl.core.errors import Unsupported
from edgedl.core.target import ONNXRUNTIME_CUDA, TENSORRT, Scheme, Target
from edgedl.runtime import engine
from edgedl.runtime.payload import Payload

NO_INT8 = "onnxruntime's CUDA provider has no int8 kernels: float16 is the way to be faster there"


@dataclass
class OrtGpuBackend:
    """One of onnxruntime's two providers on this machine's GPU.

    Precision is written into the graph, as for TensorRT. The CUDA provider computes codes in float:
    its scheme puts nothing into int8.

    Attributes:
        build: how TensorRT builds, as `edgedl.runtime.tensorrt.settings.Build` writes it.
    """

    engine: str
    scheme: Scheme
    build: Mapping[str, Any] = field(default_factory=dict)
    schemes: tuple[Scheme, ...] = ()
    other_kernels: frozenset[str] = frozenset()
    typed = True

    def check(self, target: Target) -> None:
        if self.engine not in target.engines:
            raise Unsupported(f"target `{target.name}` does not run {self.engine}")
        # the engine's own trial: a provider that does not start is an error before anything is made
        ready = getattr(engine(self.engine), "ready", None)
        if ready is not None:
            ready()

    def floats(self) -> tuple[str, ...]:
        return engine(self.engine).precisions()

    def settings(self, precision: str) -> Mapping[str, Any]:
        return {"build": dict(self.build)} if self.build else {}

    def rests(self) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def variants(
        self, settings: Mapping[str, Any], kinds: Collection[str]
    ) -> Mapping[str, Mapping[str, Any]]:
        """On the CUDA provider, convolutions with the channels last."""
        if self.scheme != ONNXRUNTIME_CUDA or settings.get("channels_last"):
            return {}
        if not any("Conv" in kind for kind in kinds):
            return {}
        return {"channels last": {**settings, "channels_last": True}}

    def compile(
        self, data: bytes, precision: str, settings: Mapping[str, Any] | None = None
    ) -> Payload:
        settings = self.settings(precision) if settings is None else settings
        engine(self.engine).open_model(data, settings=settings, threads=1).close()
        return portable(self.engine, precision, settings)


def portable(engine_name: str, precision: str, settings: Mapping[str, Any]) -> Payload:
    """The payload of an ONNX file for one of the two.

    Args:
        settings: as `edgedl.runtime.ort.settings.Running` writes them.
    """
    return Payload(engine_name, "onnx", f"models/{engine_name}.onnx", precision, dict(settings))


CUDA = OrtGpuBackend("onnxruntime-cuda", ONNXRUNTIME_CUDA)
TENSORRT_BACKEND = OrtGpuBackend("onnxruntime-tensorrt", TENSORRT)
