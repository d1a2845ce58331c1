"""Where the time goes, added up by hand, and onnxruntime's events read by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgedl.benchmark.profile import Profile, ProfileRow, profile, slowest
from edgedl.core.errors import BadOption
from edgedl.report.profiled import text
from edgedl.runtime import installed_engines
from edgedl.runtime.session import Operator

OPERATORS = [
    Operator("Conv", "int8", "a", 40.0),
    Operator("Mean", "float32", "b", 10.0),
    Operator("Conv", "int8", "c", 20.0),
    Operator("Conv", "float32", "d", 15.0),
    Operator("Mean", "float32", "e", 5.0, fallback=True),
    Operator("Quantize", "conversion", "f", 10.0),
]


def test_rows_by_hand() -> None:
    assert profile(OPERATORS, 100) == [
        ProfileRow("Conv", "int8", 2, 60, 0.6, False),
        ProfileRow("Conv", "float32", 1, 15, 0.15, False),
        ProfileRow("Mean", "float32", 1, 10, 0.1, False),
        ProfileRow("Quantize", "conversion", 1, 10, 0.1, False),
        ProfileRow("Mean", "float32", 1, 5, 0.05, True),
    ]


def test_what_is_missing_has_a_row_of_its_own() -> None:
    assert [row.kind for row in profile(OPERATORS, 105)][-1] == "Mean"
    last = profile(OPERATORS, 125)[-1]
    assert last == ProfileRow("not accounted for", "", 0, 25, 0.2, False)
    assert sum(row.share for row in profile(OPERATORS, 125)) == pytest.approx(1)


def test_a_profiler_that_slows_the_call_has_shares_of_its_own_sum() -> None:
    rows = profile(OPERATORS, 50)
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert rows[0].share == pytest.approx(0.6)
    assert Profile("m.edl", "some engine", 50, tuple(rows)).accounted == 2


def test_rows_as_json() -> None:
    assert profile(OPERATORS, 100)[-1].to_json() == {
        "kind": "Mean", "precision": "float32", "count": 1, "us": 5.0, "share": 0.05,
        "fallback": True,
    }  # fmt: skip


def test_what_was_not_timed_is_an_error() -> None:
    with pytest.raises(BadOption, match="`g` was not timed"):
        profile([*OPERATORS, Operator("Conv", "int8", "g")], 100)
    with pytest.raises(BadOption, match="no call"):
        profile(OPERATORS, 0)


def test_a_call_without_operators_is_not_accounted_for() -> None:
    assert profile([], 10) == [ProfileRow("not accounted for", "", 0, 10, 1, False)]


def test_the_slowest_by_their_original_names() -> None:
    operators = [
        Operator("Conv", "int8", "n12_token_3", 1.0),
        Operator("Conv", "int8", "n1/WithoutBiases", 3.0),
        Operator("Conv", "int8", "own", 2.0),
        Operator("Conv", "int8", "last", 0.5),
    ]
    names = {"n1": "features.1/conv", "n12": "features.12", "w": "weight"}
    found = slowest(operators, 3, names)
    assert [o.name for o in found] == [
        "features.1/conv/WithoutBiases",
        "own",
        "features.12_token_3",
    ]
    assert [o.us for o in found] == [3.0, 2.0, 1.0]
    assert [o.name for o in slowest(operators, 1)] == ["n1/WithoutBiases"]


def test_engines_side_by_side() -> None:
    one = Profile("a.onnx", "onnxruntime", 125, tuple(profile(OPERATORS, 125)))
    other = Profile("b.edl", "openvino", 1500, (ProfileRow("Conv", "int8", 3, 1500, 1, False),))
    assert text({"profiles": [one.to_json(), other.to_json()]}) == "\n".join(
        [
            "onnxruntime: a.onnx, 0.125 ms a call, 80 % of it in the engine's profile",
            "openvino: b.edl, 1.5 ms a call, 100 % of it in the engine's profile",
            "",
            "operator           precision          onnxruntime    us   share  openvino      us"
            "    share",
            "Conv               int8                         2  60.0  48.0 %         3  1500.0"
            "  100.0 %",
            "Conv               float32                      1  15.0  12.0 %",
            "Mean               float32                      1  10.0   8.0 %",
            "Quantize           conversion                   1  10.0   8.0 %",
            "Mean               float32, fallback            1   5.0   4.0 %",
            "not accounted for                                  25.0  20.0 %",
        ]
    )


def test_one_engine_twice_is_numbered() -> None:
    row = Profile("a.onnx", "openvino", 1, (ProfileRow("Conv", "int8", 1, 1, 1, False),)).to_json()
    lines = text({"profiles": [row, row]}).splitlines()
    assert lines[0].startswith("openvino 1: a.onnx")
    assert lines[1].startswith("openvino 2: a.onnx")


def kernel(
    name: str, kind: str, ts: int, dur: int, given: str = "float", made: str = "float"
) -> dict[str, Any]:
    """One event of onnxruntime's profile, its arrays all of shape (1, 4)."""
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "ts": ts,
        "dur": dur,
        "args": {
            "op_name": kind,
            "node_index": "0",
            "input_type_shape": [{given: [1, 4]}, {"uint8": []}] if given == "uint8" else [
                {given: [1, 4]}
            ],
            "output_type_shape": [{made: [1, 4]}],
        },
    }  # fmt: skip


