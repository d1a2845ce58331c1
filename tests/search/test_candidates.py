"""Ways to run a model, and what they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from edgedl.backends import backend
from edgedl.runtime import installed_engines
from edgedl.search.candidates import float_candidates
from tests.models import Sketch, gemm_net, saved

ENGINE = installed_engines()[0]


def coded_net() -> onnx.ModelProto:
    """A product in ONNX's QOperator format."""
    net = Sketch()
    grid = (net.constant("s", np.float32(0.03)), net.constant("z", np.uint8(128)))
    codes = net.constant("w", np.eye(8, dtype=np.int8))
    of_weights = (net.constant("ws", np.float32(0.5)), net.constant("wz", np.int8(0)))
    net.node("QuantizeLinear", ["x", *grid], "q")
    net.node("QLinearMatMul", ["q", *grid, codes, *of_weights, *grid], "m")
    net.node("DequantizeLinear", ["m", *grid], "logits")
    return net.model([1, 8], [1, 8])


def test_a_model_that_is_quantized_already_is_not_called_float(tmp_path: Path) -> None:
    built = backend(ENGINE)
    for net, coded, word in ((coded_net(), True, "quantized"), (gemm_net(), False, "float32")):
        model = saved(net, tmp_path)
        given, cleaned = list(float_candidates(built, model, model))[:2]
        assert (given.label, cleaned.label) == (f"{word}, as given", f"{word}, cleaned")
        assert given.coded == cleaned.coded == coded
