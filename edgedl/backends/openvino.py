"""Build for OpenVINO's CPU plugin: the payload is the ONNX file and the precision to open it in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from edgedl.core.errors import Unsupported
from edgedl.core.target import OPENVINO, OPENVINO_SKEWED, Scheme, Target
from edgedl.runtime import engine
from edgedl.runtime.payload import Payload

HINTS = {"float32": "f32", "int8": "f32", "bf16": "bf16", "float16": "f16"}


class OpenVinoBackend:
    """OpenVINO on the processor."""

    engine = "openvino"
    scheme: Scheme = OPENVINO
    schemes: tuple[Scheme, ...] = (OPENVINO_SKEWED,)
    other_kernels: frozenset[str] = frozenset({"Conv"})
    typed = False

    def check(self, target: Target) -> None:
        if self.engine not in target.engines:
            raise Unsupported(f"target `{target.name}` does not run {self.engine}")
        engine(self.engine)

    def floats(self) -> tuple[str, ...]:
        return engine(self.engine).precisions()

    def settings(self, precision: str) -> Mapping[str, Any]:
        return {"precision": HINTS[precision]}

    def rests(self) -> Mapping[str, Mapping[str, Any]]:
        reduced = self.floats()[1:]
        return {f"rest in {name}": self.settings(name) for name in reduced}

    def variants(
        self, settings: Mapping[str, Any], kinds: Collection[str]
    ) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def compile(
        self, data: bytes, precision: str, settings: Mapping[str, Any] | None = None
    ) -> Payload:
        settings = self.settings(precision) if settings is None else settings
        engine(self.engine).open_model(data, settings=settings, threads=1).close()
        return Payload(self.engine, "onnx", "models/openvino.onnx", precision, settings)


BACKEND = OpenVinoBackend()
