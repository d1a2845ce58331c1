"""Optimizers by their settings."""

from __future__ import annotations

import torch
from torch import nn

from edgedl.core.errors import Unsupported
from edgedl.train.settings import Adam, Optimizer, Sgd
from edgedl.train.sharded import is_divided


def optimizer_of(settings: Optimizer, network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a network's weights, which lie on their device already.

    With `decay_norms` off, weight decay is on weights of two axes or more alone: the others are
    biases and the factors of norms.

    Raises:
        Unsupported: the network has nothing to learn.
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    if not weights:
        raise Unsupported(
            "the network has no weights that learn",
            hint="give it a layer with weights, and leave their `requires_grad` on",
        )
    decayed = [w for w in weights if settings.decay_norms or w.ndim > 1]
    spared = [w for w in weights if not (settings.decay_norms or w.ndim > 1)]
    groups = [
        {"params": group, "weight_decay": decay}
        for group, decay in ((decayed, settings.weight_decay), (spared, 0.0))
        if group
    ]
    # torch's fused steps know no divided weights, and it would take those one by one
    apart = any(map(is_divided, weights))
    on = all(w.is_floating_point() and w.device.type in ("cpu", "cuda") for w in weights)
    way = {"foreach": True} if apart else {"fused": on}
    if isinstance(settings, Sgd):
        return torch.optim.SGD(
            groups,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            **way,
        )
    kind = torch.optim.Adam if isinstance(settings, Adam) else torch.optim.AdamW
    return kind(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, **way)
