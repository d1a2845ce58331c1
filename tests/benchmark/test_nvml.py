"""NVIDIA's library, by a stand-in that answers as it does."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path
from typing import Any

import pytest

from edgedl.benchmark.meters import gpus
from edgedl.benchmark.nvml import Nvml, gpu_bytes, gpu_slowdowns
from tests.benchmark import trees
from tests.benchmark.trees import Steps


class Library:
    """Answers as libnvidia-ml.so.1 of one GPU does, or of several."""

    def __init__(
        self, millijoules: list[int], reasons: int = 0, refuses: int = 0, gpus: int = 1
    ) -> None:
        self.millijoules, self.reasons, self.refuses, self.gpus = (
            millijoules, reasons, refuses, gpus
        )  # fmt: skip

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = self.gpus
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, device: Any) -> int:
        device._obj.value = 4711 + index.value
        return 0

    def nvmlDeviceGetName(self, device: ctypes.c_void_p, name: Any, size: ctypes.c_uint) -> int:
        assert device.value in range(4711, 4711 + self.gpus)
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


def test_what_says_why_a_gpu_is_slow() -> None:
    slowdowns, doubts = gpu_slowdowns(lambda: Nvml(Library([0], reasons=0x8)))
    assert (slowdowns(), doubts) == (("hardware",), ())
    slowdowns, doubts = gpu_slowdowns(lambda: "NVML: nothing there")
    assert slowdowns() == ()
    assert doubts == ("whether the GPU slowed itself is not known: NVML: nothing there",)


def test_nvml_is_asked_where_a_gpu_is_shown(tmp_path: Path) -> None:
    def absent(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    assert Nvml.find(tmp_path, absent) == "NVML: no NVIDIA GPU is shown in /dev"
    trees.write(tmp_path, {"dev/nvidiactl": ""})
    reason = Nvml.find(tmp_path, absent)
    assert reason == "NVML: libnvidia-ml.so.1: cannot open shared object file"
    found = Nvml.find(tmp_path, lambda _: Library([0]))
    assert isinstance(found, Nvml)


class Busy(Library):
    """GPUs with processes on them: of each GPU the number and the bytes of every process, or the
    status with which the library refuses to tell of them."""

    def __init__(self, *processes: list[tuple[int, int]] | int) -> None:
        super().__init__([0], gpus=len(processes))
        self.processes = processes

    def nvmlDeviceGetComputeRunningProcesses_v3(
        self, device: ctypes.c_void_p, count: Any, infos: Any
    ) -> int:
        here = self.processes[(device.value or 0) - 4711]
        if isinstance(here, int):
            return here
        room, count._obj.value = count._obj.value, len(here)
        if room < len(here):
            return 7
        # as the C compiler lays the four fields out, four bytes of padding after the first
        words = b"".join(struct.pack("=I4xQII", pid, size, (1 << 32) - 1, 9) for pid, size in here)
        assert len(words) == 24 * len(here)
        assert len(words) <= ctypes.sizeof(infos)
        ctypes.memmove(infos, words, len(words))
        return 0


def test_the_memory_of_one_process_on_every_gpu() -> None:
    nvml = Nvml(Busy([(7, 1 << 20), (42, 5 << 30)], [], [(42, 3)]))
    assert nvml.used_bytes(42) == (5 << 30) + 3
    assert nvml.used_bytes(7) == 1 << 20


@pytest.mark.parametrize("others", [15, 16, 300])
def test_however_many_processes_there_are_ours_is_found(others: int) -> None:
    crowd = [(1000 + n, n) for n in range(others)]
    assert Nvml(Busy([*crowd, (42, 6)])).used_bytes(42) == 6


def test_a_gpu_that_refuses_does_not_hide_another() -> None:
    assert Nvml(Busy(3, [(42, 6)])).used_bytes(42) == 6


@pytest.mark.parametrize(
    ("library", "words"),
    [
        (Busy([(7, 1)]), "does not list this process"),
        (Busy(3), "does not support it; a GPU within the processor, as a Jetson's, shares"),
        (Busy(4), "no permission"),
        (Busy([(n, 1) for n in range(100, 5000)]), "error 7"),
        (Busy([(42, (1 << 64) - 1)]), "does not tell the memory of a process"),
        (Library([0]), "its driver is too old"),
    ],
)
def test_why_the_memory_of_a_process_is_not_known(library: Library, words: str) -> None:
    reason = gpu_bytes(42, lambda: Nvml(library))
    assert isinstance(reason, str)
    assert reason.startswith("NVML: ")
    assert words in reason


def test_a_jetson_without_nvml_says_why_its_gpu_has_no_memory_of_its_own(tmp_path: Path) -> None:
    trees.jetson_orin(tmp_path)
    trees.write(tmp_path, {"dev/nvhost-gpu": ""})
    reason = gpu_bytes(42, lambda: Nvml.find(tmp_path))
    assert reason == (
        "NVML: it is not for this GPU; a GPU within the processor, as a Jetson's, shares the"
        " system's memory"
    )
