"""Weights that are computed of others become plain ones."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from edgedl.train.shrink.weights import plain_weights


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and networks have it
        return nn.utils.weight_norm(layer)


@pytest.mark.parametrize(
    "norm",
    [old_weight_norm, nn.utils.spectral_norm, parametrizations.weight_norm,
     parametrizations.spectral_norm],
)  # fmt: skip
def test_norms_of_weights_become_weights(norm: object) -> None:
    assert callable(norm)
    network = nn.Sequential(norm(nn.Linear(4, 6)), nn.BatchNorm1d(6), nn.Linear(6, 2))
    network[1].eval()
    network(torch.rand(3, 4)).sum().backward()
    x = torch.rand(3, 4)
    found = plain_weights(network)
    assert [type(one) for one in found] == [nn.Linear, nn.BatchNorm1d, nn.Linear]
    assert list(found.state_dict()) == list(nn.Sequential(*map(copy.deepcopy, found)).state_dict())
    assert {"0.weight", "0.bias"} <= {name for name, _ in found.named_parameters()}
    assert [one.training for one in found] == [True, False, True]
    assert torch.allclose(found.eval()(x), network.eval()(x), atol=1e-6)


def test_plain_networks_are_not_copied() -> None:
    network = nn.Linear(2, 2)
    assert plain_weights(network) is network
