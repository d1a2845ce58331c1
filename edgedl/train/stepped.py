"""Samples of a streaming network as it ships: the next steps, and the state that came before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from edgedl.core.samples import Samples, from_arrays
from edgedl.runtime.stream import AFTER
from edgedl.train.shapes import TensorShape


def stepped(
    module: nn.Module, inputs: Mapping[str, TensorShape], samples: Samples, most: int
) -> Samples:
    """What a network is fed while it goes through whole series a few steps at a time.

    States begin as zeros, and are what the network itself gave before.

    Args:
        module: takes `inputs` by position and gives a dict, with `new_NAME` for each state NAME.
        most: samples that are given; series follow one another until they suffice.
    """
    states = [name for name in inputs if name not in samples.feed(0)]
    found: dict[str, list[np.ndarray]] = {name: [] for name in inputs}
    count = 0
    with torch.no_grad():
        for feed in samples:
            now = {name: torch.zeros(1, *inputs[name].shape) for name in states}
            [series] = (name for name in inputs if name not in states)
            chunk = inputs[series].shape[-1]
            for first in range(0, feed[series].shape[-1] - chunk + 1, chunk):
                part = np.ascontiguousarray(feed[series][..., first : first + chunk])
                fed = {**now, series: torch.from_numpy(part)}
                for name in inputs:
                    found[name].append(fed[name].numpy().copy())
                given = module(*(fed[name] for name in inputs))
                now = {name: given[AFTER + name] for name in states}
                count += 1
            if count >= most:
                break
    arrays = {name: np.concatenate(parts)[:most] for name, parts in found.items()}
    return from_arrays(arrays, where="steps of the samples")
