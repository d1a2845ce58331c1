"""What compressing took before tells what it will take."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedl.line.spent import expected, remember
from edgedl.recipe import Compress


def test_the_median_of_models_alike_in_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path))
    asked = Compress(effort="normal")
    assert expected(asked, 1000) is None
    for size, seconds in ((1000, 10.0), (4000, 30.0), (250, 20.0), (4001, 500.0), (249, 1.0)):
        remember(asked, size, seconds)
    assert expected(asked, 1000) == 20
    assert expected(asked, 10_000) == (30 + 500) / 2
    assert expected(asked, 100_000) is None
    assert expected(Compress(), 1000) is None
    assert expected(Compress(effort="normal", target="openvino"), 1000) is None
