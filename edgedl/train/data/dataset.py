"""What a recipe trains on, and what a loader finds before it is split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgedl.core.model import Signature, Tensor
from edgedl.core.samples import Samples, Source
from edgedl.runtime.process import Processing
from edgedl.train.shapes import TensorShape

Task = Literal[
    "classification", "regression", "reconstruction", "unlabelled", "detection", "segmentation"
]
# The class of a place that counts nowhere.
IGNORED = -100


@dataclass(frozen=True)
class Standard:
    """Values to regress as (value - mean) / deviation, as networks learn them."""

    mean: float
    deviation: float

    def undone(self, labels: np.ndarray) -> np.ndarray:
        """Labels in the data's own units, float32."""
        return (labels * self.deviation + self.mean).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Dataset:
    """What a recipe trains on: three disjoint groups of samples and what turns raw input into them.

    Attributes:
        inputs: by the input's name, shape of one sample without a batch axis, and type.
        outputs: classes, or values to regress; 0 where the input itself is the target; None where
            nothing says it but the network.
        processing: what the bundle carries, so that the device does what training did.
        standard: what was done to labels that are values; None where nothing was.
        doubts: sentences for the user: leaks, dropped rows, imbalance.
        normal_only: whether labels are 0 for what is normal, all that training sees, and 1 for
            what is not.
    """

    train: Samples
    validation: Samples
    test: Samples
    inputs: Mapping[str, TensorShape]
    outputs: int | None
    task: Task
    processing: Processing | None
    doubts: tuple[str, ...] = ()
    standard: Standard | None = None
    normal_only: bool = False

    @property
    def places(self) -> tuple[int, ...]:
        """Of what there is an answer in each sample: the height and width of masks; of nothing but
        the sample itself else."""
        labels = self.train.labels
        return labels.shape[1:] if self.task == "segmentation" and labels is not None else ()


@dataclass(frozen=True, eq=False)
class Prepared:
    """A source of raw rows, what turns one into inputs, the inputs' shapes, and sentences for the
    user."""

    source: Source
    inputs: Mapping[str, TensorShape]
    processing: Processing | None
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Found:
    """What a loader found, before it is split.

    Attributes:
        prepare: what makes of it inputs, given the rows to train on, int64: means, deviations and
            vocabularies come from these alone.
        labels: one entry a row: classes int64, values float32, or masks int16 of the input's height
            and width, `IGNORED` where nothing counts; None where the task needs none.
        groups: int64, one a row: rows of one group never stand on two sides of a split.
        test: one truth value a row, where there is an official test split.
        spans: int64 [rows, 3], for windows over streams that are split in time: stream, first
            frame, and the frame behind the last.
        normal_only: whether rows of labels other than 0 are for the test alone.
        standardize: whether values to regress may be normalised; boxes may not.
        doubts: sentences for the user.
    """

    count: int
    prepare: Callable[[np.ndarray], Prepared]
    labels: np.ndarray | None
    task: Task
    outputs: int | None
    where: str
    classes: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    test: np.ndarray | None = None
    spans: np.ndarray | None = None
    normal_only: bool = False
    standardize: bool = True
    doubts: tuple[str, ...] = ()


def signature_of(inputs: Mapping[str, TensorShape]) -> Signature:
    """What a network of these inputs would take, with a batch axis of any size."""
    tensors = (Tensor(name, one.dtype, (None, *one.shape)) for name, one in inputs.items())
    return Signature(tuple(tensors), ())
