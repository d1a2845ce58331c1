"""Bundles for onnxruntime on a GPU that is not here: float16, untimed, opened by others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgedl
from edgedl.core.errors import Missing, Unsupported
from edgedl.runtime import how_to_get, installed_engines
from edgedl.runtime.bundle import read_bundle
from tests.models import conv_net, saved

pytestmark = pytest.mark.skipif(
    "onnxruntime" not in installed_engines() or "onnxruntime-cuda" in installed_engines(),
    reason="needs onnxruntime, and no GPU",
)
NAME = "onnxruntime-cuda"


def samples() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((24, 3, 8, 8)).astype(np.float32)}


def test_without_a_gpu_it_says_what_is_missing(tmp_path: Path) -> None:
    model = saved(conv_net(), tmp_path)
    with pytest.raises((Unsupported, Missing), match=r"NVIDIA GPU|not installed") as caught:
        edgedl.compress(model.path, samples(), tmp_path / "a.edl", target=NAME)
    assert caught.value.hint
    assert how_to_get(NAME)


def test_what_ships_unmeasured_is_opened_by_the_processor_with_a_reason(tmp_path: Path) -> None:
    model, path = saved(conv_net(), tmp_path), tmp_path / "a.edl"
    found = edgedl.compress(model.path, samples(), path, target=NAME, unmeasured=True)
    assert (found.engine, found.precision) == (NAME, "float16")
    assert found.baseline_ms is None
    assert any("no int8 kernels" in one.outcome for one in found.choices)
    assert any("never timed" in doubt for doubt in found.doubts)
    assert not any("parser" in doubt for doubt in found.doubts)
    first, second, *_ = read_bundle(path).payloads
    assert (first.engine, second.engine) == (NAME, "onnxruntime")
    assert (first.part, first.format) == (second.part, second.format)
    with edgedl.open(path, threads=1) as session:
        assert session.opened.engine == "onnxruntime"
        assert session.opened.skipped[0].engine == NAME
        assert "provider" in session.opened.skipped[0].reason.lower()
        assert session.run({"x": samples()["x"][:1]})["logits"].shape == (1, 5)
