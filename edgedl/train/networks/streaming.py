"""A streaming GRU: trained over whole series, run a step or a few at a time with its state."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgedl.core.errors import BadValue
from edgedl.train.networks.inputs import positive, series, share, values
from edgedl.train.networks.recurrent import begin_recurrent
from edgedl.train.shapes import TensorShape

STATE, OUTPUT, NEW_STATE = "state", "output", "new_state"


def streaming_gru(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    hidden: int = 64,
    layers: int = 1,
    chunk: int = 1,
    each: bool = False,
    dropout: float = 0.0,
) -> nn.Module:
    """GRU layers (Cho et al., 2014) that read forwards only, so that they can answer as they go.

    Trained, it takes series float32 [batch, channels, time] and gives logits after the last step
    [batch, outputs], or after each, [batch, time, outputs]. Deployed, it takes the next `chunk`
    steps [batch, channels, chunk] and `state` [batch, layers, hidden], zeros at first, and gives
    `output`, and `new_state` to go on from.

    Args:
        inputs: one series.
        outputs: classes or values.
        hidden: values of each layer's state.
        layers: one above the other.
        chunk: steps that it is given at a time when deployed.
        each: whether it answers at each step.
        dropout: share of values left out between layers and before the last one while training.

    Raises:
        BadValue: the input is no series, or is called `state`, or a setting is out of range.
    """
    channels, steps = series(inputs)
    [(name, shape)] = inputs.items()
    if name in (STATE, OUTPUT, NEW_STATE):
        message = f"an input named `{name}` would be taken for the network's own"
        raise BadValue(message, hint="call the input otherwise: `input`")
    positive(hidden=hidden, layers=layers, chunk=chunk)
    share(dropout=dropout)
    if chunk > steps:
        message = f"`chunk` is {chunk}, and the series it learns of have {steps} steps"
        raise BadValue(message, keys=("chunk",), hint=f"chunk: {steps} at most")
    fed = TensorShape((*shape.shape[:-1], chunk), shape.dtype)
    network = StreamingGRU(name, fed, channels, values(outputs), hidden, layers, each, dropout)
    begin_recurrent(network)
    return network


class StreamingGRU(nn.Module):
    """Recurrent layers and a dense one, from a state of zeros."""

    def __init__(
        self,
        name: str,
        fed: TensorShape,
        channels: int,
        outputs: int,
        hidden: int,
        layers: int,
        each: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.name, self.fed, self.hidden, self.each = name, fed, hidden, each
        self.layers = nn.ModuleList(
            nn.GRU(hidden if layer else channels, hidden) for layer in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Answers of whole series."""
        state = x.new_zeros(x.shape[0], len(self.layers), self.hidden)
        return self.advance(x, state)[0]

    def advance(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Answers of the next steps [batch, channels, steps], and the state behind them [batch,
        layers, hidden]."""
        if x.dim() == 4:
            x = x.squeeze(1)
        x = x.permute(2, 0, 1)
        states = []
        for index, layer in enumerate(self.layers):
            x, last = layer(x, state[:, index].unsqueeze(0))
            states.append(last.squeeze(0))
            x = self.dropout(x)
        return self.head(x.transpose(0, 1) if self.each else x[-1]), torch.stack(states, 1)

    def deployed(self) -> tuple[nn.Module, Mapping[str, TensorShape]]:
        """The network a chunk at a time, and its two inputs."""
        state = TensorShape((len(self.layers), self.hidden))
        return Step(self), {self.name: self.fed, STATE: state}


class Step(nn.Module):
    """A streaming network a chunk at a time: what comes in goes out again as named outputs."""

    def __init__(self, network: StreamingGRU) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, state: Tensor) -> dict[str, Tensor]:
        """`output` of these steps, and `new_state`."""
        output, new_state = self.network.advance(x, state)
        return {OUTPUT: output, NEW_STATE: new_state}
