"""Models that one ONNX file cannot hold: timed and compared, but what ships is smaller."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgedl
from edgedl.core.errors import Unsupported
from edgedl.passes import graph
from edgedl.runtime import installed_engines
from edgedl.search.choose import HEAT_BYTES, _heats
from tests.models import Sketch, feeds, saved
from tests.search.known import candidate

ENGINE = installed_engines()[0]


def wide_net() -> Sketch:
    net = Sketch(5)
    net.node("MatMul", ["x", net.weight("w1", 64, 256)], "h")
    net.node("Relu", ["h"], "r")
    net.node("MatMul", ["r", net.weight("w2", 256, 5)], "logits")
    return net


def test_int8_ships_where_only_that_fits_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(wide_net().model([1, 64], [1, 5]), tmp_path)
    rows = feeds(model.signature, 24)
    samples = {"x": np.concatenate([row["x"] for row in rows])}
    monkeypatch.setattr(graph, "MOST_BYTES", model.bytes // 2)
    found = edgedl.compress(model.path, samples, tmp_path / "o.edl", target=ENGINE, seconds=0.2)
    assert found.bytes < model.bytes // 2
    said = {choice.name: choice.outcome for choice in found.choices}
    assert "an ONNX file holds 2 GiB at most" in said[f"{ENGINE} float32, as given"]
    assert "ships" in said.values()
    assert np.isfinite(found.speedup.ratio)


def test_nothing_that_fits_one_file_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(wide_net().model([1, 64], [1, 5]), tmp_path)
    samples = {"x": np.concatenate([row["x"] for row in feeds(model.signature, 8)])}
    monkeypatch.setattr(graph, "MOST_BYTES", 10)
    with pytest.raises(Unsupported, match="2 GiB at most"):
        edgedl.compress(model.path, samples, tmp_path / "o.edl", target=ENGINE, seconds=0.2)
    assert not (tmp_path / "o.edl").exists()


def test_heats_hold_no_more_than_the_float_model_beside_it(tmp_path: Path) -> None:
    small = [candidate(tmp_path, f"small {i}", 10) for i in range(7)]
    assert [len(heat) for heat in _heats(small, 10)] == [3, 3, 1]
    assert _heats([], 10) == [[]]
    big = HEAT_BYTES // 2
    large = [candidate(tmp_path, f"large {i}", big) for i in range(3)]
    assert [len(heat) for heat in _heats(large, big)] == [2, 1]
    assert [len(heat) for heat in _heats(large, 3 * big)] == [3]
