"""Sentences with the mean of human scores from -4 to 4: movie reviews, Amazon, NYT, tweets.

Hutto and Gilbert, VADER (ICWSM 2014); MIT. A score above 0 is positive.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from edgedl.core.errors import BadSamples
from edgedl.core.progress import Progress, silent
from edgedl.train.data.dataset import Found
from edgedl.train.data.fetch import Package, obtain
from edgedl.train.data.labels import group_numbers
from edgedl.train.data.sets.variant import variant_of
from edgedl.train.data.settings import Data, replaced
from edgedl.train.data.texts import from_texts
from edgedl.train.data.unpack import unpack

INSIDE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
PACKAGE = Package(
    "pip",
    "vaderSentiment",
    "3.3.2",
    {INSIDE: "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"},
    archive="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    source=True,
)
VARIANTS = {
    "movies": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "nyt": "nytEditorialSnippets",
    "tweets": "tweets",
}
BY_TEXT = ("amazon", "nyt")
MOST_SCORE = 4.0
LENGTH = 64


def find(settings: Data, *, cache: Path, progress: Progress = silent) -> Found:
    """Sentences as `negative` and `positive`, or with `task: regression` their scores.

    Sentences of one review or editorial stand on one side of the split, where the set says so;
    those of score 0 are neither and are left out of the classes.

    Raises:
        BadSamples: the file is damaged. EdgeError: the package cannot be fetched. Missing:
            `tokenizers` is not installed.
    """
    name = variant_of(settings, VARIANTS)
    files = obtain(PACKAGE, settings.folder, cache, progress)
    member = f"hutto_ICWSM_2014/{VARIANTS[name]}_GroundTruth.txt"
    content = unpack(files[INSIDE], [member])[member]
    rows = read_scores(content, f"{files[INSIDE]}: {member}")
    doubts: tuple[str, ...] = ()
    regress = settings.task == "regression"
    if not regress:
        neither = sum(score == 0 for _, score, _ in rows)
        doubts = (f"{neither} sentences of score 0 were left out",) if neither else ()
        rows = [row for row in rows if row[1] != 0]
    texts = [text for _, _, text in rows]
    cells = [score if regress else _side(score) for _, score, _ in rows]
    # sentences of one text stay together, and so do those that stand there twice
    keys = [key.partition("_")[0] for key, _, _ in rows]
    groups = group_numbers(keys) if name in BY_TEXT else _same(texts)
    chosen = replaced(settings, length=settings.length or LENGTH)
    return from_texts(
        texts, cells, chosen, f"sentiment {name}", groups=groups, doubts=doubts, label="score"
    )


def read_scores(content: bytes, where: str) -> list[tuple[str, float, str]]:
    """Key, score and sentence of each line.

    Raises:
        BadSamples: a line is none of these.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        parts = line.rstrip("\r").split("\t")
        try:
            key, score, sentence = parts[0], float(parts[1]), "\t".join(parts[2:]).strip()
            if not sentence or not math.isfinite(score) or abs(score) > MOST_SCORE:
                raise ValueError("no sentence and score")
        except (ValueError, IndexError) as error:
            message = f"line {number} is no key, score and sentence"
            raise BadSamples(message, where=where, hint="fetch the set anew") from error
        found.append((key, score, sentence))
    return found


def _side(score: float) -> str:
    return "positive" if score > 0 else "negative"


def _same(texts: list[str]) -> np.ndarray:
    return group_numbers([" ".join(text.lower().split()) for text in texts])
