"""Operators in torch answer as onnxruntime does; here are the harness, and what is elementwise.

The other files of this name hold the cases of windows, shapes, indices and so on.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")

from edgedl.core.errors import Unsupported  # noqa: E402
from edgedl.core.program import Operation, Program  # noqa: E402
from edgedl.passes.graph import open_model  # noqa: E402
from edgedl.passes.program import program_of  # noqa: E402
from edgedl.train import operators  # noqa: E402
from edgedl.train.operators import carry_out, function_of  # noqa: E402
from edgedl.train.operators_base import tensor_of  # noqa: E402

Array = np.ndarray
MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Case:
    """One operator with attributes and inputs, None where one is left out."""

    kind: str
    inputs: Sequence[Array | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 17
    outputs: int = 1
    domain: str = ""

    def __str__(self) -> str:
        shapes = ",".join("-" if a is None else "x".join(map(str, a.shape)) for a in self.inputs)
        told = ",".join(f"{k}={v}" for k, v in self.attributes.items() if not hasattr(v, "name"))
        return f"{self.kind}-{self.opset}({shapes};{told})"

    @property
    def feeds(self) -> dict[str, Array]:
        given = {f"x{i}": a for i, a in enumerate(self.inputs) if a is not None}
        return given or {"unused": np.zeros(1, np.float32)}

    def model(self) -> onnx.ModelProto:
        names = [f"y{i}" for i in range(self.outputs)]
        node = helper.make_node(
            self.kind,
            ["" if a is None else f"x{i}" for i, a in enumerate(self.inputs)],
            names,
            name="the_node",
            domain=self.domain,
            **self.attributes,
        )
        given = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in self.feeds.items()
        ]
        graph = helper.make_graph(
            [node], "case", given, [onnx.ValueInfoProto(name=n) for n in names]
        )
        sets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=sets, ir_version=10)
        inferred = onnx.shape_inference.infer_shapes(model).graph.output
        kinds = [value.type.tensor_type.elem_type or TensorProto.FLOAT for value in inferred]
        del model.graph.output[:]
        model.graph.output.extend(
            helper.make_tensor_value_info(name, kind, None)
            for name, kind in zip(names, kinds, strict=True)
        )
        return model


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed + sum(shape)).normal(size=shape).astype(np.float32)


def positive(*shape: int) -> Array:
    return np.abs(floats(*shape)) + np.float32(0.1)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def scalar(value: float, kind: Any = np.float32) -> Array:
    return np.array(value, kind)


def whole(*shape: int, low: int = -9, high: int = 10, kind: Any = np.int64) -> Array:
    drawn = np.random.default_rng(sum(shape)).integers(low, high, shape)
    return np.where(drawn == 0, 3, drawn).astype(kind)


def booleans(*shape: int, seed: int = 0) -> Array:
    return floats(*shape, seed=seed) > 0


def program(model: onnx.ModelProto, folder: Path) -> Program:
    onnx.save(model, folder / "case.onnx")
    return program_of(open_model(folder / "case.onnx"))


def carried_out(case: Case, folder: Path) -> dict[str, Any]:
    feeds = {name: torch.tensor(array) for name, array in case.feeds.items()}
    return carry_out(program(case.model(), folder), feeds, {})


def same_as_onnxruntime(case: Case, folder: Path) -> None:
    kept = {name: array.copy() for name, array in case.feeds.items()}
    made = carried_out(case, folder)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "case.onnx", options)
    expected = session.run(None, case.feeds)
    for (name, value), wanted in zip(made.items(), expected, strict=True):
        assert value.numpy().dtype == wanted.dtype, name
        assert value.shape == wanted.shape, name
        np.testing.assert_allclose(value.numpy(), wanted, 1e-4, 1e-5, err_msg=name)
    for name, array in kept.items():
        np.testing.assert_array_equal(case.feeds[name], array)


X, Y, ROW = floats(2, 3, 4), floats(2, 3, 4, seed=1), floats(4)
N, M = whole(3, 4), whole(3, 4, 1)[..., 0]
UNARY = [
    "Abs",
    "Asinh",
    "Atan",
    "Ceil",
    "Cos",
    "Cosh",
    "Erf",
    "Exp",
    "Floor",
    "HardSwish",
    "Identity",
    "IsNaN",
    "Neg",
    "Reciprocal",
    "Relu",
    "Round",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Tan",
    "Tanh",
    "Elu",
    "Celu",
    "Selu",
    "LeakyRelu",
    "HardSigmoid",
    "ThresholdedRelu",
]

ELEMENTWISE = [
    *(Case(kind, [X * 3]) for kind in UNARY),
    *(Case(kind, [positive(2, 3)]) for kind in ("Log", "Sqrt")),
    *(Case(kind, [X / 10]) for kind in ("Acos", "Asin", "Atanh")),
    Case("Acosh", [positive(5) + 1]),
    Case("Round", [np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)]),
    Case("Abs", [N]),
    Case("Neg", [N]),
    Case("Sign", [N]),
    Case("Elu", [X], {"alpha": 0.3}),
    Case("Celu", [X], {"alpha": 0.3}),
    Case("Selu", [X], {"alpha": 1.5, "gamma": 0.7}),
    Case("LeakyRelu", [X], {"alpha": 0.2}),
    Case("HardSigmoid", [X], {"alpha": 0.3, "beta": 0.4}),
    Case("ThresholdedRelu", [X], {"alpha": 0.4}),
    Case("Mish", [X], opset=18),
    Case("Gelu", [X], opset=20),
    Case("Gelu", [X], {"approximate": "tanh"}, 20),
    Case("PRelu", [X, floats(3, 1)]),
    Case("IsInf", [np.array([np.inf, -np.inf, np.nan, 1], np.float32)]),
    Case("IsInf", [np.array([np.inf, -np.inf, 1], np.float32)], {"detect_negative": 0}),
    Case("IsNaN", [np.array([np.inf, np.nan, 1], np.float32)]),
    *(Case(kind, [X, ROW], opset=o) for kind in ("Add", "Sub", "Mul", "Div") for o in (7, 14)),
    *(Case(kind, [N, M]) for kind in ("Add", "Sub", "Mul", "Div", "Min", "Max")),
    Case("Pow", [positive(2, 3), floats(3)]),
    Case("Pow", [X, scalar(2)]),
    Case("Pow", [positive(2, 3), ints(2)]),
    Case("Pow", [N, scalar(2.0)]),
    Case("Pow", [N, ints(3)]),
    Case("Mod", [N, M]),
    Case("Mod", [N, M], {"fmod": 1}),
    Case("Mod", [X, Y], {"fmod": 1}),
    *(Case(kind, [X, Y, ROW]) for kind in ("Min", "Max", "Sum", "Mean")),
    Case("Max", [X]),
    *(Case(kind, [N, N[:1]]) for kind in
      ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")),
    *(Case(kind, [booleans(3, 4), booleans(4)]) for kind in ("And", "Or", "Xor", "Equal")),
    *(Case(kind, [N, M], opset=18) for kind in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    Case("Not", [booleans(3)]),
    Case("Where", [booleans(3, 1), X, ROW]),
    Case("Clip", [X], {"min": -0.5, "max": 0.25}, 7),
    Case("Clip", [X], {}, 7),
    Case("Clip", [X, scalar(-0.5), scalar(0.25)]),
    Case("Clip", [X, None, scalar(0.25)]),
    Case("Clip", [X, scalar(0.5), scalar(-0.5)]),
    Case("Clip", [N, scalar(-2, np.int64), None]),
    *(Case("Cast", [X * 9], {"to": to}) for to in (1, 3, 6, 7, 9, 10, 11)),
    Case("Cast", [booleans(4)], {"to": 1}),
    Case("CastLike", [X, N]),
    Case("Constant", [], {"value": numpy_helper.from_array(N)}),
    Case("Constant", [], {"value_float": 2.5}),
    Case("Constant", [], {"value_ints": [1, 2]}),
    Case("Gelu", [X], domain=MICROSOFT),
    Case("QuickGelu", [X], domain=MICROSOFT),
    Case("FastGelu", [X], domain=MICROSOFT),
    Case("FastGelu", [X, ROW], domain=MICROSOFT),
    Case("BiasGelu", [X, ROW], domain=MICROSOFT),
]  # fmt: skip


@pytest.mark.parametrize("case", ELEMENTWISE, ids=str)
def test_elementwise(case: Case, tmp_path: Path) -> None:
    same_as_onnxruntime(case, tmp_path)


def relus(count: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(count)]
    nodes.append(helper.make_node("Add", [f"v{count}", "v1"], ["sum"]))
    value = helper.make_tensor_value_info
    ends = [value("v0", TensorProto.FLOAT, [4]), value("sum", TensorProto.FLOAT, [4])]
    return helper.make_model(helper.make_graph(nodes, "relus", ends[:1], ends[1:]), ir_version=10)


def test_values_are_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def relu(operation: Operation, inputs: Sequence[Any], opset: int) -> Any:
        alive.append(sum(reference() is not None for reference in made))
        made.append(weakref.ref(output := torch.relu(inputs[0])))
        return output

    monkeypatch.setitem(operators.OPERATORS, "Relu", relu)  # type: ignore[arg-type]
    out = carry_out(program(relus(6), tmp_path), {"v0": torch.ones(4)}, {})
    assert out["sum"].tolist() == [2.0] * 4
    assert alive == [0, 1, 2, 2, 2, 2]  # the first, which is read at the end, and the last


def test_outputs_may_be_inputs_or_constants(tmp_path: Path) -> None:
    net = relus(1)
    net.graph.output.append(net.graph.input[0])
    net.graph.initializer.append(numpy_helper.from_array(ROW, "row"))
    net.graph.node[-1].input[1] = "row"
    made = program(net, tmp_path)
    constants = {name: tensor_of(array) for name, array in made.constants.items()}
    out = carry_out(made, {"v0": torch.ones(4)}, constants)
    np.testing.assert_array_equal(out["sum"], ROW + 1)
    assert out["v0"].tolist() == [1.0] * 4


def test_an_unknown_operator_is_refused_by_name() -> None:
    operation = Operation("SoftmaxCrossEntropy", "loss", ("x",), ("y",), {}, "ai.onnx.training")
    with pytest.raises(
        Unsupported, match=r"`ai\.onnx\.training:SoftmaxCrossEntropy` of node `loss`"
    ):
        function_of(operation)


def test_an_old_opset_is_refused(tmp_path: Path) -> None:
    old = program(relus(1), tmp_path)
    old = Program(old.signature, old.operations, old.constants, 6)
    with pytest.raises(Unsupported, match="opset 6"):
        carry_out(old, {"v0": torch.ones(4)}, {})


def test_shapes_computed_on_the_processor_meet_other_devices() -> None:
    operation = Operation("Mul", "scale", ("a", "b"), ("y",), {})
    made = function_of(operation)(operation, [torch.ones(2, device="meta"), torch.ones(2)], 17)
    assert made.device.type == "meta"  # type: ignore[union-attr]


def refused(kind: str, *inputs: Array | None, **attributes: Any) -> str:
    """What is said of a node that cannot be carried out."""
    operation = Operation(kind, "the_node", ("x",), ("y",), attributes)
    given = [None if array is None else torch.tensor(array) for array in inputs]
    with pytest.raises(Unsupported, match=f"{kind} node `the_node`") as raised:
        function_of(operation)(operation, given, 17)
    return str(raised.value)


def test_what_is_not_exact_is_refused() -> None:
    assert "fmod" in refused("Mod", X, Y)
    assert "type 8" in refused("Cast", X, to=TensorProto.STRING)
