"""What `edgedl doctor` says of a GPU's engines where there is none, or no driver for it."""

from __future__ import annotations

import pytest

import edgedl
from edgedl.cli.doctor import builds_only
from edgedl.core.errors import Unsupported
from edgedl.runtime.gpu import nvidia_gpu_here
from edgedl.runtime.tensorrt.engine import TensorRtEngine
from edgedl.verbs import looking


@pytest.mark.skipif(nvidia_gpu_here(), reason="this machine has a GPU")
def test_without_a_gpu_a_builder_that_is_here_builds_and_does_not_run() -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'edgedl[tensorrt-rtx]'")
    rows = {row["name"]: row for row in edgedl.doctor()["engines"]}
    found = rows["tensorrt_rtx"]
    assert (found["version"], found["precisions"]) == (None, [])
    assert {"SM75", "SM86", "SM120"} <= set(found["builder"]["ahead_of_time"])
    assert "CURRENT" not in found["builder"]["ahead_of_time"]
    text = builds_only(found)
    assert text.startswith(f"{found['builder']['version']} parses models, and builds ahead of time")
    assert "--unmeasured" in text
    assert text.endswith("runs and times nothing here: it needs an NVIDIA GPU, and the system shows"
                         " none")  # fmt: skip


def test_a_builder_for_its_own_gpu_alone_says_so() -> None:
    row = {"builder": {"version": "10.3.0", "ahead_of_time": []}, "install": "no GPU"}
    assert builds_only(row) == "10.3.0 parses models; runs and times nothing here: no GPU"


def test_a_gpu_whose_driver_is_too_old_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'edgedl[tensorrt-rtx]'")

    def too_old(self: object) -> None:
        raise Unsupported("the driver serves CUDA 11.4, 12.0 is needed", hint="update the driver")

    monkeypatch.setattr(looking, "installed_engines", lambda: ("tensorrt_rtx",))
    monkeypatch.setattr(TensorRtEngine, "ready", too_old)
    found = next(row for row in edgedl.doctor()["engines"] if row["name"] == "tensorrt_rtx")
    assert found["version"] is None
    assert found["install"] == "the driver serves CUDA 11.4, 12.0 is needed; update the driver"
    assert found["builder"] is not None
