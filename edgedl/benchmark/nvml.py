"""NVIDIA's management library (NVML), through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedl.benchmark.kernel_files import ROOT

NOT_SUPPORTED, NO_PERMISSION, INSUFFICIENT_SIZE = 3, 4, 7
WORDS = {NOT_SUPPORTED: "this GPU does not support it", NO_PERMISSION: "no permission"}
NOT_AVAILABLE = (1 << 64) - 1
SHARED = "a GPU within the processor, as a Jetson's, shares the system's memory"
FEW_PROCESSES, MOST_PROCESSES = (16, 256), 4096
SLOWDOWNS = {0x04: "power cap", 0x08: "hardware", 0x20: "heat", 0x40: "heat", 0x80: "power brake"}


class Refused(OSError):
    """NVML's answer to a call that it refuses, with its status, as `nvmlReturn_t` numbers it."""

    def __init__(self, call: str, status: int) -> None:
        super().__init__(f"{call}: {WORDS.get(status, f'error {status}')}")
        self.status = status


class ProcessInfo(ctypes.Structure):
    """`nvmlProcessInfo_t`, the second version, which the third version of the call fills in."""

    _fields_ = [
        ("pid", ctypes.c_uint),
        ("used_bytes", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


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
            if any((root / "dev" / name).exists() for name in ("nvhost-gpu", "nvgpu")):
                return f"NVML: it is not for this GPU; {SHARED}"
            return "NVML: no NVIDIA GPU is shown in /dev"
        try:
            return Nvml(load("libnvidia-ml.so.1"))
        except (OSError, AttributeError) as error:
            return f"NVML: {error}"

    def _call(self, name: str, *arguments: Any) -> None:
        """Raises Refused where NVML refuses, AttributeError where it is too old."""
        status = getattr(self._library, name)(*arguments)
        if status:
            raise Refused(name, status)

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

    def used_bytes(self, pid: int) -> int | str:
        """Memory that a process takes on all GPUs, its CUDA contexts included, in bytes, or why
        that is not known."""
        used: list[int] = []
        reason = (
            "NVML: it does not list this process; in a container, `--pid=host` shows its number"
        )
        for device in self._devices:
            try:
                used += [one.used_bytes for one in self._processes(device) if one.pid == pid]
            except Refused as refused:
                shared = f"; {SHARED}" if refused.status == NOT_SUPPORTED else ""
                reason = f"NVML: {refused}{shared}"
            except AttributeError as error:
                reason = f"NVML: its driver is too old ({error})"
        if NOT_AVAILABLE in used:
            return "NVML: this driver does not tell the memory of a process"
        return sum(used) if used else reason

    def _processes(self, device: ctypes.c_void_p) -> list[ProcessInfo]:
        """The processes that compute on a GPU; there may be more of them at every call."""
        for most in FEW_PROCESSES:
            try:
                return self._listed(device, most)
            except Refused as refused:
                if refused.status != INSUFFICIENT_SIZE:
                    raise
        return self._listed(device, MOST_PROCESSES)

    def _listed(self, device: ctypes.c_void_p, most: int) -> list[ProcessInfo]:
        count, found = ctypes.c_uint(most), (ProcessInfo * most)()
        call = "nvmlDeviceGetComputeRunningProcesses_v3"
        self._call(call, device, ctypes.byref(count), found)
        return found[: count.value]


def gpu_bytes(pid: int, find: Callable[[], Nvml | str] = Nvml.find) -> int | str:
    """Memory that a process takes on NVIDIA's GPUs, in bytes, or why that is not known."""
    nvml = find()
    return nvml if isinstance(nvml, str) else nvml.used_bytes(pid)


def gpu_slowdowns(
    find: Callable[[], Nvml | str] = Nvml.find,
) -> tuple[Callable[[], tuple[str, ...]], tuple[str, ...]]:
    """What says why GPUs run below their clocks, and a doubt where nothing can."""
    nvml = find()
    if isinstance(nvml, str):
        return tuple, (f"whether the GPU slowed itself is not known: {nvml}",)
    return nvml.slowdowns, ()
