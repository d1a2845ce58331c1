"""A teacher held against a network and its samples, before anything is trained."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

from torch import nn

from edgedl.core.progress import silent
from edgedl.core.samples import Samples
from edgedl.train.batches import open_data
from edgedl.train.distil.guide import FEW, Guide
from edgedl.train.epoch import prepared
from edgedl.train.losses import chosen
from edgedl.train.processes import joined
from edgedl.train.settings import Fit
from edgedl.train.validate import rehearse


def check(guide: Guide, network: nn.Module, samples: Samples, settings: Fit) -> None:
    """Try a guide on a few samples and a copy of the network.

    Raises:
        BadValue: the teacher does not take the samples, or its answers do not fit the network's.
    """
    processes, network = joined("auto"), copy.deepcopy(network)
    few = samples.take(range(min(FEW, len(samples))))
    data = open_data(few, processes.device, target=settings.target)
    labels = samples.chosen_labels if data.targets is not None else None
    alone = all(one is None for one in (settings.loss, settings.target, data.targets))
    settings = replace(settings, loss=chosen(settings.loss, network, labels))
    prepare = partial(prepared, channels_last=settings.channels_last)
    network.to(processes.device)
    outputs = rehearse(network, data, None, prepare)
    guide.begin(network, outputs, data, data, settings, alone, 0, processes, prepare, silent)
