"""NVIDIA's management library (NVML), through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedl.benchmark.machine import ROOT

SLOWDOWNS = {0x04: "power cap", 0x08: "hardware", 0x20: "heat", 0x40: "heat", 0x80: "power brake"}


class Nvml:
    """NVIDIA's management library, through ctypes; `names` are those of the GPUs."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._call("nvmlInit_v2")
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        self._devices = [self._device(index) for index in range(count.value)]
        self.names = tuple(self._name(device) for device in self._devices)

    @staticmethod
    def find(root: Path = ROOT, load: Callable[[str], Any] = ctypes.CDLL) -> Nvml | str:
        """The library, or why it cannot be used."""
        if not any((root / "dev" / name).exists() for name in ("nvidiactl", "dxg")):
            return "NVML: no NVIDIA GPU is shown in /dev"
        try:
            return Nvml(load("libnvidia-ml.so.1"))
        except (OSError, AttributeError) as error:
            return f"NVML: {error}"

    def _call(self, name: str, *arguments: Any) -> None:
        """Raises OSError where NVML refuses, AttributeError where it is too old."""
        status = getattr(self._library, name)(*arguments)
        if status:
            words = {3: "this GPU does not support it", 4: "no permission"}
            raise OSError(f"{name}: {words.get(status, f'error {status}')}")

    def _device(self, index: int) -> ctypes.c_void_p:
        device = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device))
        return device

    def _name(self, device: ctypes.c_void_p) -> str:
        buffer = ctypes.create_string_buffer(96)
        self._call("nvmlDeviceGetName", device, buffer, ctypes.c_uint(len(buffer)))
        return buffer.value.decode(errors="replace")

    def energy_j(self, index: int) -> float:
        """Joules that a GPU has used since its driver was loaded; raises OSError, AttributeError
        where it does not count them."""
        millijoules = ctypes.c_ulonglong()
        call = "nvmlDeviceGetTotalEnergyConsumption"
        self._call(call, self._devices[index], ctypes.byref(millijoules))
        return millijoules.value / 1e3

    def slowdowns(self) -> tuple[str, ...]:
        """Why GPUs run below their clocks now."""
        found: dict[str, None] = {}
        for device in self._devices:
            reasons = ctypes.c_ulonglong()
            call = "nvmlDeviceGetCurrentClocksThrottleReasons"
            try:
                self._call(call, device, ctypes.byref(reasons))
            except (OSError, AttributeError):
                continue
            found.update({word: None for bit, word in SLOWDOWNS.items() if reasons.value & bit})
        return tuple(found)
