"""The binding: what CUDA's statuses are in words, and the runtime library without a package."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from edgedl.core.errors import EngineFailed, Unsupported
from edgedl.runtime.tensorrt import libcudart
from edgedl.runtime.tensorrt.cuda import CudaRuntime, Memory, find_cuda, version_text
from edgedl.runtime.tensorrt.libcudart import Libcudart
from tests.runtime.tensorrt.fake_cuda import FakeCuda


def test_versions_as_people_write_them() -> None:
    assert [version_text(n) for n in (11040, 12060, 13000, 13050)] == [
        "11.4",
        "12.6",
        "13.0",
        "13.5",
    ]


def test_a_device_says_what_it_is() -> None:
    cuda = CudaRuntime(FakeCuda(device_bytes=1000, capability=(8, 9)))
    found = cuda.device(0)
    assert (found.name, found.capability, found.integrated) == ("Fake Orin", (8, 9), True)
    assert cuda.memory() == Memory(1000, 1000)
    assert (cuda.driver_version(), cuda.runtime_version()) == (12060, 12040)


def test_no_driver() -> None:
    with pytest.raises(Unsupported, match="no NVIDIA driver") as caught:
        CudaRuntime(FakeCuda(driver=0)).device_count()
    assert "install the driver" in str(caught.value.hint)


def test_a_driver_that_is_too_old_names_both_versions() -> None:
    with pytest.raises(Unsupported, match=r"it serves CUDA 11\.4, and this is CUDA 12\.4"):
        CudaRuntime(FakeCuda(driver=11040)).device_count()


def test_no_gpu() -> None:
    with pytest.raises(Unsupported, match="no NVIDIA GPU"):
        CudaRuntime(FakeCuda(gpus=0)).device_count()


def test_too_little_memory_says_how_much_there_is() -> None:
    cuda = CudaRuntime(FakeCuda(device_bytes=3_000_000))
    cuda.allocate(1_000_000)
    with pytest.raises(EngineFailed, match=r"5 MB were asked for, 2 MB of 3 MB are free"):
        cuda.allocate(5_000_000)


def test_too_little_memory_to_pin() -> None:
    fake = FakeCuda()
    fake.refused["cudaMallocHost"] = 2
    with pytest.raises(EngineFailed, match="too little memory to pin: 5 MB"):
        CudaRuntime(fake).allocate_host(5_000_000)


@pytest.mark.parametrize(("status", "words"), [(700, "illegal memory"), (3, "initialization")])
def test_other_failures_are_named(status: int, words: str) -> None:
    fake = FakeCuda()
    cuda = CudaRuntime(fake)
    stream = cuda.stream()
    fake.refused["cudaStreamSynchronize"] = status
    with pytest.raises(EngineFailed, match=words) as caught:
        cuda.synchronize(stream)
    assert "`cudaStreamSynchronize`" in caught.value.message
    assert ("forked" in (caught.value.hint or "")) == (status == 3)


class Silent:
    """A package that is of another library altogether."""


def test_the_first_binding_that_finds_a_gpu_is_taken() -> None:
    old, fits = FakeCuda(driver=12040, runtime=13000), FakeCuda(driver=12040, runtime=12040)
    found = find_cuda(lambda: [Silent(), old, fits])
    assert isinstance(found, CudaRuntime)
    assert found._api is fits


def test_of_several_that_find_none_the_first_tells_why() -> None:
    with pytest.raises(Unsupported, match="too old"):
        find_cuda(lambda: [FakeCuda(driver=12040, runtime=13000), FakeCuda(driver=0)])
    with pytest.raises(Unsupported, match="runtime library is not on this machine") as caught:
        find_cuda(list)
    assert "cuda-python" in str(caught.value.hint)


class Library:
    """`libcudart`, as ctypes shows it: results are written through pointers."""

    def __init__(self) -> None:
        self.cudaGetErrorName = self._named
        self.cudaGetErrorString = self._named
        self.fake = FakeCuda()
        self.seen: list[Any] = []

    class _Named:
        restype: Any = None

        def __call__(self, status: ctypes.c_int) -> bytes:
            return {2: b"out of memory", 700: b"an illegal address"}[status.value]

    _named = _Named()

    def cudaGetDeviceProperties_v2(self, buffer: Any, device: ctypes.c_int) -> int:
        buffer[:11] = b"Orin (nano)"
        return 0

    def cudaMemGetInfo(self, free: Any, total: Any) -> int:
        free._obj.value, total._obj.value = 3, 7
        return 0

    def cudaStreamEndCapture(self, stream: ctypes.c_void_p, graph: Any) -> int:
        graph._obj.value = 0x77
        return 0

    def cudaMemcpyAsync(self, *given: Any) -> int:
        self.seen = [(type(one).__name__, one.value) for one in given]
        return 700

    def cudaMalloc(self, address: Any, size: ctypes.c_size_t) -> int:
        address._obj.value = 1 << 40
        return 0 if size.value < 1 << 35 else 2

    def cudaGetLastError(self) -> int:
        return 0


def test_the_runtime_library_by_itself() -> None:
    library = Library()
    cuda = CudaRuntime(Libcudart(library))
    assert cuda._call("cudaGetDeviceProperties", 0).name == b"Orin (nano)"
    assert cuda.memory() == Memory(3, 7)
    assert cuda.end_capture(5) == 0x77
    assert cuda.allocate(1 << 34) == 1 << 40
    with pytest.raises(EngineFailed, match="3 B of 7 B are free"):
        cuda.allocate(1 << 36)
    with pytest.raises(EngineFailed, match="illegal address"):
        cuda.to_device(1 << 40, 1 << 41, 1 << 33, 1 << 42)
    assert library.seen == [
        ("c_void_p", 1 << 40), ("c_void_p", 1 << 41), ("c_ulong", 1 << 33), ("c_int", 1),
        ("c_void_p", 1 << 42),
    ]  # fmt: skip


def test_every_call_of_the_binding_is_in_the_library_class() -> None:
    theirs = {name for name in vars(FakeCuda) if name.startswith("cuda")}
    assert theirs == {name for name in vars(Libcudart) if name.startswith("cuda")}


def test_libraries_that_do_not_load_are_passed_over() -> None:
    def load(place: str) -> Any:
        if ".13" in place:
            raise OSError(place)
        return Library()

    assert all(isinstance(found, Libcudart) for found in libcudart.libraries(load))
    assert "libcudart.so.13" in list(libcudart.places())


def test_this_machines_own_libraries_answer_in_words() -> None:
    """The real thing, as far as it goes without a GPU: no crash, and a reason."""
    try:
        found = find_cuda()
    except Unsupported as error:
        assert error.hint
    else:
        assert found.device_count() > 0
