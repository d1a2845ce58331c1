"""Whether this machine has an NVIDIA GPU, and an onnxruntime for it, without loading a driver."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedl.core.engines import LISTED

ROOT = Path("/")
# A desktop's driver, a Jetson's old and new one, and that of Windows' subsystem for Linux.
DEVICES = ("nvidiactl", "nvhost-gpu", "nvgpu", "dxg")
WINDOWS_DRIVER = Path("C:/Windows/System32/nvcuda.dll")
# Engines that are onnxruntime's, and what each is called there.
PROVIDERS = {name: one.provider for name, one in LISTED.items() if one.provider}
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
