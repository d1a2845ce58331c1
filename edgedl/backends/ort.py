"""Build for onnxruntime: the payload is the ONNX file itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from edgedl.core.errors import Unsupported
from edgedl.core.target import ONNXRUNTIME, ONNXRUNTIME_SIGNED, Scheme, Target
from edgedl.runtime import engine
from edgedl.runtime.payload import Payload


class OrtBackend:
    """onnxruntime on the processor."""

    engine = "onnxruntime"
    scheme: Scheme = ONNXRUNTIME
    schemes: tuple[Scheme, ...] = (ONNXRUNTIME_SIGNED,)
    other_kernels: frozenset[str] = frozenset()
    typed = False

    def check(self, target: Target) -> None:
        if self.engine not in target.engines:
            raise Unsupported(f"target `{target.name}` does not run {self.engine}")
        engine(self.engine)

    def floats(self) -> tuple[str, ...]:
        return engine(self.engine).precisions()

    def settings(self, precision: str) -> Mapping[str, Any]:
        return {}

    def rests(self) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def variants(
        self, settings: Mapping[str, Any], kinds: Collection[str]
    ) -> Mapping[str, Mapping[str, Any]]:
        """Without a fusion whose kernel, in 1.31, takes several times what it replaces."""
        if "SkipLayerNormalization" not in kinds or settings.get("unfused"):
            return {}
        return {"norms unfused": {**settings, "unfused": ["SkipLayerNormFusion"]}}

    def compile(
        self, data: bytes, precision: str, settings: Mapping[str, Any] | None = None
    ) -> Payload:
        settings = self.settings(precision) if settings is None else settings
        engine(self.engine).open_model(data, settings=settings, threads=1).close()
        return Payload(self.engine, "onnx", "models/onnxruntime.onnx", precision, settings)


BACKEND = OrtBackend()
