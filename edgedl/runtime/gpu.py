"""Whether this machine has an NVIDIA GPU, without loading a driver, and how to get what uses it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedl.core.registry import how_to_install

ROOT = Path("/")
# A desktop's driver, a Jetson's old and new one, and that of Windows' subsystem for Linux.
DEVICES = ("nvidiactl", "nvhost-gpu", "nvgpu", "dxg")
WINDOWS_DRIVER = Path("C:/Windows/System32/nvcuda.dll")
INSTALL = {
    "tensorrt": "a Jetson has it from its system image (`apt install python3-libnvinfer`); on a"
    " desktop, pip install tensorrt, which fetches from NVIDIA's own index",
    "tensorrt_rtx": how_to_install("tensorrt-rtx"),
    "onnxruntime-cuda": f"pip uninstall onnxruntime; {how_to_install('onnxruntime-gpu')} (the two"
    " packages lie in one folder)",
    "onnxruntime-tensorrt": f"pip uninstall onnxruntime; {how_to_install('onnxruntime-gpu')}, and"
    " TensorRT 10 beside it",
}
# The module of an engine that is not called like it, and the library in its package that it needs.
PROVIDERS = {"onnxruntime-cuda": "cuda", "onnxruntime-tensorrt": "tensorrt"}
# The oldest GPUs on which half the bits are no slower (CUDA programming guide, arithmetic).
FAST = {"float16": (5, 3), "bf16": (8, 0)}
SLOW_HALF = {(6, 1)}


def nvidia_gpu_here(root: Path = ROOT, platform: str = sys.platform) -> bool:
    """Whether the system shows a GPU's driver, which does not say that CUDA can use it."""
    if platform == "win32":
        return (root / WINDOWS_DRIVER.relative_to(WINDOWS_DRIVER.anchor)).exists()
    return any((root / "dev" / name).exists() for name in DEVICES)


def fast_floats(capability: tuple[int, int]) -> tuple[str, ...]:
    """The reduced precisions in which a GPU of this compute capability is no slower."""
    return tuple(
        name
        for name, first in FAST.items()
        if capability >= first and not (name == "float16" and capability in SLOW_HALF)
    )


def provider_here(name: str, find: Callable[[str], Any] = importlib.util.find_spec) -> bool:
    """Whether the onnxruntime that is installed has this engine's provider, found out without
    importing it."""
    try:
        spec = find("onnxruntime")
    except (ImportError, ValueError):
        return False
    folders = [] if spec is None else spec.submodule_search_locations or []
    stem = f"onnxruntime_providers_{PROVIDERS[name]}"
    return any(
        (Path(folder) / "capi" / file).exists()
        for folder in folders
        for file in (f"lib{stem}.so", f"{stem}.dll")
    )
