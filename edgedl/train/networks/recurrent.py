"""Recurrent classifiers: LSTM and GRU over series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from edgedl.train.networks.inputs import positive, series, share, values
from edgedl.train.shapes import TensorShape

Pool = Literal["last", "mean", "each"]


def lstm(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    pool: Pool = "last",
    dropout: float = 0.0,
) -> nn.Module:
    """LSTM (Hochreiter and Schmidhuber, 1997; Gers et al., Learning to Forget, 2000), whose forget
    gates begin open (Jozefowicz et al., 2015).

    Series float32 [batch, channels, time] to logits [batch, outputs], or [batch, time, outputs]
    where `pool` is each, as CTC wants it.

    Args:
        inputs: one series.
        outputs: classes or values.
        hidden: values of the state, in each direction.
        layers: one above the other.
        bidirectional: whether each layer reads the series backwards, too (Schuster and Paliwal,
            1997).
        pool: what is answered from: where reading ends, the mean of all steps, or each by itself.
        dropout: share of values left out between layers and before the last one while training.

    Raises:
        BadValue: the input is no series, or a setting is out of range.
    """
    return _network(inputs, outputs, nn.LSTM, hidden, layers, bidirectional, pool, dropout)


def gru(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    hidden: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    pool: Pool = "last",
    dropout: float = 0.0,
) -> nn.Module:
    """GRU (Cho et al., Learning Phrase Representations, 2014).

    Args and errors are those of `lstm`.
    """
    return _network(inputs, outputs, nn.GRU, hidden, layers, bidirectional, pool, dropout)


class Recurrent(nn.Module):
    """Recurrent layers and a dense one. Each layer is a module of its own, and so one operator of
    the exported model."""

    def __init__(
        self,
        kind: type[nn.LSTM | nn.GRU],
        channels: int,
        outputs: int,
        hidden: int,
        layers: int,
        bidirectional: bool,
        pool: Pool,
        dropout: float,
    ) -> None:
        super().__init__()
        ways = 2 if bidirectional else 1
        self.hidden, self.bidirectional, self.pool = hidden, bidirectional, pool
        self.layers = nn.ModuleList(
            kind(hidden * ways if layer else channels, hidden, bidirectional=bidirectional)
            for layer in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden * ways, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Answers of the series."""
        if x.dim() == 4:
            x = x.squeeze(1)
        x = x.permute(2, 0, 1)
        for layer in self.layers:
            x = self.dropout(layer(x)[0])
        answers: Tensor = self.head(self._read(x))
        return answers

    def _read(self, x: Tensor) -> Tensor:
        """What the last layer takes, of [time, batch, hidden]."""
        if self.pool == "each":
            return x.transpose(0, 1)
        if self.pool == "mean":
            return x.mean(0)
        if not self.bidirectional:
            return x[-1]
        return torch.cat([x[-1, :, : self.hidden], x[0, :, self.hidden :]], 1)


@torch.no_grad()
def begin_recurrent(network: nn.Module) -> None:
    """Draws recurrent weights orthogonal, gate by gate (Saxe et al., 2014), those from the input as
    Glorot and Bengio (2010); biases are zero, an LSTM's forget gates' one."""
    for module in network.modules():
        if not isinstance(module, (nn.LSTM, nn.GRU)):
            continue
        size = module.hidden_size
        for name, weight in module.named_parameters():
            if name.startswith("weight"):
                draw = nn.init.orthogonal_ if "_hh_" in name else nn.init.xavier_uniform_
                for gate in torch.split(weight, size):
                    draw(gate)
                continue
            weight.zero_()
            # One of its two biases is enough; the order is input, forget, cell, output.
            if isinstance(module, nn.LSTM) and "_ih_" in name:
                weight[size : 2 * size] = 1


def _network(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    kind: type[nn.LSTM | nn.GRU],
    hidden: int,
    layers: int,
    bidirectional: bool,
    pool: Pool,
    dropout: float,
) -> nn.Module:
    channels, _ = series(inputs)
    positive(hidden=hidden, layers=layers)
    share(dropout=dropout)
    network = Recurrent(
        kind, channels, values(outputs), hidden, layers, bidirectional, pool, dropout
    )
    begin_recurrent(network)
    return network
