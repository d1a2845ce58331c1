"""OpenVINO's CPU plugin: models compiled, exported and imported, and what it offers."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from edgedl.core.errors import EngineFailed
from edgedl.core.isa import ISA_CAPS, ISA_VARIABLE
from edgedl.runtime.openvino.kernels import prefer_direct
from edgedl.runtime.openvino.profile import operators_of
from edgedl.runtime.openvino.session import ImportedSession, OpenVinoSession, reason
from edgedl.runtime.session import Operator

DEVICE = "CPU"
# In front of what it exported: how long the names of its inputs and outputs are, then these.
NAMES, ALIGN = struct.Struct("<Q"), 64


@cache
def _core() -> openvino.Core:
    return openvino.Core()


def _config(settings: Mapping[str, Any], threads: int | None, *, profiled: bool) -> dict[str, Any]:
    at_once = settings.get("at_once", 1)
    config: dict[str, Any] = {
        "PERF_COUNT": profiled,
        "INFERENCE_PRECISION_HINT": settings.get("precision", "f32"),
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": at_once,
    }
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads * at_once
    return config


class OpenVinoEngine:
    """OpenVINO's CPU plugin.

    `settings["precision"]` (`f32`, `bf16` or `f16`; `f32` where it is absent) is what float
    operators compute in: the plugin's own default may be lower, and is never used by accident.
    `settings["other_kernels"]` names convolutions that take the plugin's direct kernels.
    `settings["at_once"]` is how many calls run at once, 1 where it is absent, each with as many
    processor threads as `threads` says.
    """

    name = "openvino"
    version: str = openvino.__version__.split("-")[0]
    on_gpu = False

    def precisions(self) -> tuple[str, ...]:
        if os.environ.get(ISA_VARIABLE) in ISA_CAPS.values():
            return ("float32",)  # the plugin goes on offering bf16, on reference kernels
        offered = _core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
        reduced = [
            name for flag, name in (("BF16", "bf16"), ("FP16", "float16")) if flag in offered
        ]
        return ("float32", *reduced)

    def open_model(
        self, model: bytes | str | Path, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> OpenVinoSession:
        return self._compiled(model, settings, threads, profiled=False)

    def _compiled(
        self,
        model: bytes | str | Path,
        settings: Mapping[str, Any],
        threads: int | None,
        *,
        profiled: bool,
    ) -> OpenVinoSession:
        at_once = settings.get("at_once", 1)
        config = _config(settings, threads, profiled=profiled)
        source = str(model) if isinstance(model, Path) else model
        try:
            graph = _core().read_model(source)
            prefer_direct(_core(), graph, frozenset(settings.get("other_kernels", ())))
            ports = (graph.inputs, graph.outputs)
            inputs, outputs = ([port.any_name for port in some] for some in ports)
            compiled = _core().compile_model(graph, DEVICE, config)
            return OpenVinoSession(compiled, (inputs, outputs), at_once)
        except EngineFailed:
            raise
        except Exception as error:
            raise EngineFailed(f"openvino refuses the model: {reason(error)}") from error

    def open_and_compile(
        self, model: bytes, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> tuple[OpenVinoSession, bytes]:
        session = self.open_model(model, settings=settings, threads=threads)
        assert session.compiled is not None
        try:
            exported = session.compiled.export_model()
        except Exception:
            return session, b""
        blob = exported if isinstance(exported, bytes) else exported.getvalue()
        ports = (session.signature.inputs, session.signature.outputs)
        names = json.dumps([[tensor.name for tensor in some] for some in ports]).encode()
        size = -(-(NAMES.size + len(names)) // ALIGN) * ALIGN
        return session, (NAMES.pack(len(names)) + names).ljust(size, b" ") + blob

    def open_compiled(
        self, data: memoryview, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> OpenVinoSession:
        try:
            [length] = NAMES.unpack_from(data)
            inputs, outputs = json.loads(bytes(data[NAMES.size : NAMES.size + length]))
            blob = np.frombuffer(data[-(-(NAMES.size + length) // ALIGN) * ALIGN :], np.uint8)
            config = _config(settings, threads, profiled=False)
            blob = blob if blob.flags.writeable else blob.copy()
            try:
                held = openvino.Tensor(blob, shared_memory=True)
                compiled = _core().import_model(held, DEVICE, config)
            except TypeError:  # a version that takes bytes alone
                held, compiled = None, _core().import_model(blob.tobytes(), DEVICE, config)
            at_once = settings.get("at_once", 1)
            return ImportedSession((blob, held), compiled, (inputs, outputs), at_once)
        except Exception as error:
            raise EngineFailed(f"openvino refuses its own model: {reason(error)}") from error

    def operators(
        self,
        model: bytes | str | Path,
        feed: Mapping[str, np.ndarray],
        *,
        settings: Mapping[str, Any],
        threads: int | None = None,
        runs: int = 1,
    ) -> list[Operator]:
        """By the plugin's graph after its fusions, less what it worked out while it compiled;
        conversions of type or layout have the precision `conversion`.

        More `runs` than one are timed after a warm-up: each operator's mean, since the plugin
        tells no single call's times, from its whole microseconds. A fallback is computed by a
        reference kernel.
        """
        session = self._compiled(model, settings, threads, profiled=True)
        try:
            return operators_of(session, feed, runs)
        finally:
            session.close()


ENGINE = OpenVinoEngine()
