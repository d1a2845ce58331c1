"""What `fit` is handed so that a teacher teaches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgedl.core.errors import BadValue
from edgedl.core.progress import Progress
from edgedl.train.batches import Data
from edgedl.train.distil.layers import Learner
from edgedl.train.distil.lesson import Lesson, Prepare
from edgedl.train.distil.pairs import Pair, pairs_of
from edgedl.train.distil.settings import Distillation
from edgedl.train.distil.teacher import Teacher
from edgedl.train.processes import Processes
from edgedl.train.settings import Fit

# What a network of torch answers in while it teaches, by the precision of training.
HALF = {"bf16": torch.bfloat16, "float16": torch.float16}
# Samples that tell what the teacher's answers are.
FEW = 64


@dataclass(frozen=True, eq=False)
class Guide:
    """A teacher, and how it teaches.

    Attributes:
        folder: where its answers are kept; runs may share it, and processes that train together
            must see it.
    """

    settings: Distillation
    teacher: Teacher
    folder: Path

    def begin(
        self,
        network: nn.Module,
        outputs: Any,
        seen: Data,
        unseen: Data,
        settings: Fit,
        alone: bool,
        seed: int,
        processes: Processes,
        prepare: Prepare,
        progress: Progress,
    ) -> Lesson:
        """The teacher, tried with a few samples, and all that is compared.

        Args:
            outputs: the network's, of the first samples of `unseen`.
            settings: with the loss that is taken.
            alone: whether there are no labels to learn.
            prepare: puts a batch into memory as the network wants it.

        Raises:
            BadValue: the teacher does not fit the network or its samples.
        """
        told = self.settings
        if told.layers and settings.compile:
            raise BadValue(
                "layers cannot be looked into once they are compiled",
                keys=("compile",),
                hint="compile: false, or leave out what looks into layers",
            )
        if told.layers and settings.divide == "weights":
            raise BadValue(
                "layers cannot be looked into while weights are divided",
                keys=("divide",),
                hint="divide: samples, or leave out what looks into layers",
            )
        few = prepare(unseen.batch(np.arange(min(FEW, len(unseen))))).inputs
        theirs = tuple(dict.fromkeys(match.theirs for match in told.layers))
        # kept answers serve runs of any precision
        half = HALF.get(settings.precision) if not told.views else None
        ask = self.teacher.ready(seen.names, few, theirs, half)
        answers, given = ask(few)
        pairs: tuple[Pair, ...] = ()
        if told.weight or alone or (told.relations and told.relations.student is None):
            wanted = None if alone or seen.targets is None else seen.targets[0]
            pairs = pairs_of(told, outputs, answers, None if alone else settings.loss, wanted)
        learner = Learner(network, told, few, given, seed) if told.layers else None
        return Lesson(
            told, self.teacher.key, self.folder, ask, pairs, learner, alone, settings, seed,
            processes, prepare, progress,
        )  # fmt: skip
