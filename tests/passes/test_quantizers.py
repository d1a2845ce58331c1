"""Quantizers of any tool's graph are found, and with all of them off the float model is back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime.quantization as peer
import pytest

from edgedl.core.model import Model
from edgedl.passes.fold import Fold
from edgedl.passes.graph import open_model, rewrite
from edgedl.passes.quantizers import Grid, codes_of, dequantized, limits_of
from edgedl.passes.switches import Switchboard, switchboard
from tests.models import NETS, answers, feeds, saved

FORMATS = ("qdq", "qoperator", "dynamic")


class Calibration(peer.CalibrationDataReader):
    """A few feeds, one after the other."""

    def __init__(self, rows: list[dict[str, np.ndarray]]) -> None:
        self.rows = iter(rows)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.rows, None)


def peers(model: Model, folder: Path, kind: str, **options: object) -> Model:
    path = folder / f"{kind}.onnx"
    if kind == "dynamic":
        peer.quantize_dynamic(model.path, path, weight_type=peer.QuantType.QInt8)
    else:
        formats = {"qdq": peer.QuantFormat.QDQ, "qoperator": peer.QuantFormat.QOperator}
        rows = feeds(model.signature, 8)
        peer.quantize_static(
            model.path, path, Calibration(rows), quant_format=formats[kind],
            weight_type=peer.QuantType.QInt8, **options,
        )  # fmt: skip
    return open_model(path)


@pytest.fixture(params=["conv", "depthwise", "gemm", "matmul", "attention", "residual", "concat"])
def floats(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    return saved(NETS[request.param](), tmp_path)


def power(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> float:
    x, y = next(iter(a.values())), next(iter(b.values()))
    return float(np.sum((x - y) ** 2) / np.sum(x**2))


@pytest.fixture
def row(floats: Model) -> dict[str, np.ndarray]:
    return feeds(floats.signature, 1, seed=7)[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FORMATS)
def test_off_is_float_and_on_is_the_quantized_model(
    floats: Model, row: dict[str, np.ndarray], kind: str, tmp_path: Path
) -> None:
    quantized = peers(floats, tmp_path, kind)
    [expected], [coded] = answers(floats.path, [row]), answers(quantized.path, [row])
    with switchboard(quantized, [floats, rewrite(floats, Fold())], {}) as board:
        if board.left:
            pytest.skip(f"not taken apart: {board.left}")
        assert any(one.kind == "weight" for one in board.found)
        off, on = (_run(board, row, given=given) for given in (False, True))
    lost = power(expected, coded)
    assert power(expected, off) < 1e-9
    assert power(coded, on) < max(0.5 * lost, 1e-9)
    assert lost / 4 < power(expected, on) < lost * 4


def _run(board: Switchboard, row: dict[str, np.ndarray], *, given: bool) -> dict[str, np.ndarray]:
    with board.open(board.all_on if given else {}) as session:
        return session.run(row)


def test_codes_and_values_by_hand() -> None:
    grid = Grid(np.float32(0.5), np.asarray(3), 0, 7)
    values = np.asarray([-9, -0.25, 0.25, 0.75, 9], np.float32)
    assert codes_of(values, grid).tolist() == [0, 3, 3, 5, 7]
    assert dequantized(codes_of(values, grid), grid).tolist() == [-1.5, 0, 0, 1, 2]
    assert (grid.low, grid.high) == (-1.5, 2)
    channels = Grid(np.asarray([1, 0.25], np.float32), np.zeros(2, np.int64), -8, 7, 1)
    rounded = dequantized(codes_of(np.asarray([[0.6, 0.6]], np.float32), channels), channels)
    assert rounded.tolist() == [[1, 0.5]]


@pytest.mark.parametrize(
    ("dtype", "limits"),
    [("int8", (-128, 127)), ("uint8", (0, 255)), ("int4", (-8, 7)), ("uint4", (0, 15))],
)
def test_limits(dtype: str, limits: tuple[int, int]) -> None:
    assert limits_of(dtype) == limits
