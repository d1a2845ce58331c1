"""Engines that TensorRT-RTX, NVIDIA's own parser and builder, makes without a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgedl.core.errors import BadModel, BadOption, EngineFailed, Missing, Unsupported
from edgedl.runtime.tensorrt import build as building
from edgedl.runtime.tensorrt.build import (
    Built,
    built,
    label,
    module,
    parsed,
    takes,
    timing_cache_of,
)
from edgedl.runtime.tensorrt.refusals import Refused, refused
from edgedl.runtime.tensorrt.settings import Bounds, Build, Profile
from tests.models import conv_net, dynamic_net, gemm_net, residual_net

rtx = pytest.importorskip("tensorrt_rtx", reason="pip install 'edgedl[tensorrt-rtx]'")
AMPERE = Build(compute_capabilities=("SM86",))


def engine_of(net: onnx.ModelProto, build: Build = AMPERE, **more: object) -> Built:
    return built(net.SerializeToString(), build, library=rtx, **more)  # type: ignore[arg-type]


def with_operator(kind: str, **attributes: object) -> onnx.ModelProto:
    """`gemm_net` with another operator in the place of its Relu."""
    net = gemm_net()
    relu = net.graph.node[1]
    relu.op_type = kind
    relu.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
    return net


def test_an_engine_is_built_and_its_layers_told() -> None:
    told: list[tuple[str, int, int]] = []
    found = engine_of(residual_net(), progress=lambda *step: told.append(step), layers=True)
    assert len(found.plan) > 100_000
    assert found.warnings == ()
    products = [layer for layer in found.layers if layer.is_product]
    assert {"conv1", "conv2", "conv3"} <= {node for one in products for node in one.nodes}
    assert {layer.precision for layer in products} == {"float32"}
    [fused] = [layer for layer in products if "conv2" in layer.nodes]
    assert {"sum", "relu2"} <= set(fused.nodes)
    assert told[0][0] == "building: building engine"
    assert all(0 <= done <= total for _, done, total in told)
    assert ("building: building engine", 6, 6) in told


def test_without_layers_none_are_told() -> None:
    assert engine_of(gemm_net()).layers == ()


def test_one_plan_serves_several_gpus_and_shapes() -> None:
    one = engine_of(gemm_net(), Build(compute_capabilities=("SM86",)))
    two = engine_of(gemm_net(), Build(compute_capabilities=("SM86", "SM120")))
    assert len(two.plan) > len(one.plan)
    bounds = [
        ((1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8)),
        ((2, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8)),
    ]
    profiles = tuple(Profile((Bounds("x", *shapes),)) for shapes in bounds)
    fewer, both = (
        engine_of(dynamic_net(), Build(some, compute_capabilities=("SM86",)))
        for some in (profiles[:1], profiles)
    )
    assert len(both.plan) > len(fewer.plan)


def test_a_file_is_built_with_the_weights_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(gemm_net(), path, save_as_external_data=True, location="w", size_threshold=0)
    assert (tmp_path / "w").stat().st_size
    assert len(built(path, AMPERE, library=rtx).plan) > 100_000


@pytest.mark.parametrize(
    "build",
    [
        Build(sparse=True, weight_streaming=True, workspace_bytes=64 << 20),
        Build(optimization_level=1, tiling="fast"),
    ],
)
def test_settings_reach_the_builder(build: Build) -> None:
    library = module("tensorrt_rtx")
    found = parsed(gemm_net().SerializeToString(), library=library)
    config = building.configured(found, build)
    assert config.get_flag(library.BuilderFlag.SPARSE_WEIGHTS) is build.sparse
    assert config.get_flag(library.BuilderFlag.WEIGHT_STREAMING) is build.weight_streaming
    if build.workspace_bytes is not None:
        pool = library.MemoryPoolType.WORKSPACE
        assert config.get_memory_pool_limit(pool) == build.workspace_bytes
    if build.optimization_level is not None:
        assert config.builder_optimization_level == build.optimization_level
        assert config.tiling_optimization_level == library.TilingOptimizationLevel.FAST


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (Build(dla_core=0), "this machine has none"),
        (Build(compute_capabilities=("SM70",)), "no ComputeCapability `SM70`"),
        (Build(hardware="ampere_plus"), "knows no hardware compatibility"),
    ],
)
def test_what_this_library_has_not_is_told(build: Build, said: str) -> None:
    with pytest.raises(Unsupported, match=said) as raised:
        engine_of(gemm_net(), build)
    assert raised.value.hint


@pytest.mark.parametrize(
    ("build", "hint"),
    [
        (Build(workspace_bytes=1, compute_capabilities=("SM86",)), "larger `workspace_bytes`"),
        (Build(version_compatible=True), "leave `version_compatible` out"),
        (Build(compute_capabilities=("SM75",)), "half precision"),
    ],
)
def test_a_builder_that_gives_up_is_told_in_its_words(build: Build, hint: str) -> None:
    with pytest.raises(EngineFailed, match=r"TensorRT-RTX \S+ cannot build") as raised:
        engine_of(conv_net(), build)
    assert hint in (raised.value.hint or "")
    assert "Error Code" not in str(raised.value)


def test_a_warning_does_not_hide_the_error_behind_it() -> None:
    net = gemm_net()
    ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, [1])
    net.graph.input.append(ids)
    made = [
        helper.make_node("Cast", ["ids"], ["real"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Add", ["logits", "real"], ["moved"], name="move"),
    ]
    net.graph.node.extend(made)
    net.graph.output[0].name = "moved"
    with pytest.raises(EngineFailed, match="FP32 GEMM is not supported"):
        engine_of(net, Build(compute_capabilities=("SM75",)))


class Config:
    """A builder's configuration that takes the timing caches it was given as fitting."""

    def __init__(self, *fitting: bytes, made: tuple[bytes, ...] = ()) -> None:
        self.fitting, self.made = fitting, made or fitting

    def create_timing_cache(self, data: bytes) -> bytearray | None:
        return bytearray(data) if data in self.made else None

    def set_timing_cache(self, cache: bytearray, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        return bytes(cache) in self.fitting


@pytest.mark.parametrize(
    ("config", "used"),
    [
        (Config(b"", b"kept"), b"kept"),
        (Config(b""), b""),
        (Config(b"", made=(b"", b"kept")), b""),
        (Config(), None),
    ],
    ids=["fits", "damaged", "of another version", "none"],
)
def test_a_timing_cache_that_does_not_fit_gives_way_to_an_empty_one(
    config: Config, used: bytes | None
) -> None:
    assert timing_cache_of(config, b"kept") == used


def test_operators_that_the_parser_refuses_are_each_told_once() -> None:
    net = conv_net()
    net.graph.node[1].op_type, net.graph.node[3].op_type = "Unique", "Bernoulli"
    with pytest.raises(Refused, match="refuses the model") as raised:
        engine_of(net)
    found = [(one.operator, one.node) for one in raised.value.operators]
    assert found == [("Unique", "relu1"), ("Bernoulli", "relu2")]
    assert all(one.reason == "it has no layer for this operator" for one in raised.value.operators)
    assert "--target cpu" in (raised.value.hint or "")
    named = raised.value.named({"relu1": "head/act"})
    assert [one.node for one in named.operators] == ["head/act", "relu2"]
    assert "Unique `head/act`" in str(named)
    assert named.hint == raised.value.hint
    assert not takes(net.SerializeToString(), library=rtx)
    assert takes(conv_net().SerializeToString(), library=rtx)


def test_an_operator_that_nobody_knows_is_told() -> None:
    with pytest.raises(Refused, match="Foo `relu1`: it has no layer and no plugin"):
        engine_of(with_operator("Foo"))


def quantized(zero_point: np.ndarray, bias: bool = False) -> onnx.ModelProto:
    """`gemm_net` whose input, or whose first bias, stands in codes."""
    net = gemm_net()
    constants = {"scale": np.float32(0.1), "zero": zero_point}
    if bias:
        constants["codes"] = np.zeros(12, np.int32)
    net.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()
    )
    if bias:
        made = [helper.make_node("DequantizeLinear", ["codes", "scale"], ["real"], name="bias")]
        net.graph.node[0].input[2] = "real"
    else:
        made = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"], name="to_codes"),
            helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["real"]),
        ]
        net.graph.node[0].input[0] = "real"
    for node in reversed(made):
        net.graph.node.insert(0, node)
    return net


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (quantized(np.int8(3)), "QuantizeLinear `to_codes`: its zero point is not 0"),
        (quantized(np.uint8(128)), "QuantizeLinear `to_codes`: its zero point is not 0"),
        (quantized(np.int8(0), bias=True), "DequantizeLinear `bias`: its codes are int32"),
    ],
)
def test_what_foreign_quantizers_write_is_told_with_the_command_that_makes_it_right(
    net: onnx.ModelProto, said: str
) -> None:
    with pytest.raises(Refused, match=said) as raised:
        engine_of(net)
    assert "--int8 --force --target tensorrt" in (raised.value.hint or "")


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no ONNX model"):
        built(b"nonsense", AMPERE, library=rtx)
    with pytest.raises(BadModel, match="no such file"):
        built(tmp_path / "none.onnx", AMPERE, library=rtx)


def test_dynamic_axes_without_a_profile_are_told() -> None:
    with pytest.raises(BadOption, match=r"\?x3x\?x\?"):
        engine_of(dynamic_net())


def test_a_library_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "installed", lambda name: False)
    with pytest.raises(Missing, match="`tensorrt` or `tensorrt_rtx`") as raised:
        module()
    assert "edgedl[tensorrt-rtx]" in (raised.value.hint or "")
    with pytest.raises(Missing, match="needs `tensorrt`, which"):
        module("tensorrt")


def test_the_parsers_assertions_become_sentences() -> None:
    said = "Assertion failed: (a == b): Only 4D inputs are supported"
    assert refused("n", "Foo", "UNSUPPORTED_NODE_SHAPE", said).reason == (
        "it does not take this operator with such a shape ((a == b): Only 4D inputs are supported)"
    )
    assert refused("n", "Foo", "UNSUPPORTED_NODE", "false").reason == (
        "it has no layer for this operator"
    )
    assert refused("n", "Foo", "OF_LATER_VERSIONS", "").reason == "it gives no reason"
    assert label(rtx) == f"TensorRT-RTX {rtx.__version__}"
