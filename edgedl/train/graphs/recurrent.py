"""Recurrent operations as layers of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgedl.train.graphs.node import Made, Node, fill
from edgedl.train.operators_base import refusal

RECURRENT: Mapping[str, tuple[type[nn.RNNBase], tuple[int, ...]]] = {
    # Where torch's gates lie among ONNX's.
    "LSTM": (nn.LSTM, (0, 2, 3, 1)),
    "GRU": (nn.GRU, (1, 0, 2)),
}
USUAL = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh")}


def recurrent(node: Node) -> Made:
    """An LSTM or GRU as that of torch.

    Raises:
        Unsupported: torch has none of this kind; the node's name and the reason are said.
    """
    kind = node.operation.kind
    weights = [node.weight(i) for i in range(1, 4)]
    of_input, of_state, bias = weights
    _check_recurrent(node, of_input, of_state)
    assert of_input is not None
    assert of_state is not None
    gates = RECURRENT[kind][1]
    maker: Any = RECURRENT[kind][0]
    count, hidden, width = of_state.shape[0], of_state.shape[2], of_input.shape[2]
    layer: Any = maker(width, hidden, bias=bias is not None, bidirectional=count == 2)
    for i, suffix in enumerate(("", "_reverse")[:count]):
        parts = {"weight_ih": of_input[i], "weight_hh": of_state[i]}
        if bias is not None:
            parts |= dict(zip(("bias_ih", "bias_hh"), np.split(bias[i], 2), strict=True))
        for name, array in parts.items():
            ordered = np.concatenate([np.split(array, len(gates))[gate] for gate in gates])
            fill(getattr(layer, f"{name}_l0{suffix}"), ordered)
    states = tuple(node.name(i) for i in ((5, 6) if kind == "LSTM" else (5,)))
    backwards = node.get("direction", "forward") == "reverse"
    return Made(layer, (node.name(0), *states), _Call(count, backwards))


def _check_recurrent(node: Node, *weights: np.ndarray | None) -> None:
    """Refuse what torch's layers do not have.

    Raises:
        Unsupported: something of the node is so.
    """
    kind, operation = node.operation.kind, node.operation
    if any(one is None for one in weights) or not node.constant_or_absent(3):
        raise refusal(operation, "weights that are computed")
    odd = {
        "sequence_lens": bool(node.name(4)),
        "peepholes": kind == "LSTM" and bool(node.name(7)),
        **{name: bool(node.get(name)) for name in ("clip", "input_forget", "layout")},
    }
    used = tuple(name.lower() for name in node.get("activations") or USUAL[kind])
    odd["activations"] = used != USUAL[kind] * (len(used) // len(USUAL[kind]))
    for name, given in odd.items():
        if given:
            raise refusal(operation, f"its {name}, which torch's {kind} does not have")
    if kind == "GRU" and not node.get("linear_before_reset", 0):
        raise refusal(
            operation,
            "linear_before_reset is 0, and torch's GRU resets behind the product",
            hint="in Keras, `GRU(reset_after=True)`",
        )


@dataclass(frozen=True)
class _Call:
    """A recurrent layer called as ONNX has it: Y [steps, directions, batch, hidden], and states
    [directions, batch, hidden].

    Attributes:
        flat: whether Y is [steps, batch, directions * hidden], as torch has it.
    """

    directions: int
    backwards: bool
    flat: bool = False

    def __call__(self, layer: nn.Module, x: Tensor, *states: Tensor | None) -> tuple[Tensor, ...]:
        x = x.flip(0) if self.backwards else x
        known = [one for one in states if one is not None]
        if known and len(known) < len(states):
            zero = torch.zeros_like(known[0])
            known = [zero if one is None else one for one in states]
        before: Any = None
        if known:
            batch = x.shape[1]
            wide = [s.expand(-1, batch, -1) if s.shape[1] == 1 else s for s in known]
            before = (
                tuple(one.contiguous() for one in wide) if len(wide) == 2 else wide[0].contiguous()
            )
        y, after = layer(x, before)
        y = y.flip(0) if self.backwards else y
        if not self.flat:
            steps, batch, _ = y.shape
            one = self.directions == 1
            y = y.unsqueeze(1) if one else y.reshape(steps, batch, 2, -1).transpose(1, 2)
        return (y, *(after if isinstance(after, tuple) else (after,)))


def flat_output(made: Made) -> Made:
    """A recurrent layer that gives its outputs as torch has them."""
    assert isinstance(made.call, _Call)
    call = _Call(made.call.directions, made.call.backwards, flat=True)
    return Made(made.layer, made.tensors, call, made.shared)
