"""What every pass promises, tried on every pass of the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from edgedl.core.model import Model
from edgedl.core.registry import resolve
from edgedl.core.stats import cosine
from edgedl.passes import PASSES
from edgedl.passes.graph import rewrite
from edgedl.passes.quantize import Quantize
from tests.models import NETS, Sketch, answers, conv_net, feeds, samples, saved

EXACT = 1e-4


def table_net() -> onnx.ModelProto:
    """Rows of a table by ids, then a dense layer."""
    net = Sketch(13)
    net.node("Gather", [net.weight("table", 8, 16), "x"], "rows")
    net.node("MatMul", ["rows", net.weight("fc_w", 16, 5)], "logits", name="fc")
    made = net.model([1, 6], [1, 6, 5])
    made.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    return made


def double_net() -> onnx.ModelProto:
    """A dense layer in float64."""
    net = Sketch(14)
    weight = net.constant("fc_w", net.random.standard_normal((16, 5)))
    net.node("MatMul", ["x", weight], "logits", name="fc")
    made = net.model([1, 16], [1, 5])
    for tensor in (*made.graph.input, *made.graph.output):
        tensor.type.tensor_type.elem_type = TensorProto.DOUBLE
    return made


def quantized(folder: Path) -> Model:
    """`conv_net` as a quantizer left it."""
    model = saved(conv_net(), folder)
    return Quantize(samples=samples(model.signature))(model)


def _saved(net: Callable[[], onnx.ModelProto]) -> Callable[[Path], Model]:
    return lambda folder: saved(net(), folder)


MODELS: dict[str, Callable[[Path], Model]] = {
    **{name: _saved(net) for name, net in NETS.items()},
    "table": _saved(table_net),
    "double": _saved(double_net),
    "quantized": quantized,
}


@dataclass(frozen=True)
class Nothing:
    """Reads a graph and writes it."""

    name: ClassVar[str] = "nothing"

    def edit(self, graph: ir.Model) -> None:
        pass


def made(name: str, model: Any) -> Any:
    """The pass of this name, given samples where it takes some."""
    kind = resolve(PASSES, name, kind="pass")
    needed = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is field.default_factory is dataclasses.MISSING
    }
    assert needed <= {"samples"}, (
        f"pass `{name}` cannot be tried: give its {', '.join(sorted(needed - {'samples'}))} a"
        " default; only `samples` are brought here"
    )
    takes = {field.name for field in dataclasses.fields(kind)} & {"samples"}
    return kind(**{one: samples(model.signature) for one in takes})


def written(model: Model) -> bytes:
    """A model's graph with its weights, without its history."""
    graph = onnx.load(str(model.path)).graph
    return bytes(graph.SerializeToString(deterministic=True))


@pytest.mark.parametrize("name", PASSES)
def test_is_a_frozen_dataclass_that_bears_its_name(name: str) -> None:
    kind = resolve(PASSES, name, kind="pass")
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert kind.name == name, f"`name` of {kind.__name__} is `{kind.name}`, in the table `{name}`"
    for field in dataclasses.fields(kind):
        assert f" {field.name}: " in (kind.__doc__ or ""), (
            f"the docstring of {kind.__name__} does not say what `{field.name}` is"
        )


@pytest.mark.parametrize("name", PASSES)
def test_does_something_to_one_of_these_models(name: str, tmp_path: Path) -> None:
    for net, make in MODELS.items():
        folder = tmp_path / net
        folder.mkdir()
        model = make(folder)
        if written(made(name, model)(model)) != written(rewrite(model, Nothing())):
            return
    pytest.fail(f"no model here has what `{name}` works on: add one to MODELS")


@pytest.mark.parametrize("net", MODELS)
@pytest.mark.parametrize("name", PASSES)
def test_keeps_its_promises(
    name: str, net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MODELS[net](tmp_path)
    before = model.path.read_bytes()
    one = made(name, model)
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "first"))
    result = one(model)
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "second"))
    again = one(model)

    assert model.path.read_bytes() == before
    assert result.path != again.path
    assert result.path.read_bytes() == again.path.read_bytes()
    assert result.signature.inputs == model.signature.inputs
    assert [t.name for t in result.signature.outputs] == [t.name for t in model.signature.outputs]
    assert len(result.history) == len(model.history) + 1
    onnx.checker.check_model(str(result.path))

    rows = feeds(model.signature, 4, seed=9)
    least = getattr(one, "tolerance", None)
    for wanted, given in zip(answers(model.path, rows), answers(result.path, rows), strict=True):
        for output, reference in wanted.items():
            if least is None:
                assert np.allclose(given[output], reference, atol=EXACT), (
                    f"answers moved, and {type(one).__name__} has no `tolerance`: the least cosine"
                    " between answers before and after, as a ClassVar"
                )
            else:
                assert cosine(reference, given[output]) >= least
