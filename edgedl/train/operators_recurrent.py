"""Recurrent operators: LSTM, GRU and RNN, with their default activations.

Semantics are those of the ONNX operators specification, https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from edgedl.core.program import Operation
from edgedl.train.operators_base import Function, choice, of_node, refusal

# Of one direction: the steps [time, batch, input], the states [1, batch, hidden] before, and the
# weights of input and state and their biases; gives the states of every step, and those after.
Cell = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], tuple[Tensor, ...]]

DIRECTIONS: Mapping[str, tuple[bool, ...]] = {
    "forward": (False,),
    "reverse": (True,),
    "bidirectional": (False, True),
}
# Where torch's gates lie among ONNX's.
LSTM_GATES, GRU_GATES, GRU_GATES_AS_THEY_ARE, RNN_GATES = (0, 2, 3, 1), (1, 0, 2), (0, 1, 2), (0,)


def _lstm_cell(
    x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    return torch.lstm(x, list(states), list(weights), True, 1, 0.0, True, False, False)


def _gru_cell(x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.gru(x, states[0], list(weights), True, 1, 0.0, True, False, False)


def _gru_cell_reset_first(
    x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The cell that resets the state before its product, which torch does not have."""
    (state,), of_input, of_state, bias, bias_of_state = states[0], *weights
    hidden = state.shape[-1]
    outputs = []
    for step in functional.linear(x, of_input, bias):
        gates = functional.linear(state, of_state[: 2 * hidden], bias_of_state[: 2 * hidden])
        update, reset = torch.sigmoid(step[:, : 2 * hidden] + gates).chunk(2, -1)
        again = functional.linear(
            reset * state, of_state[2 * hidden :], bias_of_state[2 * hidden :]
        )
        new = torch.tanh(step[:, 2 * hidden :] + again)
        state = new + update * (state - new)
        outputs.append(state)
    return torch.stack(outputs), state.unsqueeze(0)


def _rnn_cell(function: Callable[..., tuple[Tensor, ...]]) -> Cell:
    return lambda x, states, weights: function(
        x, states[0], list(weights), True, 1, 0.0, True, False, False
    )


RNN_CELLS: Mapping[str, Cell] = {
    "tanh": _rnn_cell(torch.rnn_tanh),
    "relu": _rnn_cell(torch.rnn_relu),
}


def _activations(operation: Operation, default: Sequence[str]) -> tuple[str, ...]:
    """The activations of one direction, in small letters.

    Raises:
        Unsupported: the directions differ.
    """
    given = tuple(name.lower() for name in operation.attributes.get("activations") or default)
    first = given[: len(default)]
    if given != first * (len(given) // len(default)):
        raise refusal(operation, f"activations {', '.join(given)}")
    return first


def _check(operation: Operation, lengths: Tensor | None, peepholes: Tensor | None = None) -> None:
    odd = {
        "sequence_lens": lengths is not None,
        "peepholes": peepholes is not None,
        **{name: operation.attributes.get(name) for name in ("clip", "input_forget", "layout")},
    }
    for name, given in odd.items():
        if given:
            raise refusal(operation, f"its {name}")


def _run(
    operation: Operation,
    cell: Cell,
    gates: Sequence[int],
    x: Tensor,
    weights: tuple[Tensor, Tensor, Tensor | None],
    states: Sequence[Tensor | None],
) -> tuple[Tensor, ...]:
    of_input, of_state, bias = weights
    count, hidden = of_state.shape[0], of_state.shape[2]
    if bias is None:
        bias = x.new_zeros(count, 2 * len(gates) * hidden)
    before = [x.new_zeros(count, x.shape[1], hidden) if s is None else s for s in states]
    outputs, after = [], []
    backwards = choice(
        operation, "direction", DIRECTIONS, operation.attributes.get("direction", "forward")
    )
    for i, backward in enumerate(backwards):
        ordered = [_ordered(w, gates) for w in (of_input[i], of_state[i], *bias[i].chunk(2))]
        output, *last = cell(x.flip(0) if backward else x, [s[i : i + 1] for s in before], ordered)
        outputs.append(output.flip(0) if backward else output)
        after.append(last)
    return torch.stack(outputs, 1), *(torch.cat(parts) for parts in zip(*after, strict=True))


def _ordered(weight: Tensor, gates: Sequence[int]) -> Tensor:
    parts = weight.chunk(len(gates))
    return torch.cat([parts[gate] for gate in gates])


def _lstm(
    operation: Operation,
    x: Tensor,
    of_input: Tensor,
    of_state: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    state: Tensor | None = None,
    memory: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> tuple[Tensor, ...]:
    _check(operation, lengths, peepholes)
    if (used := _activations(operation, usual := ("sigmoid", "tanh", "tanh"))) != usual:
        raise refusal(operation, f"activations {', '.join(used)}")
    weights = (of_input, of_state, bias)
    return _run(operation, _lstm_cell, LSTM_GATES, x, weights, (state, memory))


def _gru(
    operation: Operation,
    x: Tensor,
    of_input: Tensor,
    of_state: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, ...]:
    _check(operation, lengths)
    if (used := _activations(operation, usual := ("sigmoid", "tanh"))) != usual:
        raise refusal(operation, f"activations {', '.join(used)}")
    weights = (of_input, of_state, bias)
    if operation.attributes.get("linear_before_reset", 0):
        return _run(operation, _gru_cell, GRU_GATES, x, weights, (state,))
    return _run(operation, _gru_cell_reset_first, GRU_GATES_AS_THEY_ARE, x, weights, (state,))


def _rnn(
    operation: Operation,
    x: Tensor,
    of_input: Tensor,
    of_state: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, ...]:
    _check(operation, lengths)
    cell = choice(operation, "activation", RNN_CELLS, _activations(operation, ("tanh",))[0])
    return _run(operation, cell, RNN_GATES, x, (of_input, of_state, bias), (state,))


RECURRENT: Mapping[str, Function] = {
    "GRU": of_node(_gru),
    "LSTM": of_node(_lstm),
    "RNN": of_node(_rnn),
}
