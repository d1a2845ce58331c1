"""onnxruntime where a GPU is, is not, or is half there, with the processor in its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime

from edgedl.core.store import Store
from edgedl.runtime.ort.gpu import CUDA_PROVIDER, TENSORRT_PROVIDER, OrtGpuEngine

NAMES = {"onnxruntime-cuda": CUDA_PROVIDER, "onnxruntime-tensorrt": TENSORRT_PROVIDER}


def instead(name: str, folder: Path) -> OrtGpuEngine:
    """The engine with onnxruntime's processor in the GPU's place, in child processes, too."""
    return OrtGpuEngine(name, "CPUExecutionProvider", "cpu", store=Store(folder / "kept"))


class Faked(onnxruntime.InferenceSession):
    """Says that it has the providers that were asked for, and computes on the processor."""

    asked: list[Any]
    started: tuple[str, ...] | None = None
    error: Exception | None = None
    places: tuple[tuple[str, str], ...] = ()

    def __init__(self, model: Any, options: Any, *, providers: list[Any], **more: Any) -> None:
        type(self).asked = [providers, more]
        if self.error is not None:
            raise self.error
        super().__init__(model, options, providers=["CPUExecutionProvider"], **more)
        names = [one if isinstance(one, str) else one[0] for one in providers]
        self._told = names if self.started is None else list(self.started)

    def get_providers(self) -> Any:
        return self._told

    def get_provider_graph_assignment_info(self) -> Any:
        return [
            SimpleNamespace(
                ep_name=name, get_nodes=lambda kind=kind: [SimpleNamespace(op_type=kind)]
            )
            for name, kind in self.places
        ]


def faked(name: str, folder: Path, **more: Any) -> tuple[OrtGpuEngine, type[Faked]]:
    """An engine on a module that pretends to have its provider, and the class of its sessions."""
    kind = type("Session", (Faked,), {"asked": [], **more})
    module = SimpleNamespace(
        __version__="1.31.1",
        __file__="faked",
        InferenceSession=kind,
        get_available_providers=lambda: [*NAMES.values(), "CPUExecutionProvider"],
    )
    store = Store(folder / "kept")
    work = f"{__name__}:nothing"
    return OrtGpuEngine(name, NAMES[name], "cpu", module, store=store, open_work=work), kind


def nothing(folder: Path, job: Mapping[str, Any], progress: Any) -> dict[str, Any]:
    """A child process in which all is well."""
    return {}


def crash(folder: Path, job: Mapping[str, Any], progress: Any) -> dict[str, Any]:
    """A driver that brings its process down."""
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def cudnn(folder: Path, job: Mapping[str, Any], progress: Any) -> dict[str, Any]:
    """What onnxruntime-gpu 1.31.1 prints where a library is missing, and our own error."""
    import sys

    from edgedl.core.errors import Unsupported

    print(
        "\x1b[1;31m2026-11-22 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] 1 :"
        " FAIL : Failed to load library libonnxruntime_providers_cuda.so with error: libcudnn.so.9:"
        " cannot open shared object file: No such file or directory\n\x1b[m\n"
        "2026-11-22 [W:onnxruntime:Default] Failed to create CUDAExecutionProvider. Require cuDNN"
        " 9.* and CUDA 13.*. Please install all dependencies",
        file=sys.stderr,
    )
    raise Unsupported("onnxruntime took CPUExecutionProvider in its place")
