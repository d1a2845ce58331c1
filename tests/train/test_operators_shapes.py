"""Operators that move, pick, sum and resample elements answer in torch as in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from tests.train.test_operators import (
    MICROSOFT,
    Array,
    Case,
    booleans,
    floats,
    ints,
    positive,
    refused,
    same_as_onnxruntime,
    scalar,
    torch,
    whole,
)
from tests.train.test_operators_windows import passes_gradients

X, SQUARE, IMAGE = floats(2, 3, 4), floats(4, 4), floats(1, 2, 5, 6)
MOST = np.iinfo(np.int64).max


def tensor(*values: float, kind: Any = np.float32) -> Any:
    return numpy_helper.from_array(np.array(values, kind))


def sliced(starts: Array, ends: Array, *more: Array) -> Case:
    return Case("Slice", [floats(5, 6, 7), starts, ends, *more])


SHAPES = [
    Case("Reshape", [X, ints(0, -1)]),
    Case("Reshape", [X, ints(4, 6)]),
    Case("Reshape", [floats(0, 3), ints(3, 0)], {"allowzero": 1}),
    *(Case("Flatten", [X], {"axis": axis}) for axis in (0, 1, 2, 3, -1)),
    Case("Transpose", [X]),
    Case("Transpose", [X], {"perm": (1, 0, 2)}),
    Case("Concat", [X, floats(2, 1, 4), X], {"axis": 1}),
    Case("Concat", [X, X], {"axis": -1}),
    Case("Split", [X], {"axis": -1}, 11, 2),
    Case("Split", [X], {"axis": 1, "split": (1, 2)}, 11, 2),
    Case("Split", [X, ints(1, 3)], {"axis": 2}, 13, 2),
    Case("Split", [floats(7)], {"num_outputs": 3}, 18, 3),
    Case("Slice", [floats(5, 6)], {"starts": (1, -3), "ends": (4, MOST)}, 9),
    Case("Slice", [floats(5, 6)], {"starts": (1,), "ends": (-1,), "axes": (1,)}, 9),
    sliced(ints(1, 0), ints(4, 3)),
    sliced(ints(1, 6), ints(MOST, -MOST), ints(0, -1), ints(2, -1)),
    sliced(ints(-1), ints(-MOST), ints(1), ints(-1)),
    sliced(ints(-2), ints(0), ints(1), ints(-3)),
    sliced(ints(20), ints(1), ints(2), ints(-2)),
    sliced(ints(3), ints(2), ints(0)),
    sliced(ints(2), ints(3), ints(0), ints(-1)),
    Case("Squeeze", [floats(1, 3, 1)], {}, 11),
    Case("Squeeze", [floats(1, 3, 1)], {"axes": (-1,)}, 11),
    Case("Squeeze", [floats(1, 3, 1), ints(0)]),
    Case("Unsqueeze", [X], {"axes": (0, 4)}, 11),
    Case("Unsqueeze", [X, ints(-1, 1)]),
    Case("Expand", [floats(3, 1), ints(2, 1, 4)]),
    Case("Expand", [floats(2, 3, 4), ints(1, 1)]),
    Case("Tile", [X, ints(2, 1, 3)]),
    Case("Pad", [SQUARE], {"pads": (1, 0, 2, 3), "value": 0.5}, 9),
    Case("Pad", [SQUARE, ints(1, 0, 2, 3)]),
    Case("Pad", [SQUARE, ints(1, -1, 2, 0), scalar(0.5)]),
    Case("Pad", [whole(3, 4), ints(1, 0, 2, 3), scalar(7, np.int64)]),
    *(Case("Pad", [SQUARE, ints(1, 0, 2, 3)], {"mode": mode}, 19)
      for mode in ("reflect", "edge", "wrap")),
    Case("Pad", [SQUARE], {"pads": (0, 1, 0, 3), "mode": "reflect"}, 9),
    Case("Pad", [SQUARE, ints(1, 2), None, ints(-1)], {"mode": "edge"}, 19),
    *(Case("DepthToSpace", [floats(2, 12, 2, 3)], {"blocksize": 2, "mode": mode})
      for mode in ("DCR", "CRD")),
    Case("SpaceToDepth", [floats(2, 3, 4, 6)], {"blocksize": 2}),
    Case("Shape", [X]),
    Case("Shape", [X], {"start": 1, "end": -1}),
    Case("Size", [X]),
    Case("ConstantOfShape", [ints(2, 3)], {"value": tensor(4, kind=np.int64)}),
    Case("ConstantOfShape", [ints(2, 3)]),
    Case("Range", [scalar(1), scalar(4), scalar(0.7)]),
    Case("Range", [scalar(9, np.int64), scalar(1, np.int64), scalar(-3, np.int64)]),
    Case("Dropout", [X], {"ratio": 0.4}, 7),
    Case("Dropout", [X], {}, 12, 2),
    *(Case("Trilu", [X, k], {"upper": upper}) for upper in (0, 1)
      for k in (None, scalar(1, np.int64), scalar(-1, np.int64))),
    Case("Trilu", [SQUARE]),
]  # fmt: skip

TIES = np.array([[1, 3, 3, 0, 1], [2, 2, 2, 2, 2]], np.float32)
CODED = whole(2, 3, 4, low=0, high=255, kind=np.uint8)
SCALES, ZEROS = positive(3), np.array([1, 128, 255], np.uint8)

INDICES = [
    *(Case("Gather", [X, ints(1, -1, 0)], {"axis": axis}) for axis in (1, -1)),
    Case("Gather", [X, scalar(-1, np.int64)]),
    Case("Gather", [X, np.array([[0, 1], [1, 0]], np.int32)], {"axis": 0}),
    Case("GatherElements", [X, whole(2, 3, 2, low=-4, high=4)], {"axis": 2}),
    Case("GatherND", [X, np.array([[0, 1], [-1, 2]], np.int64)]),
    Case("GatherND", [X, np.array([[[1], [2]], [[0], [1]]], np.int64)], {"batch_dims": 1}),
    *(Case("ScatterND", [floats(4, 3), np.array([[1], [-1]]), floats(2, 3)],
           {"reduction": reduction}, 18) for reduction in ("none", "add", "mul", "max", "min")),
    Case("ScatterND", [floats(4, 3), np.array([[1, 2], [-1, 0], [0, 0]]), floats(3)]),
    *(Case("ScatterElements", [SQUARE, np.array([[1, -1], [0, 2]]), floats(2, 2)],
           {"axis": 1, "reduction": reduction}, 18)
      for reduction in ("none", "add", "mul", "max", "min")),
    *(Case("OneHot", [ints(0, 2, -1, 5), scalar(4, np.int64), np.array([-1, 2], np.float32)],
           {"axis": axis}) for axis in (-1, 0)),
    Case("OneHot", [whole(2, 3), ints(5), ints(0, 1)], {"axis": 1}),
    Case("NonZero", [booleans(3, 4)]),
    Case("QuantizeLinear", [X * 99, scalar(0.4), scalar(100, np.uint8)]),
    Case("QuantizeLinear", [X * 99, scalar(0.5)]),
    Case("QuantizeLinear", [X * 99, SCALES, ZEROS], {"axis": 1}),
    Case("QuantizeLinear", [X * 99, SCALES, ZEROS.view(np.int8)], {"axis": -2}),
    Case("QuantizeLinear", [X * 99, scalar(0.01), scalar(9, np.uint16)], opset=21),
    Case("DequantizeLinear", [CODED, scalar(0.4), scalar(100, np.uint8)]),
    Case("DequantizeLinear", [CODED.view(np.int8), scalar(0.4)]),
    Case("DequantizeLinear", [CODED, SCALES, ZEROS], {"axis": 1}),
    Case("DequantizeLinear", [whole(3, 4, kind=np.int32), SCALES], {"axis": 0}),
]  # fmt: skip

ATTRIBUTES = ("ReduceMean", "ReduceMax", "ReduceL2", "ReduceLogSumExp", "ReduceProd")
ALL = (*ATTRIBUTES, "ReduceMin", "ReduceL1", "ReduceLogSum", "ReduceSumSquare", "ReduceSum")

REDUCTIONS = [
    *(Case(kind, [positive(2, 3, 4)], {"axes": (0, -1), "keepdims": 0}, 11) for kind in ATTRIBUTES),
    *(Case(kind, [positive(2, 3, 4)], {}, 18) for kind in ALL),
    *(Case(kind, [positive(2, 3, 4), ints(-2)], {}, 18) for kind in ALL),
    *(Case(kind, [positive(2, 3, 4), ints(0, 2)], {"keepdims": 0}, 18) for kind in ALL),
    *(Case(kind, [whole(3, 4), ints(1)], {}, 18) for kind in
      ("ReduceSum", "ReduceMax", "ReduceProd", "ReduceL1", "ReduceSumSquare", "ReduceMean")),
    *(Case(kind, [positive(2, 3)], {"noop_with_empty_axes": 1}, 18) for kind in ALL),
    *(Case(kind, [-X], {"noop_with_empty_axes": 1}, 18) for kind in ("ReduceL1", "ReduceL2")),
    Case("ReduceSum", [X], {"axes": (1,)}, 11),
    Case("ReduceSum", [X, ints()], {}, 13),
    *(Case(kind, [TIES], {"axis": axis, "keepdims": keep, "select_last_index": last}, 13)
      for kind in ("ArgMax", "ArgMin") for axis, keep, last in ((1, 0, 0), (-1, 1, 1), (0, 1, 0))),
    Case("TopK", [TIES], {"k": 2}, 9, 2),
    Case("TopK", [TIES, ints(3)], {"axis": -1}, 11, 2),
    Case("TopK", [TIES, ints(2)], {"axis": 1, "largest": 0}, 11, 2),
    Case("TopK", [TIES, ints(1)], {"axis": 0}, 11, 2),
    *(Case("CumSum", [X, scalar(axis, np.int64)], {"exclusive": exclusive, "reverse": reverse})
      for axis in (1, -1) for exclusive in (0, 1) for reverse in (0, 1)),
    *(Case("MatMul", [floats(*a), floats(*b)]) for a, b in
      [((3, 4), (4, 2)), ((4,), (4, 2)), ((3, 4), (4,)), ((4,), (4,)), ((2, 1, 3, 4), (5, 4, 2))]),
    Case("Gemm", [floats(3, 4), floats(4, 2)]),
    Case("Gemm", [floats(4, 3), floats(2, 4), floats(2)],
         {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    Case("Gemm", [floats(3, 4), floats(4, 2), floats(3, 1)], {}, 7),
    Case("Einsum", [floats(2, 3, 4), floats(2, 4, 5)], {"equation": "b i j , b j k -> b i k"}),
    Case("Einsum", [floats(2, 3, 4), floats(2, 4)], {"equation": "...ij,...j->...i"}),
    Case("Einsum", [floats(3, 3)], {"equation": "ii"}),
    Case("FusedMatMul", [floats(2, 4, 3), floats(2, 5, 4)],
         {"transA": 1, "transB": 1, "alpha": 0.5}, domain=MICROSOFT),
]  # fmt: skip

LARGER, SMALLER = (np.array([1, 1, *s], np.float32) for s in ((1.7, 2.0), (0.6, 0.5)))
MODES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")


def resize(target: Array, opset: int = 13, *, roi: Array | None = None, **attributes: Any) -> Case:
    by_sizes = target.dtype == np.int64
    inputs = [IMAGE, roi, None, target] if by_sizes else [IMAGE, roi, target]
    names = {"how": "coordinate_transformation_mode"}
    return Case("Resize", inputs, {names.get(k, k): v for k, v in attributes.items()}, opset)


BOX = np.array([0, 0, 0.1, -0.2, 1, 1, 0.8, 1.2], np.float32)

RESIZES = [
    *(resize(target, mode=mode, how=how) for mode in ("nearest", "linear", "cubic")
      for how in MODES for target in (LARGER, SMALLER, ints(1, 2, 8, 4), ints(1, 2, 1, 9))
      if not (mode == "cubic" and how == "pytorch_half_pixel" and target[2] == 1)),
    *(resize(target, mode="nearest", how=how, nearest_mode=nearest) for target in (LARGER, SMALLER)
      for how in ("half_pixel", "asymmetric")
      for nearest in ("floor", "ceil", "round_prefer_ceil", "round_prefer_floor")),
    *(resize(target, mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1)
      for target in (LARGER, SMALLER)),
    *(resize(target, 19, mode=mode, how="half_pixel_symmetric") for target in (LARGER, SMALLER)
      for mode in ("nearest", "linear")),
    resize(LARGER, 11, mode="nearest", how="tf_half_pixel_for_nn", roi=BOX[:0]),
    resize(ints(1, 2, 7, 9), mode="linear", how="tf_crop_and_resize", roi=BOX,
           extrapolation_value=9.0),
    resize(ints(1, 2, 7, 10), mode="nearest", how="tf_crop_and_resize", roi=BOX),
    *(Case("Resize", [IMAGE, None, None, ints(10, 18)],
           {"axes": (2, 3), "mode": "linear", "keep_aspect_ratio_policy": policy}, 18)
      for policy in ("not_larger", "not_smaller", "stretch")),
    *(Case("Resize", [IMAGE, LARGER.round()], {"mode": mode}, 10) for mode in
      ("nearest", "linear")),
    Case("Resize", [IMAGE, np.array([1, 1, 2, 0.5], np.float32)], {"mode": "nearest"}, 10),
    Case("Upsample", [IMAGE], {"scales": (1.0, 1.0, 2.0, 1.5)}, 7),
    *(Case("Upsample", [IMAGE, np.array([1, 1, 2, 3], np.float32)], {"mode": mode}, 9) for mode in
      ("nearest", "linear")),
]  # fmt: skip


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_shapes(case: Case, tmp_path: Path) -> None:
    same_as_onnxruntime(case, tmp_path)


@pytest.mark.parametrize("case", INDICES, ids=str)
def test_indices(case: Case, tmp_path: Path) -> None:
    same_as_onnxruntime(case, tmp_path)


@pytest.mark.parametrize("case", REDUCTIONS, ids=str)
def test_reductions(case: Case, tmp_path: Path) -> None:
    same_as_onnxruntime(case, tmp_path)


@pytest.mark.parametrize("case", RESIZES, ids=str)
def test_resizes(case: Case, tmp_path: Path) -> None:
    same_as_onnxruntime(case, tmp_path)


def test_what_is_not_exact_is_refused() -> None:
    assert "antialiasing" in refused("Resize", IMAGE, None, SMALLER, mode="linear", antialias=1)
    assert "mode cubical" in refused("Resize", IMAGE, None, SMALLER, mode="cubical")
    assert "blocks" in refused("DequantizeLinear", CODED, SCALES, block_size=2)
    assert "training" in refused("Dropout", X, scalar(0.5), np.array(True))


def test_gradients_flow() -> None:
    sizes, backwards = torch.tensor([1, 1, 5, 2]), [torch.tensor([n]) for n in (2, -9, 1, -1)]
    attributes = {"mode": "cubic", "coordinate_transformation_mode": "half_pixel"}
    passes_gradients("Resize", [(1, 1, 3, 4)], [None, None, sizes], **attributes)
    passes_gradients("Slice", [(3, 4)], backwards)
    passes_gradients("GatherND", [(3, 4)], [torch.tensor([[0, 1], [2, 2]])])
