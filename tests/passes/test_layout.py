"""Which operators go to int8, and where quantizers stand, worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedl.core.target import ONNXRUNTIME, OPENVINO, SCHEMES, TENSORRT
from edgedl.passes.clean import Clean
from edgedl.passes.graph import read
from edgedl.passes.layout import Layout, layout
from edgedl.passes.plan import Quantizer
from edgedl.passes.ranges import Histogram, Range
from edgedl.passes.scales import decide, not_finite, quantizer, rounded
from tests.models import INT8_SCHEMES, NETS, saved


def planned(net: str, scheme: str, folder: Path, **settings: object) -> Layout:
    model = Clean()(saved(NETS[net](), folder))
    return layout(read(model.path), SCHEMES[scheme], **settings)  # type: ignore[arg-type]


def precisions(found: Layout) -> dict[str, list[str]]:
    by_operator: dict[str, list[str]] = {}
    for decision in found.decisions:
        by_operator.setdefault(decision.operator, []).append(decision.precision)
    return by_operator


@pytest.mark.parametrize("scheme", INT8_SCHEMES)
def test_every_product_of_a_plain_network(scheme: str, tmp_path: Path) -> None:
    found = precisions(planned("conv", scheme, tmp_path))
    assert found["Conv"] == ["int8", "int8"]


def test_onnxruntime_quantizes_behind_the_activation(tmp_path: Path) -> None:
    found = planned("conv", "onnxruntime", tmp_path)
    assert {"x", "relu1", "relu2"} <= set(found.tensors)
    assert not {"conv1", "conv2"} & set(found.tensors)


def test_openvino_quantizes_what_int8_reads_and_no_more(tmp_path: Path) -> None:
    found = planned("conv", "openvino", tmp_path)
    assert {"x", "relu1"} <= set(found.tensors)


def test_a_residual_sum_between_int8_operators_is_int8(tmp_path: Path) -> None:
    found = planned("residual", "onnxruntime", tmp_path)
    assert precisions(found)["Add"] == ["int8"]
    assert {"conv2", "relu1", "relu2"} <= set(found.tensors)


def test_pooling_shares_the_scale_of_what_it_pools(tmp_path: Path) -> None:
    for scheme in ("onnxruntime", "tensorrt"):
        found = planned("residual", scheme, tmp_path)
        assert found.groups["small"] == found.groups["relu2"]


@pytest.mark.parametrize("extent", ["products", "gemms"])
def test_narrower_extents(extent: str, tmp_path: Path) -> None:
    found = precisions(planned("residual", "onnxruntime", tmp_path, extent=extent))
    assert found["Add"] == ["float"]
    wanted = "int8" if extent == "products" else "float"
    assert set(found["Conv"]) == {wanted}


def test_what_a_person_keeps_in_float_stays_float(tmp_path: Path) -> None:
    everything = planned("conv", "onnxruntime", tmp_path)
    first = next(d.node for d in everything.decisions if d.operator == "Conv")
    found = planned("conv", "onnxruntime", tmp_path, keep_float={first: "I said so"})
    decision = next(d for d in found.decisions if d.node == first)
    assert (decision.precision, decision.reason) == ("float", "I said so")
    assert "x" not in found.tensors


def test_a_body_is_left_alone_and_it_is_said(tmp_path: Path) -> None:
    found = planned("if", "onnxruntime", tmp_path)
    decision = next(d for d in found.decisions if d.operator == "If")
    assert decision.precision == "float"
    assert "bodies" in decision.reason


def test_a_matrix_product_of_activations_is_int8_only_in_full(tmp_path: Path) -> None:
    full = precisions(planned("attention", "openvino", tmp_path))["MatMul"]
    narrow = precisions(planned("attention", "openvino", tmp_path, extent="products"))["MatMul"]
    assert full.count("int8") > narrow.count("int8") > 0


def test_weights_have_scales_along_their_output_channels(tmp_path: Path) -> None:
    straight = planned("gemm", "onnxruntime", tmp_path)
    turned = planned("gemm_transposed", "onnxruntime", tmp_path)
    assert set(straight.weights.values()) == {(1, 1)}
    assert set(turned.weights.values()) == {(1, 0)}
    convolutions = planned("depthwise", "openvino", tmp_path)
    assert (1, 0) in set(convolutions.weights.values())


def test_asymmetric_grid_by_hand() -> None:
    # 3 over 255 codes; zero stands 1 / scale = 85 codes above the lowest value.
    assert quantizer(Range(-1.0, 2.0), ONNXRUNTIME) == Quantizer(
        "uint8", float(np.float32(3 / 255)), 85
    )
    assert quantizer(Range(0.0, 6.0), ONNXRUNTIME).zero_point == 0


def test_symmetric_grid_by_hand() -> None:
    assert quantizer(Range(0.0, 5.1), OPENVINO) == Quantizer("uint8", float(np.float32(0.02)), 0)
    signed = float(np.float32(2.54 / 127))
    assert quantizer(Range(-2.54, 1.0), OPENVINO) == Quantizer("int8", signed, 0)
    assert quantizer(Range(-2.54, 1.0), OPENVINO, offset=True) == Quantizer("uint8", signed, 128)
    assert quantizer(Range(0.0, 2.54), TENSORRT) == Quantizer("int8", signed, 0)


def test_a_range_of_nothing_has_a_harmless_scale() -> None:
    for scheme in SCHEMES.values():
        assert quantizer(Range(0.0, 0.0), scheme).scale == 1.0


def test_weight_scales_by_hand_with_a_dead_channel() -> None:
    weight = np.array([[1.27, -0.5], [0.0, 0.0], [-2.54, 2.0]], np.float32)
    assert rounded(weight, 0)[1] == pytest.approx([0.01, 1.0, 0.02])
    assert rounded(weight, 1)[1] == pytest.approx([0.02, 2 / 127])
    assert rounded(weight, None)[1] == pytest.approx(0.02)


def histograms(found: Layout, odd: float | None = None) -> dict[str, Histogram]:
    counted = {}
    for name in found.tensors:
        counted[name] = Histogram()
        counted[name].add(np.linspace(-1, 3, 1001, dtype=np.float32))
    if odd is not None:
        counted[found.tensors[0]].add(np.float32([odd]))
    return counted


def test_only_matrix_products_get_signed_codes_on_openvino(tmp_path: Path) -> None:
    found = planned("conv", "openvino", tmp_path)
    plan = decide(found, OPENVINO, histograms(found), "minmax")
    assert plan.activations["x"] == Quantizer("uint8", float(np.float32(3 / 127)), 128)
    dense = planned("matmul", "openvino", tmp_path)
    plan = decide(dense, OPENVINO, histograms(dense), "minmax")
    assert plan.activations["x"] == Quantizer("int8", float(np.float32(3 / 127)), 0)


def test_tensors_that_share_a_scale_take_the_union_of_their_ranges(tmp_path: Path) -> None:
    found = planned("residual", "onnxruntime", tmp_path)
    counted = histograms(found)
    counted["relu2"].add(np.float32([-5.0]))
    counted["small"].add(np.float32([7.0]))
    plan = decide(found, ONNXRUNTIME, counted, "minmax")
    assert plan.activations["small"] == plan.activations["relu2"]
    assert plan.activations["small"].scale == pytest.approx(12 / 255)
    assert plan.activations["small"].zero_point == 106  # 5 * 255 / 12 is 106.25


def test_infinity_is_noticed(tmp_path: Path) -> None:
    found = planned("conv", "openvino", tmp_path)
    assert not_finite(found, histograms(found)) == set()
    assert not_finite(found, histograms(found, np.inf)) == {found.tensors[0]}
