"""NVIDIA's library, by a stand-in that answers as it does."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from edgedl.benchmark.meters import gpus
from edgedl.benchmark.nvml import Nvml
from tests.benchmark import trees
from tests.benchmark.trees import Steps


class Library:
    """Answers as libnvidia-ml.so.1 of one GPU does."""

    def __init__(self, millijoules: list[int], reasons: int = 0, refuses: int = 0) -> None:
        self.millijoules, self.reasons, self.refuses = millijoules, reasons, refuses

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 1
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, device: Any) -> int:
        device._obj.value = 4711 + index.value
        return 0

    def nvmlDeviceGetName(self, device: ctypes.c_void_p, name: Any, size: ctypes.c_uint) -> int:
        assert device.value == 4711
        assert size.value == len(name)
        name.value = b"NVIDIA H200"
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device: ctypes.c_void_p, energy: Any) -> int:
        assert device.value == 4711
        energy._obj.value = (
            self.millijoules[0] if len(self.millijoules) == 1 else self.millijoules.pop(0)
        )
        return self.refuses

    def nvmlDeviceGetCurrentClocksThrottleReasons(
        self, device: ctypes.c_void_p, reasons: Any
    ) -> int:
        reasons._obj.value = self.reasons
        return 0


def test_nvml_counts_millijoules() -> None:
    nvml = Nvml(Library([5_000, 5_000, 47_500]))
    meter = gpus(nvml, Steps())
    assert not isinstance(meter, str)
    assert nvml.names == ("NVIDIA H200",)
    assert meter.counted == ("gpu 0 NVIDIA H200",)
    meter.start()
    assert meter.stop() == {"gpu 0 NVIDIA H200": 42.5}


def test_a_gpu_without_a_counter_says_so() -> None:
    reason = gpus(Nvml(Library([0], refuses=3)))
    expected = "NVML: nvmlDeviceGetTotalEnergyConsumption: this GPU does not support it"
    assert reason == expected


def test_why_a_gpu_is_slow() -> None:
    assert Nvml(Library([0], reasons=0x1)).slowdowns() == ()
    assert Nvml(Library([0], reasons=0x4 | 0x20 | 0x40)).slowdowns() == ("power cap", "heat")


def test_nvml_is_asked_where_a_gpu_is_shown(tmp_path: Path) -> None:
    def absent(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    assert Nvml.find(tmp_path, absent) == "NVML: no NVIDIA GPU is shown in /dev"
    trees.write(tmp_path, {"dev/nvidiactl": ""})
    reason = Nvml.find(tmp_path, absent)
    assert reason == "NVML: libnvidia-ml.so.1: cannot open shared object file"
    found = Nvml.find(tmp_path, lambda _: Library([0]))
    assert isinstance(found, Nvml)
