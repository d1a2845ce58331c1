"""A rounded network in torch computes what the placed plan computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgedl.core.model import Signature, Tensor
from edgedl.core.program import CodedTensor, CodedWeight, Coding, Operation, Program
from edgedl.passes.program import program_of
from edgedl.passes.quantize import Quantize
from edgedl.runtime import engine, installed_engines
from edgedl.search.tuned import coding_of
from edgedl.train.coded import Coded
from tests.models import NETS, feeds, samples
from tests.search.small import prepared

PLAIN = {"unfused": ["QDQSelectorActionTransformer", "WeightBiasQuantization"]}


def run(network: Coded, feed: dict[str, np.ndarray], rounded: bool = True) -> dict[str, np.ndarray]:
    with torch.no_grad():
        found = network({n: torch.from_numpy(a) for n, a in feed.items()}, rounded)
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.skipif("onnxruntime" not in installed_engines(), reason="onnxruntime is beside it")
@pytest.mark.parametrize("scheme", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", sorted(set(NETS) - {"if"}))
def test_it_rounds_as_the_plan_says(tmp_path: Path, name: str, scheme: str) -> None:
    clean = prepared(NETS[name](), tmp_path)
    quantize = Quantize(samples(clean.signature, 8), scheme=scheme, method="minmax")
    plan = quantize.plan(clean)
    if any(d.operator in ("LSTM", "GRU") and d.precision == "int8" for d in plan.decisions):
        pytest.skip("recurrent products are placed in a way of their own")
    network = Coded(program_of(clean), coding_of(plan, clean))
    placed = quantize(clean)
    for model, rounded in ((clean, False), (placed, True)):
        with engine("onnxruntime").open_model(model.path, settings=PLAIN, threads=1) as session:
            for feed in feeds(clean.signature, 3):
                for output, wanted in session.run(feed).items():
                    size = float(np.abs(wanted).max()) or 1.0
                    found = run(network, feed, rounded)[output]
                    # A value between two codes may be rounded to either.
                    limit = 0.02 * size if rounded else 1e-5 * size
                    assert np.abs(found - wanted).max() <= limit


def one_product(weight: np.ndarray, scale: float, largest: int = 127) -> Coded:
    """y = round(x) * round(w), x unsigned around zero point 2 with codes 0 to 7."""
    shape = (1, weight.shape[0])
    signature = Signature(
        (Tensor("x", "float32", shape),), (Tensor("y", "float32", (1, weight.shape[1])),)
    )
    operation = Operation("MatMul", "product", ("x", "w"), ("y",), {})
    coding = Coding(
        {"x": CodedTensor(scale, 2, 0, 7, ("product",), "x")},
        {"product": CodedWeight(1, 1, largest)},
    )
    return Coded(Program(signature, (operation,), {"w": weight}, 18), coding)


def test_codes_by_hand() -> None:
    network = one_product(np.array([[1.27, 0.4], [0.014, -0.2]], np.float32), scale=0.5)
    # x: 0.6 / 0.5 is 1.2, code 1; 9 clips at code 7 - 2; w: steps of 0.01, and 0.4 / 127.
    found = run(network, {"x": np.array([[0.6, 9.0]], np.float32)})["y"]
    wanted = np.array(
        [[0.5 * 1.27 + 2.5 * 0.01, 0.5 * 0.4 - 2.5 * round(0.2 / 0.4 * 127) * 0.4 / 127]]
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_gradients_of_scales_are_those_of_learned_step_size() -> None:
    network = one_product(np.ones((3, 1), np.float32), scale=0.5)
    x = torch.tensor([[0.6, 9.0, -4.0]], requires_grad=True)
    network({"x": x})["y"].sum().backward()
    # Inside, round(x / s) - x / s; at the ends, the end's code less the zero point.
    by_scale = (1 - 1.2) + 5 + (-2)
    # The parameter is the scale's logarithm.
    np.testing.assert_allclose(network.logarithms[0].grad, by_scale * 0.5, rtol=1e-5)
    np.testing.assert_array_equal(x.grad, [[1.0, 0.0, 0.0]])
    np.testing.assert_allclose(network.values[0].grad, [[0.5], [2.5], [-1.0]], rtol=1e-6)


def test_weights_of_zeros_stay_zeros() -> None:
    network = one_product(np.zeros((2, 2), np.float32), scale=0.5)
    found = run(network, {"x": np.ones((1, 2), np.float32)})["y"]
    np.testing.assert_array_equal(found, np.zeros((1, 2)))


def test_values_are_given_back_by_name() -> None:
    weight = np.array([[0.5], [0.25]], np.float32)
    network = one_product(weight, scale=0.5)
    network.begin_with({"w": 2 * weight, "unknown": weight})
    np.testing.assert_array_equal(network.constants()["w"], 2 * weight)
    assert network.scales() == {"x": pytest.approx(0.5)}
