"""Plans as files: what is written is read back, and what a person may have made of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgedl.core.errors import BadValue
from edgedl.core.model import Model
from edgedl.core.program import Constants
from edgedl.core.target import SCHEMES
from edgedl.passes.calibrate import calibrate
from edgedl.passes.clean import Clean
from edgedl.passes.graph import read
from edgedl.passes.layout import EXTENTS, Extent, layout
from edgedl.passes.plan import Cost, Decision, Plan, Quantizer
from edgedl.passes.plan_file import LARGEST_SCALE, PlanFile, fit, from_document, to_yaml
from edgedl.passes.quantize import plan as make_plan
from edgedl.passes.ranges import METHODS, Histogram, Method
from edgedl.passes.scales import SMALLEST_SCALE, decide
from edgedl.yamls import read_yaml
from tests.models import INT8_SCHEMES, NETS, attention_net, concat_net, residual_net, samples, saved

MOST_BYTES = 20_000_000
Document = dict[str, Any]


def histograms_of(model: Model) -> dict[str, Histogram]:
    """Of everything that any scheme quantizes in any extent."""
    graph = read(model.path)
    watched = {name for scheme in SCHEMES.values() for name in layout(graph, scheme).tensors}
    return calibrate(model, sorted(watched), samples(model.signature, 4))


def file_of(text: str, folder: Path) -> PlanFile:
    path = folder / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    return read_yaml(path, MOST_BYTES).read(from_document)


def again(plan: Plan, model: Model, folder: Path, method: Method = "mse") -> Plan:
    """The plan out of its own file, without any histogram."""
    engine = plan.scheme.split(",")[0]
    read_back = file_of(to_yaml(plan, engine, {}, method), folder)
    assert read_back.ranges == method
    return decide(fit(read_back, model), SCHEMES[plan.scheme], {}, method, read_back.scales)


def without_reasons(plan: Plan) -> Plan:
    decisions = tuple(dataclasses.replace(d, reason="") for d in plan.decisions)
    return dataclasses.replace(plan, decisions=decisions)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("scheme", INT8_SCHEMES)
def test_every_plan_comes_back(scheme: str, net: str, tmp_path: Path) -> None:
    model = Clean()(saved(NETS[net](), tmp_path))
    histograms = histograms_of(model)
    random = np.random.default_rng(0)

    def check(extent: Extent, method: Method, keep: Mapping[str, str]) -> Plan:
        plan = make_plan(model, scheme, histograms, method, extent=extent, keep_float=keep)
        assert without_reasons(again(plan, model, tmp_path, method)) == without_reasons(plan)
        return plan

    for extent in EXTENTS:
        full = check(extent, "mse", {})
    for method in METHODS:
        full = check("full", method, {})
    for _ in range(6):
        kept = [name for name in full.int8 if random.random() < 0.4]
        check("full", "minmax", dict.fromkeys(kept, "costs less in float here"))
    none = check("full", "minmax", dict.fromkeys(full.int8, "why not"))
    assert none.int8 == ()


def test_settings_and_engine_come_back(tmp_path: Path) -> None:
    plan = Plan("openvino", (), {}, {}, {})
    settings = {"precision": "bf16", "unfused": ["a", "b: c"], "reuse_outputs": True, "n": 1e-7}
    found = file_of(to_yaml(plan, "openvino", settings, "entropy"), tmp_path)
    assert found == PlanFile("openvino", settings, "entropy", {}, {}, tables=())


NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
SCALES = st.floats(SMALLEST_SCALE, LARGEST_SCALE, width=32)


def of_names(names: list[str], scale: float = 0.5) -> Plan:
    decisions = tuple(
        Decision(name, "Conv", "int8" if i % 2 else "float", "why") for i, name in enumerate(names)
    )
    quantizers = {name: Quantizer("uint8", scale, i % 256) for i, name in enumerate(names)}
    return Plan("onnxruntime", decisions, quantizers, {}, {})


@given(st.lists(NAMES, unique=True, max_size=6), SCALES)
@example([""], 0.1)
@example(["a: b", "a # b", "- a", "? a", "'a'", '"a"', "\\a", "{a}", "[a]", "*a", "&a", "!a"], 1.0)
@example(["null", "true", "no", "1", "1.5", "~", "<<", "---", "..."], 1e-30)
@example(["two\nlines", "\r", "\t", "\0", "\x7f", "\x85", "\u2028", "\ufeff", "\ufffe"], 3e38)
@example(["größe", "卷积", "\U0001f600"], 0.25)
@example(["a" * 2000, "卷" * 200, "b" * 998, "b" * 999, "\U0001f600" * 90], 0.5)
def test_any_names_come_back(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], scale: float
) -> None:
    plan = of_names(names, scale)
    found = file_of(to_yaml(plan, "onnxruntime", {}, "mse"), tmp_path_factory.mktemp("plan"))
    assert found.operators == {d.node: d.precision for d in plan.decisions}
    assert list(found.operators) == names
    assert found.scales == plan.activations


def test_the_file_of_five_thousand_operators_is_read(tmp_path: Path) -> None:
    names = [f"/model/decoder/layers.{i}/self_attn/out_proj/MatMul_output_0" for i in range(5000)]
    text = to_yaml(of_names(names), "onnxruntime", {}, "mse")
    assert len(text) > 1_000_000
    assert len(file_of(text, tmp_path).operators) == 5000


def test_costs_and_reasons_stand_beside_the_operators() -> None:
    plan = of_names(["a", "b", "c"])
    costs = [Cost("a", "Conv", 12.4, 30.6, "float"), Cost("b", "Conv", None, 3.0, "int8")]
    lines = to_yaml(plan, "onnxruntime", {}, "mse", costs=costs).splitlines()
    [a, b, c] = [line for line in lines if line.endswith("why")]
    assert [word.strip() for word in a.split("#")] == [
        '"a": float', "Conv: 12 us in float, 31 in int8; why"
    ]  # fmt: skip
    assert b.endswith("# Conv: why")
    assert len({line.index("#") for line in (a, b, c)}) == 1


def document(net: Any = residual_net, scheme: str = "onnxruntime") -> Callable[[Path], Any]:
    def made(folder: Path) -> tuple[Document, Model]:
        model = Clean()(saved(net(), folder))
        plan = make_plan(model, scheme, histograms_of(model), "minmax")
        path = folder / "plan.yaml"
        path.write_text(to_yaml(plan, scheme, {}, "minmax"))
        return read_yaml(path).data, model

    return made


def fitted(data: Document, model: Model) -> Any:
    return fit(from_document(data), model)


def refused(data: Any, model: Model | None = None) -> BadValue:
    with pytest.raises(BadValue) as caught:
        read_back = from_document(data)
        assert model is not None
        fit(read_back, model)
    assert caught.value.hint
    return caught.value


def test_one_operator_back_to_float_keeps_its_neighbours_scales(tmp_path: Path) -> None:
    data, model = document()(tmp_path)
    before = fitted(data, model)
    data["operators"]["fc"] = "float"
    found = fitted(data, model)
    by_hand = {d.node: d for d in found.decisions}["fc"]
    assert (by_hand.precision, by_hand.reason) == ("float", "the plan says so")
    assert "fc" in before.readers["flat"]
    # Its own scale may stay in the file, although nothing uses it now.
    assert set(found.tensors) < set(before.tensors)
    assert set(data["scales"]) == set(before.tensors)


def test_a_scale_that_was_left_out_is_that_of_its_group_or_calibrated(tmp_path: Path) -> None:
    data, model = document()(tmp_path)
    group = Quantizer("uint8", 0.5, 3)
    data["scales"] = {"relu2": group.to_json()}
    read_back = from_document(data)
    found = fit(read_back, model)
    plan = decide(found, SCHEMES["onnxruntime"], histograms_of(model), "minmax", read_back.scales)
    assert plan.activations["relu2"] == plan.activations["small"] == group
    assert plan.activations["x"] != group
    assert set(plan.activations) == set(found.tensors)


def test_operators_of_another_model_are_named(tmp_path: Path) -> None:
    data, _ = document()(tmp_path)
    (tmp_path / "other").mkdir()
    _, other = document(attention_net)(tmp_path / "other")
    error = refused(data, other)
    assert error.keys == ("operators", "conv1")
    assert "no operator `conv1`" in error.message


def test_an_operator_that_the_plan_lacks_is_named(tmp_path: Path) -> None:
    data, model = document()(tmp_path)
    del data["operators"]["sum"]
    error = refused(data, model)
    assert error.keys == ("operators",)
    assert "lacks operator `sum`" in error.message


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_what_cannot_be_int8_is_said_with_the_reason(engine: str, tmp_path: Path) -> None:
    data, model = document(concat_net, engine)(tmp_path)
    data["operators"] |= {"left": "float", "right": "float"}
    error = refused(data, model)
    assert error.keys == ("operators", "both")
    assert "cannot compute in int8: its inputs are float" in error.message
    assert error.hint == "`both: float`"
    data["operators"]["both"] = "float"
    assert "left" not in [d.node for d in fitted(data, model).decisions if d.precision == "int8"]


def test_an_operator_without_an_int8_kernel_is_told_from_one_that_is_not_there(
    tmp_path: Path,
) -> None:
    data, model = document(attention_net)(tmp_path)
    softmax = next(n.name for n in read(model.path).graph if n.op_type == "Softmax")
    for state, words in (("int8", "cannot compute in int8: onnxruntime has"), ("float", "choice")):
        error = refused({**data, "operators": {**data["operators"], softmax: state}}, model)
        assert error.keys == ("operators", softmax)
        assert f"`{softmax}` (Softmax)" in error.message
        assert words in error.message


def test_tensors_that_share_a_scale_must_agree(tmp_path: Path) -> None:
    data, model = document()(tmp_path)
    data["scales"]["small"] = {**data["scales"]["small"], "scale": 0.125}
    error = refused(data, model)
    assert error.keys == ("scales", "small")
    assert "`relu2`" in error.message


def test_a_tensor_that_the_model_has_not_is_named(tmp_path: Path) -> None:
    data, model = document()(tmp_path)
    data["scales"]["relu_2"] = data["scales"].pop("relu2")
    error = refused(data, model)
    assert error.keys == ("scales", "relu_2")
    assert "did you mean `relu2`?" in (error.hint or "")


FINE: Document = {
    "engine": "onnxruntime", "settings": {}, "ranges": "mse", "operators": {}, "scales": {},
}  # fmt: skip
SCALE = {"dtype": "uint8", "scale": 0.5, "zero_point": 3}


@pytest.mark.parametrize(
    ("change", "keys", "says"),
    [
        ({"engin": "x"}, ("engin",), "unknown key `engin`"),
        ({"engine": "onnx"}, ("engine",), "unknown engine `onnx`"),
        ({"engine": None}, ("engine",), "unknown engine"),
        ({"engine": ["openvino"]}, ("engine",), "unknown engine"),
        ({"ranges": "max"}, ("ranges",), "unknown ranges `max`"),
        ({"tuned": None}, ("tuned",), "`tuned` wants text"),
        ({"settings": []}, ("settings",), "`settings` wants names"),
        ({"operators": None}, ("operators",), "`operators` wants names"),
        ({"scales": "none"}, ("scales",), "`scales` wants names"),
        ({"operators": {"a": "int4"}}, ("operators", "a"), "`a` is `int4`"),
        ({"operators": {"a": None}}, ("operators", "a"), "`a` is `None`"),
        ({"operators": {"a": ["int8"]}}, ("operators", "a"), "`a` is"),
        ({"scales": {"a": 0.5}}, ("scales", "a"), "wants keys"),
        ({"scales": {"a": {**SCALE, "zero": 1}}}, ("scales", "a", "zero"), "unknown key"),
        ({"scales": {"a": {**SCALE, "dtype": "int4"}}}, ("scales", "a", "dtype"), "int4"),
        ({"scales": {"a": {**SCALE, "scale": 0}}}, ("scales", "a", "scale"), "not within"),
        ({"scales": {"a": {**SCALE, "scale": -1.0}}}, ("scales", "a", "scale"), "not within"),
        ({"scales": {"a": {**SCALE, "scale": 1e-50}}}, ("scales", "a", "scale"), "not within"),
        ({"scales": {"a": {**SCALE, "scale": 1e50}}}, ("scales", "a", "scale"), "not within"),
        ({"scales": {"a": {**SCALE, "scale": ".nan"}}}, ("scales", "a", "scale"), "number"),
        ({"scales": {"a": {**SCALE, "zero_point": 256}}}, ("scales", "a", "zero_point"), "255"),
        ({"scales": {"a": {**SCALE, "zero_point": -1}}}, ("scales", "a", "zero_point"), "255"),
        ({"scales": {"a": {**SCALE, "zero_point": 0.5}}}, ("scales", "a", "zero_point"), "whole"),
        ({"scales": {"a": {**SCALE, "dtype": "int8", "zero_point": 128}}},
         ("scales", "a", "zero_point"), "-128 and 127"),
    ],
)  # fmt: skip
def test_values_that_cannot_stand_there_are_named(
    change: Document, keys: tuple[str, ...], says: str
) -> None:
    assert from_document(FINE).engine == "onnxruntime"
    error = refused({**FINE, **change})
    assert error.keys == keys
    assert says in error.message


@pytest.mark.parametrize("part", FINE)
def test_every_part_must_be_there(part: str) -> None:
    error = refused({name: value for name, value in FINE.items() if name != part})
    assert f"the plan lacks `{part}`" in error.message


@pytest.mark.parametrize("data", [None, [], "a plan", 3])
def test_what_is_no_plan_is_said(data: Any) -> None:
    assert "no plan" in refused(data).message


def test_errors_have_the_line_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    text = to_yaml(of_names(["a", "b"]), "onnxruntime", {}, "mse").replace('"b": int8', '"b": int9')
    path.write_text(text)
    with pytest.raises(BadValue) as caught:
        read_yaml(path).read(from_document)
    line = 1 + text[: text.index('"b": int9')].count("\n")
    assert caught.value.where == f"{path}:{line}"


def test_a_plan_is_as_long_as_what_it_decides() -> None:
    plan = of_names(["a", "b"])
    assert json.loads(json.dumps(plan.to_json())) == plan.to_json()
    rows = [line for line in to_yaml(plan, "x", {}, "mse").splitlines() if line.startswith("  ")]
    assert len(rows) == len(plan.decisions) + len(plan.activations)


def test_constants_that_training_moved_lie_beside_the_plan(tmp_path: Path) -> None:
    text = to_yaml(of_names(["a", "b"]), "onnxruntime", {}, "mse", tuned="tuned.npz")
    written = file_of(text, tmp_path)
    assert written.constants is None
    Constants({"w": np.arange(3, dtype=np.float32)}).write(tmp_path / "tuned.npz")
    found = written.with_constants(tmp_path).constants
    assert found is not None
    np.testing.assert_array_equal(found.of["w"], [0, 1, 2])
    assert file_of(to_yaml(of_names(["a"]), "onnxruntime", {}, "mse"), tmp_path).tuned == ""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gone.npz", None),
        ("empty.npz", b""),
        ("text.npz", b"not an archive"),
        ("cut.npz", b"PK\x03\x04" + bytes(64)),
        (
            "array.npz",
            b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }"
            + b" " * 59
            + b"\n"
            + bytes(4),
        ),
        ("../plan.yaml", None),
        ("/etc/hosts", None),
    ],
)
def test_constants_that_cannot_be_read_are_told_by_their_file(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadValue) as error:
        PlanFile("onnxruntime", {}, "mse", {}, {}, tuned=name).with_constants(tmp_path)
    assert error.value.keys == ("tuned",)
    assert name in error.value.message
    assert "without `tuned`" in str(error.value.hint)
