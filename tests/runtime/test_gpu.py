"""What of a system says that there is a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedl import runtime
from edgedl.core.errors import Missing, Unsupported
from edgedl.runtime import bundle as bundle_module
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.gpu import nvidia_gpu_here
from tests.runtime.shipped import payload, written


@pytest.mark.parametrize("name", ["nvidiactl", "nvhost-gpu", "nvgpu", "dxg"])
def test_a_device_file_tells(name: str, tmp_path: Path) -> None:
    assert not nvidia_gpu_here(tmp_path, "linux")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / name).touch()
    assert nvidia_gpu_here(tmp_path, "linux")


def test_engines_of_gpus_count_only_beside_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "installed", lambda name: True)
    monkeypatch.setattr(runtime, "nvidia_gpu_here", lambda: False)
    assert not {"tensorrt", "tensorrt_rtx"} & set(runtime.installed_engines())
    monkeypatch.setattr(runtime, "nvidia_gpu_here", lambda: True)
    assert {"tensorrt", "tensorrt_rtx"} <= set(runtime.installed_engines())


def test_what_to_do_for_an_engine_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "nvidia_gpu_here", lambda: False)
    assert "no" in runtime.how_to_get("tensorrt_rtx")
    assert "NVIDIA GPU" in runtime.how_to_get("tensorrt")
    assert runtime.how_to_get("openvino") == "pip install 'edgedl[openvino]'"
    monkeypatch.setattr(runtime, "nvidia_gpu_here", lambda: True)
    assert runtime.how_to_get("tensorrt_rtx") == "pip install 'edgedl[tensorrt-rtx]'"
    assert "Jetson" in runtime.how_to_get("tensorrt")


def test_a_bundle_for_a_gpu_says_so_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(written(tmp_path / "a.edl", [payload("tensorrt_rtx", "build")]))
    monkeypatch.setattr(bundle_module, "nvidia_gpu_here", lambda: False)
    with pytest.raises(Unsupported, match="needs an NVIDIA GPU for `tensorrt_rtx`") as caught:
        bundle.payload(None, ("onnxruntime",))
    assert "doctor" in str(caught.value.hint)
    monkeypatch.setattr(bundle_module, "nvidia_gpu_here", lambda: True)
    with pytest.raises(Missing, match="not installed") as absent:
        bundle.payload(None, ("onnxruntime",))
    assert absent.value.hint == "pip install 'edgedl[tensorrt-rtx]'"