RUN = {"cat": "Session", "name": "model_run", "ts": 0, "dur": 0}

needs_onnxruntime = pytest.mark.skipif(
    "onnxruntime" not in installed_engines(), reason="reads what onnxruntime wrote"
)


@needs_onnxruntime
def test_a_profile_is_read_from_a_run_on(tmp_path: Path) -> None:
    from edgedl.runtime.ort.profile import kernels_of, read_events

    other = {"cat": "Session", "name": "other"}
    runs = [[kernel("a", "Conv", 0, us), other, RUN] for us in (9, 5)]
    lines = ",\n".join(json.dumps(event) for run in runs for event in run)
    path = tmp_path / "profile.json"
    path.write_text(f"[\n{lines}\n]\n")
    every = [[own for _, own in run] for run in kernels_of(read_events(path, 0))]
    assert every == [[9], [5]]
    assert [[own for _, own in run] for run in kernels_of(read_events(path, 1))] == [[5]]


@needs_onnxruntime
def test_a_bodys_kernels_are_not_counted_twice() -> None:
    from edgedl.runtime.ort.profile import kernels_of, operators_of

    # An If from 12 to 52 whose body spends 20 to 27 and 30 to 45, nested once more at 31 to 41;
    # a Loop that runs its body's kernel three times, 60 to 90.
    run = [
        kernel("first", "Conv", 0, 10),
        kernel("in1", "Add", 20, 7),
        kernel("in2", "Mul", 31, 10),
        kernel("inner", "If", 30, 15),
        kernel("choice", "If", 12, 40),
        *[kernel("body", "Add", ts, 4) for ts in (62, 70, 80)],
        kernel("loop", "Loop", 60, 30),
        kernel("last", "Relu", 95, 1),
        RUN,
    ]
    found = operators_of(list(kernels_of([*run, *run])))
    assert {o.name: o.us for o in found} == {
        "first": 10.0,
        "in1": 7.0,
        "in2": 10.0,
        "inner": 15.0 - 10,
        "choice": 40.0 - 25,
        "body": 12.0,
        "loop": 30.0 - 22,
        "last": 1.0,
    }


@needs_onnxruntime
def test_times_are_medians_over_the_runs_and_none_for_one() -> None:
    from edgedl.runtime.ort.profile import kernels_of, operators_of

    runs = [[kernel("a", "Conv", 0, dur), RUN] for dur in (5, 90, 7)]
    found = operators_of(list(kernels_of([event for run in runs for event in run])))
    assert [o.us for o in found] == [7.0]
    assert [o.us for o in operators_of(list(kernels_of(runs[0])))] == [None]


@needs_onnxruntime
@pytest.mark.parametrize(
    ("kinds", "marked"),
    [
        (["DequantizeLinear", "Mean", "QuantizeLinear"], ["Mean"]),
        (["DequantizeLinear", "Mean", "Relu", "QuantizeLinear"], []),
        (["QLinearConv", "Mean", "QuantizeLinear"], []),
        (["DequantizeLinear", "Mean"], []),
        (["DequantizeLinear", "QuantizeLinear", "QuantizeLinear"], []),
    ],
)
def test_float_between_two_conversions_is_a_fallback(kinds: list[str], marked: list[str]) -> None:
    from edgedl.runtime.ort.profile import kernels_of, operators_of

    types = {"DequantizeLinear": ("uint8", "float"), "QuantizeLinear": ("float", "uint8")}
    events = [
        kernel(f"n{i}", kind, 10 * i, 5, *types.get(kind, ("float", "float")))
        for i, kind in enumerate(kinds)
    ]
    found = operators_of(list(kernels_of([*events, RUN])))
    assert [o.kind for o in found] == kinds
    assert [o.kind for o in found if o.fallback] == marked


@needs_onnxruntime
def test_nodes_of_one_name_are_told_apart() -> None:
    from edgedl.runtime.ort.profile import kernels_of, operators_of

    twins = [kernel("Transpose", "Transpose", 0, 3), kernel("Transpose", "Transpose", 5, 4)]
    twins[1]["args"]["node_index"] = "1"
    assert len(operators_of(list(kernels_of([*twins, RUN])))) == 2


@pytest.mark.skipif("openvino" not in installed_engines(), reason="openvino's means")
def test_the_warm_ups_calls_are_taken_out_of_the_mean() -> None:
    from edgedl.runtime.openvino.profile import mean_since

    # 10 calls of 50 us, then 40 of 10 us: 900 us in 50 calls.
    assert mean_since(50, 10, 18, 40) == 10
    assert mean_since(1, 10, 0, 40) == 0
