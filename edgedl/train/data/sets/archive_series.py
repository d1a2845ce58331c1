"""Time series of the UCR and UEA archives (Dau et al., 2019; Bagnall et al., 2018); BSD.

Appliances (ACSF1), motions with a watch (BasicMotions), and vowels by nine speakers
(JapaneseVowels), each with its official test split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgedl.core.progress import Progress, silent
from edgedl.runtime.process.series import Series
from edgedl.train.data.dataset import Found, Prepared
from edgedl.train.data.fetch import Package, obtain
from edgedl.train.data.labels import to_classes
from edgedl.train.data.rows import prepared
from edgedl.train.data.sets.ts import read_ts
from edgedl.train.data.sets.variant import variant_of
from edgedl.train.data.settings import Data

ARCHIVE = "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409"
DIGESTS = {
    "BasicMotions": (
        "8dc43cc6306cb679c888c01e26f91772ac4441a916da43bac8b79734a538b9d6",
        "79213102bc6fca1a398ad98ce1185dff0208fa3d1465e687f48288946b0ff8dc",
    ),
    "JapaneseVowels": (
        "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd",
        "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462",
    ),
    "ACSF1": (
        "0646b90dc4843e02baed6b2ba345c5601a4991b6796565489cef1b2d92a7537b",
        "93e8aaeb44a10af181d24a156e60da7021193cd990ca28f263fccf3b905bfebf",
    ),
    "ItalyPowerDemand": (
        "341269cb7e6cef96846b30e774580beec79addb93848ba360145219115a74b7c",
        "26122451f87dd0387ef90b18bc8a86c041371b8a1c068004922b939971247144",
    ),
}


def find(settings: Data, *, cache: Path, progress: Progress = silent) -> Found:
    """The series, filled up to the longest training one, which is where longer ones are cut.

    Raises:
        BadSamples: a file is damaged. EdgeError: the package cannot be fetched.
    """
    name = variant_of(settings, DIGESTS)
    (first, marks), (second, others) = archived(name, settings, cache, progress)
    series, where = [*first, *second], f"archive_series {name}"
    labels, classes = to_classes([*marks, *others], settings.classes, where, "class")

    def prepare(train: np.ndarray) -> Prepared:
        frames = np.concatenate([series[i] for i in train]).astype(np.float64)
        length = settings.length or max(len(series[i]) for i in train)
        mean, std = frames.mean(axis=0), np.maximum(frames.std(axis=0), 1e-12)
        before = Series(
            frames.shape[1], length, None, tuple(map(float, mean)), tuple(map(float, std))
        )
        return prepared(series, "series", before, where)

    return Found(
        count=len(series),
        prepare=prepare,
        labels=labels,
        task="classification",
        outputs=len(classes),
        where=where,
        classes=classes,
        test=np.arange(len(series)) >= len(first),
    )


def archived(
    name: str, settings: Data, cache: Path, progress: Progress
) -> list[tuple[list[np.ndarray], list[str]]]:
    """Series and classes of the training split, and of the test split.

    Raises:
        BadSamples: a file is damaged. EdgeError: the package cannot be fetched.
    """
    paths = [f"aeon/datasets/data/{name}/{name}_{part}.ts" for part in ("TRAIN", "TEST")]
    digests = dict(zip(paths, DIGESTS[name], strict=True))
    package = Package("pip", "aeon", "1.6.0", digests, archive=ARCHIVE)
    files = obtain(package, settings.folder, cache, progress)
    return [read_ts(files[path]) for path in paths]
