"""What operators cost: kernels of real engines told apart, and the table's arithmetic by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from edgedl.backends import backend
from edgedl.core.errors import Unsupported
from edgedl.passes.calibrate import calibrate
from edgedl.passes.clean import Clean
from edgedl.passes.crossings import Choices, Crossing, choices
from edgedl.passes.fold import Fold
from edgedl.passes.graph import rewrite
from edgedl.passes.place import Place
from edgedl.passes.plan import Cost, Decision, Plan
from edgedl.passes.shapes import Shapes
from edgedl.runtime import engine, installed_engines
from edgedl.runtime.session import Operator
from edgedl.search.candidates import Candidate, int8_candidate, tensors_to_watch
from edgedl.search.costs import CostTable, Spent, account, sequences_by_kernel, spend
from edgedl.search.prepared import Prepared
from edgedl.search.why import computed_in_float
from tests.models import NETS, Sketch, feeds, residual_net, samples, saved
from tests.sequences import classifier

INSTALLED = installed_engines()
# Computed within another's kernel without a word of it: a sum that onnxruntime adds to a product
# in its blocked layout, and the scores of an attention that OpenVINO computes as one.
SILENT = {("onnxruntime", "residual"): {"sum"}, ("openvino", "attention"): {"scores"}}


def both(net: onnx.ModelProto, engine: str, folder: Path) -> tuple[Choices, Spent, Spent, Plan]:
    """Where a call of the float model and of the full plan goes."""
    built = backend(engine)
    model = saved(net, folder)
    clean = rewrite(model, Clean(), Shapes({}), Fold(), Shapes())
    watched = tensors_to_watch(clean, [built.scheme])
    histograms = calibrate(clean, watched, samples(model.signature, 4))
    found = choices(clean, built.scheme)
    feed = feeds(model.signature, 1)[0]
    as_float = Candidate(engine, "float32", "float32", clean, built.settings("float32"))
    int8 = int8_candidate(built, Prepared(clean, histograms), "minmax", label="int8")
    assert int8.plan is not None
    spent = [spend(candidate, found, feed, 1, 5) for candidate in (as_float, int8)]
    return found, spent[0], spent[1], int8.plan


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("engine", INSTALLED)
def test_every_operator_has_a_kernel_in_float_and_in_int8(
    engine: str, net: str, tmp_path: Path
) -> None:
    found, as_float, int8, plan = both(NETS[net](), engine, tmp_path)
    for spent in (as_float, int8):
        seen = {*spent.operators, *spent.fused}
        assert set(found.operators) - seen <= SILENT.get((engine, net), set())
        assert seen <= set(found.operators)
        assert not set(spent.operators) & set(spent.fused)
        assert not spent.lost
        parts = [*spent.operators.values(), *spent.quantize.values(), *spent.dequantize.values()]
        assert spent.total_us == pytest.approx(sum(parts) + spent.rest_us)
    assert not as_float.quantize
    assert not as_float.dequantize
    assert {*int8.quantize, *int8.dequantize} <= set(plan.activations)


@pytest.mark.skipif("onnxruntime" not in INSTALLED, reason="onnxruntime is missing")
def test_conversions_that_stay_apart_are_told_by_their_tensor(tmp_path: Path) -> None:
    _, _, int8, _ = both(NETS["old"](), "onnxruntime", tmp_path)
    assert set(int8.quantize) == {"x", "mean"}
    assert set(int8.dequantize) == {"relu1"}


def pointwise_net() -> onnx.ModelProto:
    """A conv and a product over its columns: two operators that want different layouts."""
    net = Sketch()
    net.conv("x", "conv1", 3, 8)
    net.node("MatMul", ["conv1", net.weight("w1", 16, 16)], "product1")
    net.conv("product1", "conv2", 8, 8)
    net.node("MatMul", ["conv2", net.weight("w2", 16, 5)], "logits", name="product2")
    return net.model([1, 3, 16, 16], [1, 8, 16, 5])


@pytest.mark.parametrize("engine", INSTALLED)
def test_a_change_of_layout_between_two_operators_makes_them_not_one(
    engine: str, tmp_path: Path
) -> None:
    found, as_float, int8, _ = both(pointwise_net(), engine, tmp_path)
    assert list(found.operators) == ["conv1", "product1", "conv2", "product2"]
    for spent in (as_float, int8):
        assert set(spent.operators) == set(found.operators)
        assert spent.fused == {}


@pytest.mark.parametrize("engine", INSTALLED)
def test_names_like_those_that_ship_are_not_mixed_up(engine: str, tmp_path: Path) -> None:
    """Models out of bundles have nodes n0, n1 ... and tensors t0, t1 ..., which placing moves."""
    net = residual_net()
    names: dict[str, str] = {}
    for number, node in enumerate(reversed(net.graph.node)):
        node.name = f"n{number}"
        if node.output[0] != "logits":
            names[node.output[0]] = f"t{number}"
    for node in net.graph.node:
        for listed in (node.input, node.output):
            listed[:] = [names.get(name, name) for name in listed]
    found, as_float, int8, _ = both(net, engine, tmp_path)
    for spent in (as_float, int8):
        assert spent.fused == {}
        assert len(set(found.operators) - set(spent.operators)) <= 1


@pytest.mark.parametrize("engine", INSTALLED)
def test_the_time_of_a_sequence_is_that_of_all_its_directions(engine: str, tmp_path: Path) -> None:
    """OpenVINO calls its kernels LSTMSequence_123; the quantizer in front belongs to them."""
    _, as_float, int8, plan = both(classifier(64, 24, 30), engine, tmp_path)
    assert {"both", "last"} <= set(plan.int8)
    for spent in (as_float, int8):
        assert spent.operators["both"] > spent.operators["last"] / 2 > 0
        assert spent.operators["both"] + spent.operators["last"] > spent.total_us / 2
    assert "wide" not in {*int8.quantize, *int8.dequantize}


def test_kernels_with_numbers_for_names_are_told_in_order() -> None:
    names = ["LSTMSequence_9", "other", "GRUSequence_11", "LSTMSequence_10", "LSTMSequence_9_y"]
    one, two, three = ({name} for name in ("one", "two", "three"))
    found = sequences_by_kernel(names, ["one", "two", "three"])
    assert found == {"LSTMSequence_9": one, "LSTMSequence_10": two, "GRUSequence_11": three}
    assert sequences_by_kernel(names, ["one", "two"]) == {}


def test_an_engine_that_tells_nothing_of_the_operators_is_refused(tmp_path: Path) -> None:
    engine = INSTALLED[0]
    model = saved(residual_net(), tmp_path)
    nobody = Choices({"elsewhere": "Conv"}, {"elsewhere": "s"}, {"elsewhere": "elsewhere"}, ())
    candidate = Candidate(engine, "float32", "float32", model, {})
    with pytest.raises(Unsupported, match=f"{engine} does not tell"):
        spend(candidate, nobody, feeds(model.signature, 1)[0], 1, 5)


def relu_net() -> onnx.ModelProto:
    """A product with an activation behind it, and one that stays float when told so."""
    net = Sketch()
    net.node("MatMul", ["x", net.weight("w", 16, 32)], "a")
    net.node("Relu", ["a"], "r")
    net.node("MatMul", ["r", net.weight("v", 32, 8)], "logits", name="b")
    return net.model([4, 16], [4, 8])


@pytest.mark.skipif("onnxruntime" not in INSTALLED, reason="it is onnxruntime's optimizer")
def test_a_product_whose_activation_is_read_in_float_keeps_its_int8_kernel(tmp_path: Path) -> None:
    model = saved(relu_net(), tmp_path)
    built = backend("onnxruntime")
    histograms = calibrate(
        model, tensors_to_watch(model, [built.scheme]), samples(model.signature, 4)
    )
    int8 = int8_candidate(
        built, Prepared(model, histograms), "minmax", keep_float={"b": "asked"}, label="int8"
    )
    found = choices(model, built.scheme)
    assert int8.plan is not None
    assert int8.plan.int8 == ("a",)
    feed = feeds(model.signature, 1)[0]
    assert not spend(int8, found, feed, 1, 2).lost
    # Without codes behind the activation onnxruntime expands the weights in every call.
    bare = {name: one for name, one in int8.plan.activations.items() if name != "r"}
    readers = {name: nodes for name, nodes in int8.plan.readers.items() if name != "r"}
    by_hand = replace(int8.plan, activations=bare, readers=readers)
    lost = replace(int8, plan=by_hand, model=rewrite(model, Place(by_hand)))
    spent = spend(lost, found, feed, 1, 2)
    assert spent.lost == {"a"}
    settled = engine("onnxruntime").operators(
        lost.model.path, feed, settings=lost.settings, threads=1, runs=2
    )
    [said] = computed_in_float(replace(lost, prepared=Prepared(model, {})), settled, {})
    assert "MatMul `a`" in said


def test_what_expands_weights_counts_to_their_operator_which_is_lost() -> None:
    chain = replace(
        CHAIN, owners={"a": "a", "b": "b", "c": "c"}, weights={"w a": "a", "w": "c", "w b": "b"}
    )
    kernels = [
        Operator("FusedConv", "float32", "a", 50.0),
        Operator("DequantizeLinear", "conversion", "w a_axis0_dequantize", 30.0),
        Operator("Add", "float32", "b", 5.0),
        Operator("QLinearConv", "int8", "c", 20.0),
        Operator("Add", "float32", "c_bias", 1.0),
    ]
    candidate = Candidate("e", "int8", "int8", None, {}, plan("a", "c"))  # type: ignore[arg-type]
    found = account(kernels, {}, replace(chain, owners={**chain.owners, "c_bias": "c"}), candidate)
    assert found.operators == {"a": 80.0, "b": 5.0, "c": 21.0}
    assert found.lost == {"a"}
    assert found.rest_us == 0


CHAIN = Choices(
    operators={"a": "Conv", "b": "Add", "c": "Conv"},
    signatures={"a": "conv", "b": "add", "c": "conv"},
    owners={},
    crossings=(
        Crossing("x", None, ("a",), False, 1000),
        Crossing("y", "a", ("b",), False, 500),
        Crossing("z", "b", ("c",), False, 500),
        Crossing("out", "c", (), True, 200),
    ),
)


def plan(*int8: str) -> Plan:
    decisions = [
        Decision(n, k, "int8" if n in int8 else "float", "") for n, k in CHAIN.operators.items()
    ]
    return Plan("onnxruntime", tuple(decisions), {}, {}, {})


def spent(
    operators: Mapping[str, float],
    rest_us: float = 0.0,
    *,
    fused: Mapping[str, str] | None = None,
    quantize: Mapping[str, float] | None = None,
    dequantize: Mapping[str, float] | None = None,
) -> Spent:
    return Spent(operators, fused or {}, quantize or {}, dequantize or {}, rest_us)


FLOAT = spent({"a": 100, "b": 10, "c": 120}, 7)
INT8 = spent({"a": 40, "b": 4, "c": 60}, 10, quantize={"x": 3}, dequantize={"out": 2})


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CostTable:
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "store"))
    return CostTable.of(engine="e")


def filled(table: CostTable) -> CostTable:
    table.add(FLOAT, CHAIN, None, None)
    table.add(INT8, CHAIN, plan("a", "b", "c"), FLOAT.rest_us)
    return table


def test_a_row_for_every_time_that_an_operator_was_seen(table: CostTable) -> None:
    assert not table.knows(CHAIN, "float")
    filled(table)
    assert table.knows(CHAIN, "float")
    assert table.knows(CHAIN, "int8")
    # Two operators of one signature: the median of what both took.
    assert table.us("conv", "float") == 110
    assert table.us("conv", "int8") == 50
    assert table.us("add", "int8") == 4
    assert table.us("gemm", "int8") is None
    assert table.conversions == {"quantize": [(1000, 3)], "dequantize": [(200, 2)]}
    # 1000 elements into the first operator and 200 out of the last took 10 - 7 more than in float.
    assert table.spread == [(1200, 0, 3)]


def test_the_model_of_a_plan_in_between_gives_rows_of_both_kinds(table: CostTable) -> None:
    table.add(spent({"a": 40, "b": 11, "c": 60}, 12), CHAIN, plan("a", "c"), 7)
    assert table.us("conv", "int8") == 50
    assert table.us("add", "float") == 11
    assert table.us("add", "int8") is None
    # y goes back to float and z to int8 between operators that could have agreed.
    assert table.spread == [(1200, 1000, 5)]


def test_what_is_barred_stays_float_however_cheap(table: CostTable) -> None:
    filled(table)
    assert table.best(CHAIN, ()) == {"a", "b", "c"}
    assert "c" not in table.best(CHAIN, (), {"c"})


def test_rows_are_found_again_by_the_same_parts_only(table: CostTable) -> None:
    filled(table)
    again = CostTable.of(engine="e")
    assert again.times == table.times
    assert again.conversions == table.conversions
    assert again.spread == table.spread
    assert CostTable.of(engine="f").times == {}


def test_rows_that_are_none_are_passed_over(table: CostTable) -> None:
    filled(table)
    strange = [
        {}, {"us": 1}, {"what": "conv", "us": "fast", "state": "int8"},
        {"what": "conv", "us": 1, "state": "int4"}, {"what": "quantize", "us": 1},
        {"what": "spread", "us": 1, "edge": None}, {"what": "conv", "us": None, "state": "int8"},
    ]  # fmt: skip
    table.ledger.add(strange)
    again = CostTable.of(engine="e")
    assert {key: us for key, us in again.times.items() if us} == table.times
    assert again.spread == table.spread


def test_old_rows_give_way_to_new_ones(table: CostTable) -> None:
    for us in [1000.0] * 15 + [10.0] * 8:
        table.add(spent({"a": us, "b": 1, "c": us}), CHAIN, None, None)
    # Of the latest 15 rows of `conv`, two a profile, all but none are new.
    assert table.us("conv", "float") == 10


def test_a_conversion_takes_by_its_elements(table: CostTable) -> None:
    table.conversions["quantize"] = [(1000, 2.0), (3000, 6.0)]
    assert table.crossing_us("quantize", 500, inside=False) == pytest.approx(1 + 500 * 0.002)
    assert table.crossing_us("dequantize", 500, inside=False) == 1
    assert table.crossing_us("quantize", 0, inside=True) == 0
    table.spread.append((1000, 0, 1.0))
    assert table.crossing_us("quantize", 500, inside=False) == pytest.approx(1 + 500 * 0.003)
    assert table.crossing_us("quantize", 500, inside=True) == pytest.approx(1 + 500 * 0.003)
    # What 1000 elements between operators took, beyond the share of those at the edge.
    table.spread.append((500, 1000, 4.5))
    assert table.crossing_us("quantize", 500, inside=False) == pytest.approx(1 + 500 * 0.003)
    assert table.crossing_us("quantize", 500, inside=True) == pytest.approx(1 + 500 * 0.006)


def test_where_int8_saves_elsewhere_a_conversion_takes_nothing_at_least(table: CostTable) -> None:
    table.spread.append((1000, 0, -3.0))
    assert table.crossing_us("quantize", 100, inside=False) == pytest.approx(0.7)
    assert table.crossing_us("quantize", 1000, inside=False) == 0
    assert table.crossing_us("quantize", 1000, inside=True) == pytest.approx(1)


def test_the_least_sum_is_chosen(table: CostTable) -> None:
    filled(table)
    assert table.best(CHAIN, ()) == {"a", "b", "c"}
    # An addition that is slow in int8 stays there while leaving costs more: 2 * (1 + 500 * 0.0055)
    # and 500 * 0.01 for the way back.
    for _ in range(20):
        table._take({"what": "add", "us": 15, "state": "int8", "with": ""})
    assert table.best(CHAIN, ()) == {"a", "b", "c"}
    for _ in range(20):
        table._take({"what": "add", "us": 40, "state": "int8", "with": ""})
    assert table.best(CHAIN, ()) == {"a", "c"}


def test_an_output_that_comes_in_float_for_nothing_costs_nothing(table: CostTable) -> None:
    one = Choices(
        {"a": "Conv"}, {"a": "conv"}, {}, (Crossing("out", "a", (), True, 1000),)
    )  # fmt: skip
    for row in (
        {"what": "conv", "us": 10, "state": "float"},
        {"what": "conv", "us": 8, "state": "int8"},
        {"what": "dequantize", "us": 5, "elements": 1000},
    ):
        table._take(row)
    assert table.best(one, ()) == frozenset()
    assert table.best(one, {"Conv"}) == {"a"}


def test_operators_that_one_kernel_computed_keep_one_precision(table: CostTable) -> None:
    for row in (
        {"what": "conv", "us": 100, "state": "float", "with": ""},
        {"what": "conv", "us": 40, "state": "int8", "with": ""},
        {"what": "add", "us": 0, "state": "float", "with": ""},
        {"what": "add", "us": 30, "state": "int8", "with": ""},
    ):
        table._take(row)
    assert table.best(CHAIN, ()) == {"a", "c"}
    table.add(spent({"a": 100, "c": 100}, fused={"b": "a"}), CHAIN, None, None)
    assert table.best(CHAIN, ()) == {"a", "b", "c"}
    # Known from the store, too, to whoever opens it next.
    assert CostTable.of(engine="e").together == {frozenset({"conv", "add"})}


def test_the_table_of_one_model(table: CostTable) -> None:
    filled(table)
    assert table.rows(CHAIN, {"a", "b"}) == (
        Cost("a", "Conv", 110, 50, "int8"),
        Cost("b", "Add", 10, 4, "int8"),
        Cost("c", "Conv", 110, 50, "float"),
    )
