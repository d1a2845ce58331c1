"""LSTM, GRU and RNN in torch answer as onnxruntime does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.train.test_operators import Case, floats, ints, refused, same_as_onnxruntime
from tests.train.test_operators_windows import passes_gradients

STEPS, BATCH, INPUT, HIDDEN = 5, 2, 3, 4
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def recurrent(
    kind: str, direction: str, *, bias: bool = True, states: bool = True, **attributes: Any
) -> Case:
    count, rows = DIRECTIONS[direction], GATES[kind] * HIDDEN
    state = floats(count, BATCH, HIDDEN)
    more = [state, state * 0.5] if kind == "LSTM" else [state]
    inputs = [
        floats(STEPS, BATCH, INPUT),
        floats(count, rows, INPUT),
        floats(count, rows, HIDDEN),
        floats(count, 2 * rows) if bias else None,
        *([None, *more] if states else []),
    ]
    attributes |= {"direction": direction, "hidden_size": HIDDEN}
    return Case(kind, inputs, attributes, 14, 3 if kind == "LSTM" else 2)


CASES = [
    *(recurrent(kind, direction) for kind in GATES for direction in DIRECTIONS),
    *(recurrent(kind, "forward", bias=False, states=False) for kind in GATES),
    *(recurrent("GRU", direction, linear_before_reset=1) for direction in DIRECTIONS),
    recurrent("RNN", "bidirectional", activations=["Relu", "Relu"]),
    recurrent("LSTM", "forward", activations=["Sigmoid", "Tanh", "Tanh"]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_recurrent(case: Case, tmp_path: Path) -> None:
    same_as_onnxruntime(case, tmp_path)


def test_what_is_not_exact_is_refused() -> None:
    given = recurrent("LSTM", "forward").inputs
    assert "sequence_lens" in refused("LSTM", *given[:4], ints(5, 3), hidden_size=4)
    assert "peepholes" in refused("LSTM", *given, floats(1, 12), hidden_size=4)
    assert "clip" in refused("LSTM", *given, clip=3.0)
    assert "layout" in refused("LSTM", *given, layout=1)
    assert "relu" in refused("LSTM", *given, activations=("Relu", "Tanh", "Tanh"))
    rnn = recurrent("RNN", "bidirectional").inputs
    assert "tanh, relu" in refused("RNN", *rnn, activations=("Tanh", "Relu"))
    assert "affine" in refused("RNN", *rnn, activations=("Affine", "Affine"))


def test_gradients_flow() -> None:
    for kind, gates in GATES.items():
        shapes = [(3, 1, 2), (1, 2 * gates, 2), (1, 2 * gates, 2), (1, 4 * gates)]
        passes_gradients(kind, shapes, direction="reverse")
