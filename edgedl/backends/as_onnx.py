"""Build for an engine that opens ONNX files: all of a backend that has nothing more to say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from edgedl.core.errors import Unsupported
from edgedl.core.target import Scheme, Target
from edgedl.runtime import engine
from edgedl.runtime.payload import Payload


@dataclass(eq=False)
class AsOnnx:
    """A `Backend` whose payload is the ONNX file as it is, opened without settings; an engine that
    takes some stands on this one and says which.

    Attributes:
        engine: its name in `edgedl.core.engines`.
        scheme, schemes, other_kernels: as `Backend` has them.
    """

    engine: str
    scheme: Scheme
    schemes: tuple[Scheme, ...] = ()
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
        return {}

    def compile(
        self, data: bytes, precision: str, settings: Mapping[str, Any] | None = None
    ) -> Payload:
        settings = self.settings(precision) if settings is None else settings
        engine(self.engine).open_model(data, settings=settings, threads=1).close()
        return self.payload(precision, settings)

    def payload(self, precision: str, settings: Mapping[str, Any]) -> Payload:
        """What ships of an ONNX file that opens in these settings."""
        return Payload(self.engine, "onnx", f"models/{self.engine}.onnx", precision, settings)
