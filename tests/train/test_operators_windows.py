"""Convolutions, poolings and normalizations in torch answer as onnxruntime does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.test_operators import (
    MICROSOFT,
    Case,
    carried_out,
    floats,
    positive,
    refused,
    same_as_onnxruntime,
    torch,
    whole,
)

from edgedl.core.program import Operation  # isort: skip
from edgedl.train.operators import function_of  # isort: skip

IMAGE, LINE, VOLUME = floats(2, 4, 9, 7), floats(2, 4, 11), floats(1, 4, 5, 6, 4)
KERNEL, BIAS = floats(6, 4, 3, 3), floats(6)
BACK = floats(4, 3, 3, 3)
LOWER, UPPER, VALID = ({"auto_pad": name} for name in ("SAME_LOWER", "SAME_UPPER", "VALID"))


def pool(*size: int, **attributes: Any) -> dict[str, Any]:
    return {"kernel_shape": size, **attributes}


CONVOLUTIONS = [
    Case("Conv", [IMAGE, KERNEL]),
    Case("Conv", [IMAGE, KERNEL, BIAS], {"pads": (1, 1, 1, 1), "strides": (2, 2)}),
    Case("Conv", [IMAGE, KERNEL, BIAS], {"pads": (0, 1, 2, 0), "kernel_shape": (3, 3)}),
    Case("Conv", [IMAGE, floats(6, 2, 3, 3), BIAS], {"group": 2, "dilations": (2, 1)}),
    Case("Conv", [IMAGE, floats(4, 1, 3, 3)], {"group": 4, "pads": (1, 1, 1, 1)}),
    *(Case("Conv", [IMAGE, floats(6, 4, 2, 4), BIAS], {**auto, "strides": (2, 3)})
      for auto in (LOWER, UPPER, VALID)),
    Case("Conv", [LINE, floats(6, 4, 3), BIAS], {"pads": (2, 1)}),
    Case("Conv", [VOLUME, floats(3, 4, 3, 2, 3)], {"pads": (1, 1, 1, 1, 0, 1)}),
    Case("ConvTranspose", [IMAGE, BACK]),
    Case("ConvTranspose", [IMAGE, BACK, floats(3)], {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    Case("ConvTranspose", [IMAGE, BACK, floats(3)],
         {"strides": (2, 3), "pads": (1, 0, 0, 1), "output_padding": (1, 2)}),
    Case("ConvTranspose", [IMAGE, BACK, floats(6)], {"group": 2, "dilations": (2, 1)}),
    Case("ConvTranspose", [IMAGE, BACK, floats(3)], {"strides": (2, 2), "output_shape": (18, 14)}),
    Case("ConvTranspose", [IMAGE, BACK],
         {"strides": (2, 2), "output_shape": (18, 14), "auto_pad": "SAME_UPPER"}),
    *(Case("ConvTranspose", [IMAGE, BACK], {**auto, "strides": (2, 2)})
      for auto in (LOWER, UPPER, VALID)),
    Case("ConvTranspose", [LINE, floats(4, 3, 4)], {"strides": (3,), "pads": (2, 1)}),
    Case("ConvTranspose", [VOLUME, floats(4, 2, 2, 3, 2)], {"strides": (2, 1, 2)}),
]  # fmt: skip

POOLINGS = [
    *(Case(kind, [IMAGE], attributes, opset)
      for kind in ("MaxPool", "AveragePool")
      for opset, attributes in [
          (7, pool(3, 3)),
          (12, pool(3, 2, strides=(2, 2), pads=(1, 1, 1, 1))),
          (12, pool(3, 3, strides=(2, 2), pads=(0, 1, 2, 0))),
          (12, pool(2, 2, strides=(2, 2), ceil_mode=1)),
          (22, pool(3, 3, strides=(3, 3), pads=(1, 1, 1, 1), ceil_mode=1)),
          (22, pool(3, 2, strides=(2, 3), pads=(0, 0, 2, 1), ceil_mode=1)),
          (22, pool(3, 2, strides=(2, 1), dilations=(2, 3))),
          (22, pool(3, 2, strides=(2, 1), dilations=(2, 3), pads=(1, 0, 2, 1))),
          (12, pool(3, 2, strides=(2, 2), **LOWER)),
          (12, pool(3, 2, strides=(2, 2), **UPPER)),
          (12, pool(3, 2, strides=(2, 2), **VALID)),
      ]),
    *(Case("AveragePool", [IMAGE], pool(3, 3, count_include_pad=1, **more), 22) for more in [
        {"pads": (1, 1, 1, 1)},
        {"pads": (0, 1, 2, 0), "strides": (2, 2)},
        {"pads": (1, 1, 1, 1), "strides": (3, 3), "ceil_mode": 1},
        {"pads": (2, 1, 1, 2), "dilations": (2, 2)},
    ]),
    *(Case(kind, [LINE], pool(3, strides=(2,), pads=(1, 1))) for kind in
      ("MaxPool", "AveragePool")),
    *(Case(kind, [VOLUME], pool(2, 3, 2, pads=(0, 1, 0, 1, 1, 1))) for kind in
      ("MaxPool", "AveragePool")),
    Case("MaxPool", [whole(1, 2, 6, 6, kind=np.uint8, low=0)], pool(3, 3, pads=(1, 1, 1, 1))),
    *(Case(kind, [array]) for kind in ("GlobalAveragePool", "GlobalMaxPool")
      for array in (LINE, IMAGE, VOLUME)),
]  # fmt: skip

STATISTICS = [floats(4), floats(4, seed=1), floats(4, seed=2), positive(4)]
ROWS = floats(2, 5, 6)

NORMALIZATIONS = [
    *(Case(kind, [IMAGE], {"axis": axis}, opset) for kind in ("Softmax", "LogSoftmax")
      for axis in (1, 2, -1) for opset in (11, 13)),
    *(Case("Softmax", [IMAGE], {}, opset) for opset in (11, 13)),
    *(Case("BatchNormalization", [array, *STATISTICS], {"epsilon": 1e-3}, opset)
      for array in (floats(3, 4), LINE, IMAGE, VOLUME) for opset in (9, 15)),
    Case("LayerNormalization", [ROWS, floats(6), floats(6, seed=1)]),
    Case("LayerNormalization", [ROWS, floats(6)], {"epsilon": 0.1}),
    Case("LayerNormalization", [ROWS, floats(5, 6), floats(5, 6, seed=1)], {"axis": 1}),
    Case("LayerNormalization", [ROWS, floats(5, 6), floats(5, 6)], {"axis": -2}, outputs=3),
    Case("LayerNormalization", [ROWS, floats(1), floats(1)]),
    Case("RMSNormalization", [ROWS, floats(6)], {"epsilon": 1e-3}, 23),
    Case("RMSNormalization", [ROWS, floats(5, 6)], {"axis": 1}, 23),
    *(Case("InstanceNormalization", [array, floats(4), floats(4, seed=1)])
      for array in (LINE, IMAGE, VOLUME)),
    Case("GroupNormalization", [IMAGE, floats(4), floats(4, seed=1)], {"num_groups": 2}, 21),
    Case("GroupNormalization", [IMAGE, floats(2), floats(2, seed=1)], {"num_groups": 2}, 18),
    *(Case("LpNormalization", [ROWS], {"axis": axis, "p": p}) for axis in (0, -1) for p in (1, 2)),
    Case("LpNormalization", [np.zeros((2, 3), np.float32)]),
    Case("LRN", [IMAGE], {"size": 3}),
    Case("LRN", [IMAGE], {"size": 5, "alpha": 0.5, "beta": 0.6, "bias": 2.0}),
    Case("SkipLayerNormalization", [ROWS, -2 * ROWS, *(floats(6, seed=i) for i in range(3))],
         domain=MICROSOFT),
    Case("SkipLayerNormalization", [ROWS, ROWS, floats(6)], {"epsilon": 0.01}, domain=MICROSOFT),
]  # fmt: skip


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions(case: Case, tmp_path: Path) -> None:
    same_as_onnxruntime(case, tmp_path)


@pytest.mark.parametrize("case", POOLINGS, ids=str)
def test_poolings(case: Case, tmp_path: Path) -> None:
    same_as_onnxruntime(case, tmp_path)


@pytest.mark.parametrize("case", NORMALIZATIONS, ids=str)
def test_normalizations(case: Case, tmp_path: Path) -> None:
    same_as_onnxruntime(case, tmp_path)


def test_a_skip_layer_norm_gives_its_sum(tmp_path: Path) -> None:
    case = Case("SkipLayerNormalization", [ROWS, ROWS, floats(6)], outputs=4, domain=MICROSOFT)
    np.testing.assert_allclose(carried_out(case, tmp_path)["y3"], 2 * ROWS)


def test_what_training_would_need_is_refused() -> None:
    assert "training mode" in refused("BatchNormalization", IMAGE, *STATISTICS, training_mode=1)
    assert "spatial axes: 4" in refused("Conv", floats(1, 1, 2, 2, 2, 2), floats(1, 1, 1, 1, 1, 1))


def passes_gradients(
    kind: str, shapes: list[tuple[int, ...]], more: Sequence[Any] = (), **attributes: Any
) -> None:
    """The gradients of inputs of these shapes, beside others that have none, are right."""
    operation = Operation(kind, "node", (), ("y",), attributes)
    given = [torch.tensor(floats(*shape)).double().requires_grad_() for shape in shapes]
    assert torch.autograd.gradcheck(
        lambda *values: function_of(operation)(operation, [*values, *more], 17), given
    )


def test_gradients_flow() -> None:
    passes_gradients("Conv", [(1, 2, 4, 3), (2, 1, 2, 2), (2,)], group=2, pads=(0, 1, 1, 0))
    passes_gradients("ConvTranspose", [(1, 2, 3, 3), (2, 1, 2, 2), (1,)], output_padding=(1, 0))
    passes_gradients("LayerNormalization", [(2, 5), (5,), (5,)])
    passes_gradients("AveragePool", [(1, 1, 4, 4)], kernel_shape=(3, 3), pads=(1, 1, 0, 0))
    passes_gradients("LpNormalization", [(2, 3)])
