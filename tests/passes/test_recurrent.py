"""LSTM and GRU in int8: on every engine, and the operators that stay float."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedl.core.model import Model
from edgedl.core.target import SCHEMES
from edgedl.passes.crossings import choices
from edgedl.passes.dynamic import Dynamic
from edgedl.passes.graph import open_model, quantized_already, read
from edgedl.passes.layout import layout
from edgedl.passes.place import Place
from edgedl.passes.plan import Decision, Plan, Quantizer
from edgedl.passes.plan_file import fit, from_document, to_yaml
from edgedl.passes.quantize import Quantize
from edgedl.passes.recurrent import NO_BATCHES, NO_GRU, NO_RESET_AFTER
from edgedl.passes.saturation import at_risk
from edgedl.passes.scales import decide
from edgedl.runtime import engine, installed_engines
from edgedl.yamls import read_yaml
from tests.models import answers, feeds, samples, saved
from tests.search.small import prepared
from tests.sequences import classifier, recurrent_net

INSTALLED = installed_engines()
KERNELS = {"DynamicQuantizeLSTM", "RNNSeq"}
BOTH_WAYS: dict[str, Any] = {"direction": "bidirectional"}
CASES: dict[str, dict[str, Any]] = {
    "forward": {},
    "reverse": {"direction": "reverse"},
    "both ways": BOTH_WAYS,
    "odd sizes": {"hidden": 33, "fed": 21, "given": ("bias",)},
    "both ways with states": {**BOTH_WAYS, "given": ("bias", "initial_h", "initial_c")},
    "states as inputs": {"given": ("initial_h?", "initial_c?"), "outputs": ("y", "y_h", "y_c")},
    "both ways, states as inputs": {
        **BOTH_WAYS, "given": ("initial_h?", "initial_c?"), "outputs": ("y", "y_h", "y_c"),
    },
    "the last state": {"outputs": ("y_h",)},
    "the last cell": {**BOTH_WAYS, "outputs": ("y_c",)},
}  # fmt: skip
ONNXRUNTIME_ALONE: dict[str, dict[str, Any]] = {
    "lengths": {"given": ("lengths",)},
    "peepholes": {"given": ("peepholes",)},
    "clip": {"clip": 1.0},
    "input_forget": {"input_forget": 1},
    "activations": {"activations": ["Sigmoid", "Tanh", "Relu"]},
}


def int8(model: Model, scheme: str, **settings: Any) -> tuple[Plan, Model]:
    quantize = Quantize(samples(model.signature, 8), scheme=scheme, **settings)
    return quantize.plan(model), quantize(model)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def int8_kernels(model: Model, name: str) -> int:
    feed = feeds(model.signature, 1)[0]
    ran = engine(name).operators(model.path, feed, settings={}, threads=1)
    return sum(o.kind in KERNELS and o.precision == "int8" for o in ran)


def only_decision(net: onnx.ModelProto, scheme: str, folder: Path) -> Decision:
    [decision] = layout(read(saved(net, folder).path), SCHEMES[scheme]).decisions
    return decision


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", INSTALLED)
def test_an_lstm_runs_in_int8_and_answers_like_float(name: str, case: str, tmp_path: Path) -> None:
    model = prepared(recurrent_net(**CASES[case]), tmp_path)
    plan, made = int8(model, name)
    assert plan.int8 == ("it",)
    assert not plan.weights
    ways = 2 if CASES[case].get("direction") == "bidirectional" else 1
    assert int8_kernels(made, name) == (ways if name == "openvino" else 1)
    rows = feeds(model.signature, 3, seed=5)
    for wanted, found in zip(answers(model.path, rows, name), answers(made.path, rows, name),
                             strict=True):  # fmt: skip
        assert wanted.keys() == found.keys()
        for output, array in wanted.items():
            assert found[output].shape == array.shape
            assert cosine(array, found[output]) > 0.997
    assert quantized_already(made)


@pytest.mark.parametrize("case", ONNXRUNTIME_ALONE)
@pytest.mark.skipif("onnxruntime" not in INSTALLED, reason="onnxruntime is missing")
def test_what_onnxruntime_alone_takes(case: str, tmp_path: Path) -> None:
    model = prepared(recurrent_net(**ONNXRUNTIME_ALONE[case]), tmp_path)
    plan, made = int8(model, "onnxruntime")
    assert plan.int8 == ("it",)
    rows = feeds(model.signature, 2, seed=5)
    for wanted, found in zip(answers(model.path, rows), answers(made.path, rows), strict=True):
        assert cosine(wanted["y"], found["y"]) > 0.999


@pytest.mark.skipif("openvino" not in INSTALLED, reason="OpenVINO is missing")
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_a_gru_that_resets_before_the_product_runs_in_int8_on_openvino(
    direction: str, tmp_path: Path
) -> None:
    model = prepared(recurrent_net("GRU", direction=direction, given=("bias",)), tmp_path)
    plan, made = int8(model, "openvino")
    assert plan.int8 == ("it",)
    assert int8_kernels(made, "openvino") == (1 if direction == "forward" else 2)
    rows = feeds(model.signature, 2, seed=5)
    for wanted, found in zip(
        answers(model.path, rows, "openvino"), answers(made.path, rows, "openvino"), strict=True
    ):
        assert cosine(wanted["y"], found["y"]) > 0.997


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_gates_of_unlike_sizes_keep_their_scales(name: str, operator: str, tmp_path: Path) -> None:
    """OpenVINO reorders the gates of an LSTM and not their scales."""
    net = recurrent_net(operator)
    sizes = np.asarray([0.2, 1.0, 3.0, 0.6][: 4 if operator == "LSTM" else 3], np.float32)
    for tensor in net.graph.initializer:
        array = numpy_helper.to_array(tensor)
        scaled = array.reshape(1, len(sizes), -1) * sizes[None, :, None]
        tensor.CopyFrom(numpy_helper.from_array(scaled.reshape(array.shape), tensor.name))
    model = prepared(net, tmp_path)
    _, made = int8(model, name)
    rows = feeds(model.signature, 2, seed=5)
    for wanted, found in zip(
        answers(model.path, rows, name), answers(made.path, rows, name), strict=True
    ):
        assert cosine(wanted["y"], found["y"]) > 0.997


@pytest.mark.parametrize(
    ("scheme", "case", "reason"),
    [
        ("onnxruntime", {"operator": "GRU"}, NO_GRU),
        ("onnxruntime", {"operator": "RNN"}, "onnxruntime has no int8 kernel for it"),
        ("onnxruntime", {"layout": 1}, "its layout puts the batch first, which no kernel takes"),
        ("openvino", {"operator": "RNN"}, "openvino has no int8 kernel for it"),
        ("openvino", {"operator": "GRU", "linear_before_reset": 1}, NO_RESET_AFTER),
        ("openvino", {"batch": 3}, NO_BATCHES),
        ("openvino", {"batch": "n"}, NO_BATCHES),
        ("openvino", {"clip": 1.0}, "openvino has no int8 kernel with `clip`"),
        ("openvino", {"input_forget": 1}, "openvino has no int8 kernel with `input_forget`"),
        ("openvino", {"given": ("bias?",)}, "its bias is computed"),
        (
            "openvino",
            {"activations": ["Sigmoid", "Tanh", "Relu"]},
            "openvino has no int8 kernel with `activations`",
        ),
        (
            "openvino",
            {"given": ("lengths",)},
            "openvino has no int8 kernel for sequences with lengths of its own",
        ),
        (
            "openvino",
            {"given": ("peepholes",)},
            "openvino has no int8 kernel for sequences with peepholes",
        ),
        ("tensorrt", {}, "tensorrt has no int8 kernel for it"),
    ],
)  # fmt: skip
def test_why_it_stays_float(scheme: str, case: dict[str, Any], reason: str, tmp_path: Path) -> None:
    net = recurrent_net(**case)
    decision = only_decision(net, scheme, tmp_path)
    assert (decision.operator, decision.precision) == (case.get("operator", "LSTM"), "float")
    assert decision.reason == reason


@pytest.mark.parametrize("name", INSTALLED)
def test_a_person_may_keep_it_in_float(name: str, tmp_path: Path) -> None:
    model = prepared(recurrent_net(), tmp_path)
    plan, made = int8(model, name, keep_float={"it": "I said so"})
    assert [(d.precision, d.reason) for d in plan.decisions] == [("float", "I said so")]
    assert not plan.activations
    assert int8_kernels(made, name) == 0


@pytest.mark.parametrize(
    ("scheme", "tensors"), [("onnxruntime", set()), ("openvino", {"x", "y", "initial_h"})]
)
def test_ranges_are_needed_where_the_kernel_does_not_find_them_itself(
    scheme: str, tensors: set[str], tmp_path: Path
) -> None:
    model = prepared(recurrent_net(given=("initial_h?",)), tmp_path)
    found = layout(read(model.path), SCHEMES[scheme])
    assert set(found.tensors) == tensors
    assert not any(found.readers.values())
    if tensors:
        assert found.groups["initial_h"] == found.groups["y"] != found.groups["x"]


def test_a_first_state_of_zeros_in_as_many_rows_as_the_input_has_is_a_constant(
    tmp_path: Path,
) -> None:
    """As PyTorch writes it where the length is dynamic: ConstantOfShape, and Slice."""
    net = recurrent_net(given=("initial_h?", "bias"))
    del net.graph.input[1:]
    for name, array in (("rows", [2, 1, 32]), ("from", [1]), ("to", [2]), ("axis", [0])):
        net.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    net.graph.node.insert(0, helper.make_node("ConstantOfShape", ["rows"], ["zeros"], "zeros"))
    net.graph.node.insert(
        1, helper.make_node("Slice", ["zeros", "from", "to", "axis"], ["initial_h"], "slice")
    )
    net.graph.value_info.append(
        helper.make_tensor_value_info("initial_h", TensorProto.FLOAT, [1, 1, 32])
    )
    model = saved(net, tmp_path)
    plan, made = int8(model, "openvino")
    assert set(plan.activations) == {"x", "y"}
    [lstm] = [node for node in read(made.path).graph if node.op_type == "LSTM"]
    first = lstm.inputs[5]
    assert first is not None
    assert first.const_value is not None
    assert np.array_equal(first.const_value.numpy(), np.zeros((1, 1, 32), np.float32))


def test_the_state_may_pass_one_where_the_first_does(tmp_path: Path) -> None:
    model = saved(recurrent_net(given=("initial_h?",)), tmp_path)
    wide, narrow = Quantizer("uint8", 4.0, 128), Quantizer("int8", 0.5, 0)
    decision = Decision("it", "LSTM", "int8", "")
    read_by: dict[str, tuple[str, ...]] = {"x": (), "y": (), "initial_h": ()}
    plan = Plan("openvino", (decision,), {"x": narrow, "y": narrow, "initial_h": wide}, read_by, {})
    graph = read(Place(plan)(model).path).graph
    found = {
        node.name: node.inputs[1].const_value.numpy().item()  # type: ignore[union-attr]
        for node in graph
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and "_W_" not in (node.name or "")
        and "_R_" not in (node.name or "")
    }  # fmt: skip
    step = pytest.approx(4.0 * 128 / 127)
    assert found == {
        "it_reads_quantize": 0.5, "it_reads_dequantize": step,
        "it_initial_quantize": step, "it_initial_dequantize": step,
    }  # fmt: skip


@pytest.mark.parametrize("name", INSTALLED)
def test_between_int8_operators_it_reads_and_makes_float(name: str, tmp_path: Path) -> None:
    model = prepared(classifier(16, 24, 6), tmp_path)
    found = choices(model, SCHEMES[name])
    assert {"both", "last", "mixed"} <= set(found.operators)
    assert found.sequences == ("both", "both", "last")
    for crossing in found.crossings:
        assert crossing.producer not in ("both", "last")
        assert not {"both", "last"} & set(crossing.readers)
    [active] = [c for c in found.crossings if c.producer == "mixed"]
    assert active.read_in_float


@pytest.mark.parametrize("name", INSTALLED)
def test_a_plan_goes_through_its_file(name: str, tmp_path: Path) -> None:
    model = prepared(classifier(16, 24, 6), tmp_path)
    plan, made = int8(model, name)
    path = tmp_path / "plan.yaml"
    path.write_text(to_yaml(plan, name, {}, "mse"))
    written = from_document(read_yaml(path).data)
    assert written.operators["both"] == written.operators["last"] == "int8"
    again = decide(fit(written, model), SCHEMES[name], {}, "mse", written.scales)
    assert Place(again)(model).digest == Place(plan)(model).digest
    narrow = to_yaml(plan, name, {}, "mse").replace("narrow: []", 'narrow: ["last"]')
    path.write_text(narrow)
    assert fit(from_document(read_yaml(path).data), model).decisions == plan.decisions
    assert open_model(made.path).bytes < model.bytes


@pytest.mark.parametrize("scheme", ["onnxruntime", "openvino"])
def test_weights_of_7_bits_where_sums_overflow(scheme: str, tmp_path: Path) -> None:
    model = prepared(recurrent_net(**BOTH_WAYS), tmp_path)
    plan, _ = int8(model, scheme)
    risk = at_risk(plan, model, {})
    assert 0 < risk["it"] < 1
    for narrow, largest in (((), 127), (("it",), 63)):
        placed = Place(Plan(plan.scheme, plan.decisions, plan.activations, plan.readers, {},
                            narrow=narrow))(model)  # fmt: skip
        codes = [
            value.const_value.numpy()
            for value in read(placed.path).graph.initializers.values()
            if value.const_value is not None and value.const_value.numpy().dtype == np.int8
        ]
        assert max(np.abs(array).max() for array in codes) == largest


@pytest.mark.skipif("onnxruntime" not in INSTALLED, reason="onnxruntime is missing")
def test_dynamic_takes_lstms_and_leaves_those_in_bodies(tmp_path: Path) -> None:
    net = classifier(16, 24, 6)
    model = saved(net, tmp_path)
    made = Dynamic()(model)
    kinds = [node.op_type for node in read(made.path).graph]
    assert kinds.count("DynamicQuantizeLSTM") == 2
    assert "LSTM" not in kinds
    rows = feeds(model.signature, 2)
    for wanted, found in zip(answers(model.path, rows), answers(made.path, rows), strict=True):
        assert cosine(wanted["logits"], found["logits"]) > 0.999
    (tmp_path / "body").mkdir()
    body = saved(in_a_body(recurrent_net()), tmp_path / "body")
    kinds = [node.op_type for node in read(Dynamic()(body).path).graph.all_nodes()]
    assert kinds.count("LSTM") == 2
    assert [d.operator for d in layout(read(body.path), SCHEMES["onnxruntime"]).decisions] == ["If"]


def in_a_body(net: onnx.ModelProto) -> onnx.ModelProto:
    """The network in both branches of an `If`."""
    branches = {}
    for branch in ("then_branch", "else_branch"):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in net.graph.node]
        for node in nodes:
            node.output[0] = f"{branch}_y"
        given = net.graph.output[0].type.tensor_type.shape.dim
        output = helper.make_tensor_value_info(
            f"{branch}_y", TensorProto.FLOAT, [d.dim_value for d in given]
        )
        branches[branch] = helper.make_graph(nodes, branch, [], [output])
    asked = helper.make_tensor_value_info("asked", TensorProto.BOOL, [])
    graph = helper.make_graph(
        [helper.make_node("If", ["asked"], ["y"], "choice", **branches)],
        "body",
        [*net.graph.input, asked],
        net.graph.output,
        net.graph.initializer,
    )
    return helper.make_model(graph, opset_imports=net.opset_import, ir_version=8)
