"""Every family of network, in every precision, parsed and built by NVIDIA's own library.

What TensorRT-RTX refuses here, TensorRT on a device refuses, too. It needs no GPU.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from edgedl.core.errors import EngineFailed
from edgedl.core.model import Model
from edgedl.core.target import TENSORRT
from edgedl.passes.graph import open_model, rewrite
from edgedl.passes.half import Half
from edgedl.passes.plan import Plan
from edgedl.passes.quantize import Quantize
from edgedl.runtime.tensorrt.build import Built, built
from edgedl.runtime.tensorrt.settings import Build, profile_seen
from edgedl.search.candidates import stored_weights
from edgedl.search.ready import prepare
from tests.models import NETS, samples, saved

rtx = pytest.importorskip("tensorrt_rtx", reason="pip install 'edgedl[tensorrt-rtx]'")
GOLDEN = Path(__file__).parents[2] / "golden"
TRAINED = ("mobilenet_v2", "mobilenet_v3", "efficientnet", "vit", "detector")
SMALL = ("conv", "dynamic", "residual", "depthwise", "attention", "concat", "if", "recurrent")
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
OPPOSITE = {"float32": "SM89", "float16": "SM75", "int8": "SM86", "int8, rest in float16": "SM120"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nets")


@cache
def clean(name: str, folder: Path) -> Model:
    if name in TRAINED:
        return prepare(open_model(GOLDEN / f"{name}.onnx"), {})
    place = folder / name
    place.mkdir(exist_ok=True)
    return prepare(saved(NETS[name](), place), {})


@cache
def planned(name: str, folder: Path) -> tuple[Plan, Model]:
    """The TensorRT scheme's full plan, and the model in it."""
    model = clean(name, folder)
    quantize = Quantize(samples(model.signature, 4), scheme="tensorrt", method="minmax")
    return quantize.plan(model), quantize(model)


def precise(name: str, precision: str, folder: Path) -> Model:
    model = clean(name, folder) if precision.startswith("float") else planned(name, folder)[1]
    return Half()(model) if precision.endswith("float16") else model


def engine_of(model: Model, capability: str) -> Built:
    seen = [{n: array.shape for n, array in feed.items()} for feed in samples(model.signature, 1)]
    build = Build(profile_seen(model.signature, seen), compute_capabilities=(capability,))
    return built(model.path, build, library=rtx, layers=True)


@pytest.mark.parametrize("precision", OPPOSITE)
@pytest.mark.parametrize("name", [*SMALL, *TRAINED])
def test_parses_and_builds(name: str, precision: str, folder: Path) -> None:
    model, capability = precise(name, precision, folder), OPPOSITE[precision]
    if (name, precision) == ("if", "float16"):  # bodies stay float32, which Turing's GEMMs are not
        capability = "SM86"
    found = engine_of(model, capability)
    assert len(found.plan) > 100_000
    assert found.layers


@pytest.mark.parametrize("name", ["residual", "depthwise", "attention", "concat", *TRAINED])
def test_what_the_plan_has_in_int8_the_engine_computes_in_int8(name: str, folder: Path) -> None:
    plan, _ = planned(name, folder)
    wanted = {
        one.node for one in plan.decisions if one.precision == "int8" and one.operator in PRODUCTS
    }
    layers = engine_of(precise(name, "int8, rest in float16", folder), "SM86").layers
    computed = {
        node
        for layer in layers
        if layer.is_product and layer.precision == "int8"
        for node in layer.nodes
    }
    lost = wanted - computed
    assert len(lost) <= len(wanted) // 20, f"computed in float: {sorted(lost)}"
    wide = Counter(layer.precision for layer in layers if layer.is_product)
    assert set(wide) == {"int8"}


def test_a_residual_sum_is_added_where_the_next_codes_are_made(folder: Path) -> None:
    """One kernel between two convolutions: bias, sum, activation and the quantizer behind them."""
    layers = engine_of(precise("residual", "int8, rest in float16", folder), "SM86").layers
    between = [layer for layer in layers if {"sum", "relu2"} & set(layer.nodes)]
    assert len([layer for layer in between if not layer.is_product]) == 1
    [one] = [layer for layer in between if not layer.is_product]
    assert "int8" in one.inputs
    assert one.outputs == ("int8",)


@pytest.mark.parametrize("name", ["conv", "attention", "recurrent", "mobilenet_v2", "vit"])
def test_weights_stored_in_8_bits_are_taken(name: str, folder: Path) -> None:
    stored = rewrite(clean(name, folder), stored_weights(TENSORRT))
    if name in TRAINED:
        assert stored.bytes < 0.6 * clean(name, folder).bytes
    assert engine_of(Half()(stored), "SM86").plan


def test_bfloat16_is_taken_since_ampere(folder: Path) -> None:
    model = Half("bfloat16")(clean("residual", folder))
    products = [one for one in engine_of(model, "SM86").layers if one.is_product]
    assert {layer.precision for layer in products} == {"bfloat16"}
    with pytest.raises(EngineFailed, match="b16"):
        engine_of(model, "SM75")
