"""Reasons in words, their sums worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedl.core.model import Model, Signature
from edgedl.core.program import Constants
from edgedl.core.stats import Agreement
from edgedl.passes.plan import Cost, State
from edgedl.runtime.session import Operator
from edgedl.search.candidates import Candidate, Trial
from edgedl.search.prepared import Prepared
from edgedl.search.why import reasons, trained

MODEL = Model(Path("net.onnx"), "0" * 64, Signature((), ()), (), ())


def winner(*costs: Cost) -> Candidate:
    return Candidate("openvino", "int8", "int8, mse", MODEL, {}, costs=costs)


def cost(operator: str, float_us: float | None, int8_us: float | None, chosen: State) -> Cost:
    return Cost(f"{operator}_{float_us}", operator, float_us, int8_us, chosen)


def ran(*operators: tuple[str, str, float | None]) -> list[Operator]:
    return [Operator(kind, precision, "", us) for kind, precision, us in operators]


def test_what_int8_takes_and_what_stays_float_costs() -> None:
    table = [
        cost("Conv", 1000, 300, "int8"),
        cost("Conv", 500, 200, "int8"),
        cost("Add", 10, 40, "float"),
        cost("Add", 20, 45, "float"),
        cost("Mul", 5, 6, "float"),
        cost("Sigmoid", None, 7, "float"),
        cost("Conv", 3, None, "int8"),
    ]
    assert reasons(winner(*table), [], {}) == (
        "2 operators compute in int8: 0.5 ms where float takes 1.5 ms",
        "3 that could be int8 stay float (2 Add, 1 Mul): in int8 they take 56 us more",
    )


def test_what_would_be_faster_alone_but_not_among_its_neighbours() -> None:
    assert reasons(winner(cost("Add", 50, 20, "float")), [], {}) == (
        "1 that could be int8 stay float (1 Add): int8 saves 30 us and the conversions around them"
        " cost more",
    )
    assert "they take 0 us more" in reasons(winner(cost("Add", 5, 5, "float")), [], {})[0]


def test_many_kinds_are_summed_up() -> None:
    kinds = ["A", "B", "C", "D", "E", "F", "A", "B", "C", "A"]
    found = reasons(winner(*(cost(kind, 1, 2, "float") for kind in kinds)), [], {})
    assert "(3 A, 2 B, 2 C, 1 D, 2 others)" in found[0]


def test_where_the_time_goes() -> None:
    operators = ran(
        ("Convolution", "int8", 30), ("Convolution", "int8", 20), ("Convolution", "float32", 10),
        ("MVN", "float32", 30), ("Reorder", "conversion", 4), ("FakeQuantize", "conversion", 4),
        ("Add", "float32", 2), ("Concat", "int8", None),
    )  # fmt: skip
    shares, after = reasons(winner(), operators, {})
    assert shares == (
        "the time goes to Convolution in int8 50 %, MVN in float32 30 %, Convolution in float32"
        " 10 %, 2 conversions 8 % (by openvino's profile)"
    )
    assert after == (
        "next: 50 % are int8 products; only a smaller network or a faster processor helps"
    )


@pytest.mark.parametrize(
    ("operators", "says"),
    [
        (ran(("Gemm", "float32", 6), ("Add", "float32", 4)), "next: 60 % are float products"),
        (ran(("RNNSeq", "float32", 6), ("Add", "float32", 4)), "next: 60 % are float products"),
        (ran(("LSTM", "float32", 6), ("Add", "float32", 4)), "next: 60 % are float products"),
        (
            ran(("Gemm", "int8", 3), ("Reorder", "conversion", 3), ("Convert", "conversion", 3)),
            "next: 67 % are conversions; an engine that fuses more",
        ),
        (
            ran(("Gemm", "int8", 4), ("Softmax", "float32", 3), ("Add", "float32", 3)),
            "next: 60 % are operators between the products, Softmax alone 30 %",
        ),
        (
            ran(("Gemm", "int8", 2), ("QLinearAdd", "int8", 5), ("QLinearAdd", "int8", 2),
                ("Softmax", "float32", 1)),
            "next: 80 % are operators between the products, QLinearAdd alone 70 %",
        ),
        (ran(("QLinearAdd", "int8", 5)), "QLinearAdd alone 100 %"),
    ],
)  # fmt: skip
def test_what_would_help_next(operators: list[Operator], says: str) -> None:
    assert says in reasons(winner(), operators, {})[-1]


def test_nothing_is_said_of_what_was_not_timed() -> None:
    assert reasons(winner(), ran(("Conv", "int8", None)), {}) == ()
    assert reasons(winner(), [], {}) == ()


def test_the_best_of_each_other_engine() -> None:
    latency_ms = {
        "openvino int8, mse": 2.0, "openvino float32, as given": 1.0,
        "onnxruntime float32, as given": 5.0, "onnxruntime int8, mse, placed": 3.0,
    }  # fmt: skip
    assert reasons(winner(), [], latency_ms) == (
        "on onnxruntime the fastest takes 3 ms, 1.50 times as long (int8, mse, placed)",
    )
    assert reasons(winner(), [], {"onnxruntime int8": 3.0}) == ()


def tried(label: str, sqnr_db: float, *, moved: bool) -> Trial:
    prepared = Prepared(MODEL, {}, tuned=Constants({}) if moved else None)
    candidate = Candidate("openvino", "int8", label, MODEL, {}, prepared=prepared)
    return Trial(candidate, Agreement(0.98, 0.99, sqnr_db, 128), 0.02)


def test_what_training_won_is_said_apart_from_what_operators_in_float_won() -> None:
    before, after = (
        tried("int8, mse", 19.3, moved=False),
        tried("int8, mse, tuned", 21.0, moved=True),
    )
    relieved = tried("int8, mse, tuned, but 2 operators", 23.0, moved=True)
    every = [before, after, relieved]
    words = "weights, biases and scales were trained towards float's answers"
    assert (
        trained(after, every)
        == trained(relieved, every)
        == (f"{words}: 19.3 dB before, 21.0 dB after",)
    )
    assert trained(after, [after]) == (words,)
    assert trained(before, every) == ()
