"""Build for TensorRT and TensorRT-RTX: the payload is the ONNX file, and how to build from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgedl.core.errors import Unsupported
from edgedl.core.target import TENSORRT, Scheme, Target
from edgedl.runtime import engine
from edgedl.runtime.payload import BUILD, Payload


@dataclass
class TensorRtBackend:
    """One of the two libraries on this machine's GPU.

    Networks are strongly typed: the precision stands in the model, and no setting changes it.

    Attributes:
        build: how engines are built, as `edgedl.runtime.tensorrt.settings.Build` writes it.
    """

    engine: str
    build: Mapping[str, Any] = field(default_factory=dict)
    scheme: Scheme = TENSORRT
    schemes: tuple[Scheme, ...] = ()
    other_kernels: frozenset[str] = frozenset()
    typed = True

    def check(self, target: Target) -> None:
        if self.engine not in target.engines:
            raise Unsupported(f"target `{target.name}` does not run {self.engine}")
        engine(self.engine)

    def floats(self) -> tuple[str, ...]:
        return engine(self.engine).precisions()

    def settings(self, precision: str) -> Mapping[str, Any]:
        return {"build": dict(self.build)} if self.build else {}

    def rests(self) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def variants(
        self, settings: Mapping[str, Any], kinds: Collection[str]
    ) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def compile(
        self, data: bytes, precision: str, settings: Mapping[str, Any] | None = None
    ) -> Payload:
        settings = self.settings(precision) if settings is None else settings
        engine(self.engine).open_model(data, settings=settings, threads=1).close()
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
