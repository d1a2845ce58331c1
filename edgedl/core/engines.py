"""Engines by name: where the code of each lies, and what a machine must have, none imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgedl.core.registry import EXTRAS, how_to_install

NVIDIA = "an NVIDIA GPU"


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An engine's line. All that goes by its name comes from here: what `installed_engines` finds,
    its target, the line of `edgedl doctor`, the files that a device's wheel takes.

    Attributes:
        runtime: `module:attribute` of its `edgedl.runtime.Engine`.
        backend: `module:attribute` of its `edgedl.backends.Backend`.
        about: which devices it is for, as its target says.
        package: the Python package without which it is not installed; None where that is called
            like the engine.
        provider: of onnxruntime, where it is one.
        needs: what a machine must have beside packages; empty where that is nothing.
        install: how to get it, where `pip install` of the package's extra is not all.
    """

    runtime: str
    backend: str
    about: str
    package: str | None = None
    provider: str | None = None
    needs: str = ""
    install: str = ""


# In the order in which they are taken where there is a choice.
LISTED: Mapping[str, Listed] = {
    "onnxruntime": Listed(
        runtime="edgedl.runtime.ort.engine:ENGINE",
        backend="edgedl.backends.ort:BACKEND",
        about="any CPU, Arm too",
    ),
    "openvino": Listed(
        runtime="edgedl.runtime.openvino.engine:ENGINE",
        backend="edgedl.backends.openvino:BACKEND",
        about="Intel and other x86 CPUs, Arm",
    ),
    "tensorrt": Listed(
        runtime="edgedl.runtime.tensorrt.engine:ENGINE",
        backend="edgedl.backends.tensorrt:BACKEND",
        about="Jetson and other NVIDIA GPUs",
        needs=NVIDIA,
        install="a Jetson has it from its system image (`apt install python3-libnvinfer`); on a"
        " desktop, pip install tensorrt, which fetches from NVIDIA's own index",
    ),
    "tensorrt_rtx": Listed(
        runtime="edgedl.runtime.tensorrt.engine:ENGINE_RTX",
        backend="edgedl.backends.tensorrt:BACKEND_RTX",
        about="NVIDIA RTX GPUs",
        needs=NVIDIA,
    ),
    "onnxruntime-tensorrt": Listed(
        runtime="edgedl.runtime.ort.gpu:TENSORRT",
        backend="edgedl.backends.ort_gpu:TENSORRT_BACKEND",
        about="NVIDIA GPUs, TensorRT in onnxruntime",
        package="onnxruntime",
        provider="tensorrt",
        needs=NVIDIA,
        install=f"pip uninstall onnxruntime; {how_to_install('onnxruntime-gpu')}, and"
        " TensorRT 10 beside it",
    ),
    "onnxruntime-cuda": Listed(
        runtime="edgedl.runtime.ort.gpu:CUDA",
        backend="edgedl.backends.ort_gpu:CUDA",
        about="NVIDIA GPUs, onnxruntime's own kernels",
        package="onnxruntime",
        provider="cuda",
        needs=NVIDIA,
        install=f"pip uninstall onnxruntime; {how_to_install('onnxruntime-gpu')} (the two"
        " packages lie in one folder)",
    ),
}
ON_GPU = frozenset(name for name, one in LISTED.items() if one.needs == NVIDIA)


def package_of(name: str) -> str:
    """The Python package without which an engine is not installed; its name where nobody lists
    it."""
    return (LISTED[name].package if name in LISTED else None) or name


def install_of(name: str) -> str:
    """What brings an engine's package, as a command or in words."""
    if name in LISTED and LISTED[name].install:
        return LISTED[name].install
    package = package_of(name)
    if package == name and name not in EXTRAS:
        return how_to_install(name)
    return how_to_install(EXTRAS[package]) if package in EXTRAS else f"pip install '{package}'"
