"""Fashion-MNIST: 60,000 and 10,000 grey images of clothes, 28x28 (Xiao et al., 2017); MIT."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgedl.core.errors import BadSamples
from edgedl.core.progress import Progress, silent
from edgedl.train.data.arrays import image_rows
from edgedl.train.data.dataset import Found
from edgedl.train.data.fetch import Package, obtain
from edgedl.train.data.labels import check_range
from edgedl.train.data.sets.variant import no_variants
from edgedl.train.data.settings import Data
from edgedl.train.data.unpack import gunzip

INSIDE = "usr/share/datasets/fashion-mnist/"
PACKAGE = Package(
    "apt",
    "dataset-fashion-mnist",
    None,
    {
        f"{INSIDE}train-images-idx3-ubyte.gz":
            "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        f"{INSIDE}train-labels-idx1-ubyte.gz":
            "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
        f"{INSIDE}t10k-images-idx3-ubyte.gz":
            "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        f"{INSIDE}t10k-labels-idx1-ubyte.gz":
            "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    },
)  # fmt: skip
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
MOST_BYTES = 1 << 28
UNSIGNED_BYTES = 8


def find(settings: Data, *, cache: Path, progress: Progress = silent) -> Found:
    """The images with their official test split.

    Raises:
        BadSamples: a file is damaged. EdgeError: the package cannot be fetched.
    """
    no_variants(settings)
    files = obtain(PACKAGE, settings.folder, cache, progress)
    images, labels = (
        [read_idx(files[f"{INSIDE}{part}-{kind}-ubyte.gz"]) for part in ("train", "t10k")]
        for kind in ("images-idx3", "labels-idx1")
    )
    return images_found(
        np.concatenate(images), np.concatenate(labels), settings, "fashion_mnist", CLASSES,
        np.arange(sum(map(len, images))) >= len(images[0]),
    )  # fmt: skip


def images_found(
    images: np.ndarray,
    labels: np.ndarray,
    settings: Data,
    where: str,
    classes: tuple[str, ...],
    test: np.ndarray | None,
) -> Found:
    """Images uint8 of shape [rows, height, width] and their classes.

    Raises:
        BadSamples: they are unlike in number, or a label is out of range.
    """
    numbers = labels.astype(np.int64)
    if numbers.shape != (len(images),):
        message = f"{numbers.shape} labels for {len(images)} images"
        raise BadSamples(message, where=where, hint="fetch the set anew")
    check_range(numbers, len(classes), where)
    return Found(
        count=len(images),
        prepare=lambda train: image_rows(images, "image", settings.image, where, train),
        labels=numbers,
        task="classification",
        outputs=len(classes),
        where=where,
        classes=classes,
        test=test,
    )


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of a gzipped IDX file (LeCun et al., the MNIST database).

    Raises:
        BadSamples: it is none.
    """
    raw = gunzip(path, MOST_BYTES)
    rank = raw[3] if len(raw) >= 4 else 0
    start = 4 + 4 * rank
    shape = np.frombuffer(raw[4:start], ">u4") if len(raw) >= start else np.zeros(0)
    sound = raw[:3] == bytes([0, 0, UNSIGNED_BYTES]) and len(shape) == rank > 0
    if not sound or int(np.prod(shape, dtype=object)) != len(raw) - start:
        message = "is no IDX file of bytes, or is cut off"
        raise BadSamples(message, where=str(path), hint="remove it, and fetch it anew")
    return np.frombuffer(raw, np.uint8, offset=start).reshape([int(size) for size in shape])
