"""onnxruntime's CPU engine: ONNX in, answers out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edgedl.core.errors import EngineFailed, first_line
from edgedl.runtime.ort.profile import profiled, profiling
from edgedl.runtime.ort.session import OrtSession, ReusingSession, session_options
from edgedl.runtime.session import Operator

# In a smaller model, looking for stored weights takes longer than onnxruntime takes to fold them.
LEAST_EXPANDED_BYTES = 1 << 20


class _Holding(onnxruntime.InferenceSession):
    """A session of weights that lie in arrays of ours, which live as long as it does."""

    def __init__(self, weights: Sequence[onnxruntime.OrtValue], *words: Any, **more: Any) -> None:
        super().__init__(*words, **more)
        self._weights = weights


def _engine(
    model: bytes | str | Path,
    options: Callable[[], onnxruntime.SessionOptions],
    settings: Mapping[str, Any],
) -> onnxruntime.InferenceSession:
    """A session; of a payload's bytes with weights that are stored in 8 bits expanded beforehand,
    unless onnxruntime does not take them so."""
    more: dict[str, Any] = {
        "providers": ["CPUExecutionProvider"],
        "disabled_optimizers": settings.get("unfused"),
    }
    lean: bytes | str | Path = model
    weights: dict[str, np.ndarray] = {}
    if isinstance(model, bytes) and len(model) >= LEAST_EXPANDED_BYTES:
        from edgedl.runtime.expand import expand

        lean, weights = expand(model)
    if weights:
        with contextlib.suppress(Exception):
            held = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
            given = options()
            given.add_external_initializers(list(weights), held)
            return _Holding(held, lean, given, **more)
    source = str(model) if isinstance(model, Path) else model
    try:
        return onnxruntime.InferenceSession(source, options(), **more)
    except Exception as error:
        raise EngineFailed(f"onnxruntime refuses the model: {first_line(error)}") from error


def _of_kind(settings: Mapping[str, Any]) -> type[OrtSession]:
    return ReusingSession if settings.get("reuse_outputs") else OrtSession


class OrtEngine:
    """onnxruntime on the processor.

    `settings["memory_pattern"]` False plans no memory ahead, which keeps the peak low where a
    model has many large outputs; `settings["reuse_outputs"]` True makes a `ReusingSession`;
    `settings["unfused"]` names optimizers of onnxruntime that are left out.
    """

    name = "onnxruntime"
    version: str = onnxruntime.__version__
    on_gpu = False

    def precisions(self) -> tuple[str, ...]:
        return ("float32",)

    def open_model(
        self, model: bytes | str | Path, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> OrtSession:
        return _of_kind(settings)(
            _engine(model, lambda: session_options(threads, settings), settings)
        )

    def open_and_compile(
        self, model: bytes, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> tuple[OrtSession, bytes]:
        """A model whose stored weights are expanded is not compiled: it would be four times as
        large."""
        from edgedl.runtime.expand import expand

        if len(model) >= LEAST_EXPANDED_BYTES and expand(model)[1]:
            return self.open_model(model, settings=settings, threads=threads), b""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"

            def options() -> onnxruntime.SessionOptions:
                made = session_options(threads, settings)
                made.optimized_model_filepath = str(optimized)
                return made

            session = _of_kind(settings)(_engine(model, options, settings))
            return session, optimized.read_bytes()

    def open_compiled(
        self, data: memoryview, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> OrtSession:
        options = session_options(threads, settings)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            opened = onnxruntime.InferenceSession(
                bytes(data), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise EngineFailed(f"onnxruntime refuses its own model: {first_line(error)}") from error
        return _of_kind(settings)(opened)

    def operators(
        self,
        model: bytes | str | Path,
        feed: Mapping[str, np.ndarray],
        *,
        settings: Mapping[str, Any],
        threads: int | None = None,
        runs: int = 1,
    ) -> list[Operator]:
        """By onnxruntime's profile; conversions between types have the precision `conversion`.

        More `runs` than one are timed after a warm-up: each operator's median in whole
        microseconds. A fallback is a float operator that stands alone between a DequantizeLinear
        and a QuantizeLinear, told from the order of execution and the shapes.
        """

        def opened(prefix: str) -> onnxruntime.InferenceSession:
            def options() -> onnxruntime.SessionOptions:
                return profiling(session_options(threads), prefix)

            return _engine(model, options, settings)

        return profiled(opened, feed, runs)


ENGINE = OrtEngine()
