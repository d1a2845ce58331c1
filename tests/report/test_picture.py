"""The slide: 16:9, and drawn whatever the document lacks."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import BadOption
from tests.report.documents import document, many, row, times, two

pytest.importorskip("matplotlib", reason="pip install 'edgedl[plot]'")

from edgedl.report.picture import write_png


def size(path: Path) -> tuple[int, int]:
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", header[16:24])
    return width, height


@pytest.mark.parametrize(
    "found", [two(), many(12), document([row("$only_{x}$.onnx", 0.02)])], ids=["two", "many", "one"]
)
def test_the_slide_has_its_size(found: dict[str, Any], tmp_path: Path) -> None:
    write_png(found, times(found, 300), tmp_path / "out.png")
    assert size(tmp_path / "out.png") == (2560, 1440)


def test_without_samples_and_with_nulls(tmp_path: Path) -> None:
    found = two()
    found["pairs"][0]["low"] = None
    found["rows"][1]["latency_ms"]["p99"] = None
    found["noise_floor"] = None
    write_png(found, {"models/resnet50.edl": np.array([np.nan])}, tmp_path / "out.png")
    assert size(tmp_path / "out.png") == (2560, 1440)


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="no latency to plot"):
        write_png({"rows": [{"artifact": "a"}]}, {}, tmp_path / "out.png")


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="cannot write"):
        write_png(two(), {}, tmp_path / "nowhere" / "out.png")
