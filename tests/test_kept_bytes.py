"""What sparsity and palettes promise, bytes, is kept by the file that ships."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgedl
from edgedl.runtime import installed_engines
from edgedl.runtime.bundle import open_bundle
from tests.models import Sketch, saved

ENGINE = "onnxruntime"
INPUTS, HIDDEN = 128, 320
Change = Callable[[np.ndarray], np.ndarray]


def sparse(weight: np.ndarray) -> np.ndarray:
    """The least three quarters set to zero."""
    return np.where(np.abs(weight) < np.quantile(np.abs(weight), 0.75), 0, weight)


def palette(weight: np.ndarray) -> np.ndarray:
    """Sixteen values, evenly spaced: of each column's largest, as its int8 scale is."""
    largest = np.abs(weight).max(axis=0)
    return np.round(weight / largest * 7.5 - 0.5 + 1e-6) / 7.5 * largest


def shipped(folder: Path, change: Change | None) -> Path:
    """The bundle of two dense layers of 143,000 weights, in int8."""
    net = Sketch()
    for name, shape in (("first", (INPUTS, HIDDEN)), ("second", (HIDDEN, HIDDEN))):
        weight = net.random.standard_normal(shape) / np.sqrt(shape[0])
        changed = weight if change is None else change(weight)
        net.node(
            "MatMul",
            ["x" if name == "first" else "first_relu", net.constant(f"{name}_w",
             changed.astype(np.float32))], name,
        )  # fmt: skip
        net.node("Relu", [name], f"{name}_relu")
    net.node("MatMul", ["second_relu", net.weight("third_w", HIDDEN, 5)], "logits")
    folder.mkdir()
    model = saved(net.model([1, INPUTS], [1, 5]), folder)
    arrays = {"x": np.random.default_rng(1).standard_normal((24, INPUTS)).astype(np.float32)}
    out = folder / "out.edl"
    # int8, whatever is faster here: a quarter of float32, and what goes with it.
    limit = 160_000
    found = edgedl.compress(model.path, arrays, out, target=ENGINE, max_bytes=limit, seconds=0.3)
    assert found.bytes == out.stat().st_size <= limit
    assert not found.broken
    assert edgedl.check(out).ok
    return out


@pytest.mark.skipif(ENGINE not in installed_engines(), reason="onnxruntime is not installed")
def test_zeros_and_palettes_ship_in_fewer_bytes(tmp_path: Path) -> None:
    dense = shipped(tmp_path / "dense", None).stat().st_size
    for name, change, least in (("sparse", sparse, 1.8), ("palette", palette, 1.3)):
        bundle = shipped(tmp_path / name, change)
        assert open_bundle(bundle).payloads[0].format == "onnx+deflate"
        assert dense >= least * bundle.stat().st_size, name
