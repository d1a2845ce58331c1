"""What the peers' benchmark decides by itself, without a peer."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])


def test_a_setting_is_made_by_the_first_interpreter_that_has_its_packages() -> None:
    from peer_make import Interpreter, able, missing
    from peer_settings import SETTINGS

    plain = Interpreter("a", {"nncf": "3", "openvino": "2026", "onnx": "1", "onnxruntime": "1"})
    aimet = Interpreter("b", {"aimet-onnx": "2", "onnx": "1", "onnxruntime": "1", "torch": "2"})
    assert able(SETTINGS["nncf-accuracy"], [plain, aimet]) == plain
    assert able(SETTINGS["aimet-cle"], [plain, aimet]) == aimet
    assert able(SETTINGS["ort-u8s8"], [plain, aimet]) == plain
    assert able(SETTINGS["aimet-cle"], [plain]) is None
    assert missing(SETTINGS["aimet-cle"], [plain]) == "aimet-onnx"
    without = Interpreter("c", {"aimet-onnx": "2", "onnx": "1", "onnxruntime": "1"})
    assert missing(SETTINGS["aimet-cle"], [plain, without]) == "torch"


def test_every_setting_that_is_made_has_a_maker_and_the_other_way_round() -> None:
    from peer_quantize import MAKERS
    from peer_settings import SETTINGS

    assert set(MAKERS) == {name for name, setting in SETTINGS.items() if setting.is_made}


def test_alike_is_the_share_of_rows_with_the_same_class() -> None:
    from peer_agreement import alike

    expected = {"scores": np.array([[1.0, 2.0], [3.0, 1.0], [0.0, 1.0], [1.0, 0.0]])}
    given = {"scores": np.array([[0.0, 9.0], [1.0, 3.0], [0.0, 1.0], [1.0, 0.0]])}
    assert alike(expected, given, classes=True) == 0.75


def test_alike_is_the_least_cosine_of_any_output_where_there_are_no_classes() -> None:
    from peer_agreement import alike

    expected = {"a": np.array([1.0, 0.0]), "b": np.array([3.0, 4.0])}
    given = {"a": np.array([2.0, 0.0]), "b": np.array([4.0, 3.0])}
    assert alike(expected, given, classes=False) == pytest.approx(24 / 25)


@pytest.mark.parametrize(
    ("x", "y", "same"),
    [([0, 0], [0, 0], 1.0), ([0, 0], [0, 1], 0.0), ([1, 0], [-2, 0], -1.0), ([1, 1], [1, -1], 0.0)],
)
def test_cosine(x: list[float], y: list[float], same: float) -> None:
    from peer_agreement import cosine

    assert cosine(np.array(x), np.array(y)) == pytest.approx(same)


def test_classes_are_not_seen_in_embeddings() -> None:
    from peer_agreement import has_classes

    rows = np.eye(4, dtype=np.float32)
    scores = np.array([[3.0, 1.0, 0.5, 2.0]])
    assert not has_classes([{"embedding": row[None]} for row in rows])
    assert has_classes([{"scores": scores * (1 + i)} for i in range(4)])
    assert not has_classes([{"number": np.array([[0.5]])}])
