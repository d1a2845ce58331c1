"""Optimizers: which weights decay, and that steps are torch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgedl.core.errors import BadValue
from edgedl.train.optimizers import optimizer_of
from edgedl.train.settings import Adam, AdamW, Optimizer, Sgd
from tests.train.small import convolutional


@pytest.mark.parametrize(
    ("settings", "decays"),
    [
        (AdamW(weight_decay=0.1), {2: 0.1, 1: 0.0}),
        (AdamW(weight_decay=0.1, decay_norms=True), {2: 0.1, 1: 0.1}),
        (Sgd(weight_decay=0.1), {2: 0.1, 1: 0.1}),
        (Sgd(weight_decay=0.1, decay_norms=False), {2: 0.1, 1: 0.0}),
        (Adam(weight_decay=0.1, decay_norms=False), {2: 0.1, 1: 0.0}),
    ],
)
def test_norms_and_biases_decay_where_asked(settings: Optimizer, decays: dict[int, float]) -> None:
    network = convolutional()
    groups = optimizer_of(settings, network).param_groups
    for group in groups:
        for weight in group["params"]:
            assert group["weight_decay"] == decays[min(weight.ndim, 2)]
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def test_decay_shrinks_what_has_no_gradient() -> None:
    """One step of AdamW at rate 0.1 with decay 0.5 takes a twentieth; nothing of a bias."""
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 1.0)
    nn.init.constant_(layer.bias, 1.0)
    optimizer = optimizer_of(AdamW(lr=0.1, weight_decay=0.5), layer)
    for weight in layer.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert float(layer.weight.detach()) == pytest.approx(0.95)
    assert float(layer.bias.detach()) == 1.0


def test_momentum_by_hand() -> None:
    """Gradients of 1: the first step is 0.1, the second 0.1 * (0.9 + 1)."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = optimizer_of(Sgd(lr=0.1), layer)
    for _ in range(2):
        layer.weight.grad = torch.ones_like(layer.weight)
        optimizer.step()
    assert float(layer.weight.detach()) == pytest.approx(-0.29)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(BadValue, match="`nesterov` needs momentum"):
        Sgd(momentum=0, nesterov=True)
    with pytest.raises(BadValue, match="`weight_decay` is -1"):
        AdamW(weight_decay=-1)
