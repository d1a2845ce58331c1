"""Whether this machine has an NVIDIA GPU, without loading a driver, and how to get what uses it."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path("/")
# A desktop's driver, a Jetson's old and new one, and that of Windows' subsystem for Linux.
DEVICES = ("nvidiactl", "nvhost-gpu", "nvgpu", "dxg")
WINDOWS_DRIVER = Path("C:/Windows/System32/nvcuda.dll")
INSTALL = {
    "tensorrt": "a Jetson has it from its system image (`apt install python3-libnvinfer`); on a"
    " desktop, pip install tensorrt, which fetches from NVIDIA's own index",
    "tensorrt_rtx": "pip install 'edgedl[tensorrt-rtx]'",
}


def nvidia_gpu_here(root: Path = ROOT, platform: str = sys.platform) -> bool:
    """Whether the system shows a GPU's driver, which does not say that CUDA can use it."""
    if platform == "win32":
        return (root / WINDOWS_DRIVER.relative_to(WINDOWS_DRIVER.anchor)).exists()
    return any((root / "dev" / name).exists() for name in DEVICES)
