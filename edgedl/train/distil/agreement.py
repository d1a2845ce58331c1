"""How often a network's answers are its teacher's: a figure for samples without labels."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from torch import nn

from edgedl.core.errors import Unsupported
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.train.batches import open_data
from edgedl.train.distil.guide import Guide
from edgedl.train.distil.pairs import unpacked
from edgedl.train.epoch import prepared
from edgedl.train.processes import joined
from edgedl.train.settings import Fit
from edgedl.train.validate import Answers, Figure, rehearse


def agreement(
    guide: Guide,
    network: nn.Module,
    validation: Samples,
    settings: Fit,
    *,
    device: str = "auto",
    progress: Progress = silent,
) -> Figure:
    """The share of samples, and of their places, for which the network and its teacher find the
    same class the likeliest, by the first output: what `fit` takes as its `score`.

    The teacher answers now, once; the answers are kept, and `fit` finds them again.

    Raises:
        BadValue: the teacher does not fit the network or its samples.
        Unsupported: the output is not of several classes.
    """
    processes = joined(device)
    data = open_data(
        validation, processes.device, target="input", memory=settings.memory,
        threads=settings.threads, progress=progress,
    )  # fmt: skip
    prepare = partial(prepared, channels_last=settings.channels_last)
    network.to(processes.device)
    outputs = rehearse(network, data, None, prepare)
    lesson = guide.begin(network, outputs, data, data, settings, True, 0, processes, prepare,
                         progress)  # fmt: skip
    first = lesson.pairs[0]
    if len(first.shape) < first.axis or first.shape[first.axis - 1] < 2:
        raise Unsupported(
            f"`{first.student}` does not answer with several classes",
            hint="without `metric`, the loss is what is best",
        )
    targets = lesson.judging(data).targets
    assert targets is not None
    wanted = unpacked(lesson.pairs, targets)[0].argmax(dim=first.axis).numpy()

    def agreement(answers: Answers, _labels: np.ndarray | None) -> Any:
        return float((answers[first.student].argmax(axis=first.axis) == wanted).mean())

    return agreement
