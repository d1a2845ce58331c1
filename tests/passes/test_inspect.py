"""Counts of a model, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from edgedl.passes.clean import Clean
from edgedl.passes.inspect import inspect
from edgedl.passes.quantize import Quantize
from tests import models


def test_a_convolutional_net(tmp_path: Path) -> None:
    found = inspect(models.saved(models.conv_net(), tmp_path))
    assert found.operators == {
        "Conv": 2, "Relu": 2, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1,
    }  # fmt: skip
    assert found.parameters == (8 * 3 * 9 + 8) + (8 * 8 * 9 + 8) + (8 * 5 + 5)
    assert found.macs == 64 * 8 * 3 * 9 + 16 * 8 * 8 * 9 + 8 * 5
    assert found.weight_bytes == {"float": 4 * found.parameters}
    assert (found.opset, found.quantized, found.in_bodies) == (17, False, 0)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["macs"] == found.macs


@pytest.mark.parametrize(
    ("net", "macs"),
    [
        ("depthwise", 64 * (8 * 3 * 9 + 8 * 9 + 12 * 8) + 12 * 5),
        ("gemm", 16 * 12 + 12 * 5),
        ("gemm_transposed", 16 * 12 + 12 * 5),
        ("matmul", 4 * (16 * 12 + 12 * 5)),
        ("attention", 6 * (3 * 16 * 8 + 8 * 6 + 6 * 8 + 8 * 16 + 16 * 5)),
        ("old", 64 * 8 * 3 * 9 + 8 * 5),
    ],
)
def test_multiply_accumulates(net: str, macs: int, tmp_path: Path) -> None:
    assert inspect(models.saved(models.NETS[net](), tmp_path)).macs == macs


def test_a_dynamic_batch_counts_as_one(tmp_path: Path) -> None:
    fixed = inspect(models.saved(models.conv_net(), tmp_path)).macs
    assert inspect(models.saved(models.conv_net("batch"), tmp_path)).macs == fixed


def test_unknown_sizes_have_no_count(tmp_path: Path) -> None:
    assert inspect(models.saved(models.dynamic_net(), tmp_path)).macs is None


def test_bodies_are_counted(tmp_path: Path) -> None:
    found = inspect(models.saved(models.if_net(), tmp_path))
    assert found.operators["MatMul"] == 2
    assert found.in_bodies == 2


def test_a_constant_node_is_a_parameter(tmp_path: Path) -> None:
    net = models.old_net()
    whole = inspect(models.saved(net, tmp_path)).parameters
    assert whole == (8 * 3 * 9 + 8) + 8 * 5
    onnx.checker.check_model(net)


def test_a_quantized_model_says_so(tmp_path: Path) -> None:
    model = Clean()(models.saved(models.conv_net(), tmp_path))
    found = inspect(Quantize(models.samples(model.signature))(model))
    assert found.quantized
    assert found.weight_bytes["int8"] >= 8 * 3 * 9 + 8 * 8 * 9 + 8 * 5
    assert [step.name for step in found.history] == ["clean", "place"]
