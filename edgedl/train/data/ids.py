"""Tables of who did what with what: columns of ids, each an input, and a value to tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgedl.core.errors import BadSamples
from edgedl.core.samples import Arrays
from edgedl.train.data.dataset import Prepared
from edgedl.train.data.labels import numbers
from edgedl.train.data.table_files import Columns
from edgedl.train.shapes import TensorShape

MOST_IDS = 1 << 22
SPARSE = 4
NUMBERED = (
    "number them from 0, `names, ids = np.unique(column, return_inverse=True)`, and give the"
    " device `names`"
)


def ids_of(table: Columns, names: Sequence[str]) -> tuple[Prepared, tuple[str, ...]]:
    """The columns as inputs int64 [batch, 1], and sentences for the user.

    An id is its own place in an embedding, so that a device needs no list of them.

    Raises:
        BadSamples: a cell is no whole number from 0 on, or a very large one.
    """
    arrays, doubts = {}, []
    for name in names:
        ids = _whole(table, name)
        arrays[name] = ids[:, None]
        different = len(np.unique(ids))
        if ids.max() >= SPARSE * different:
            doubts.append(
                f"`{name}` has {different} different ids, up to {ids.max()}: the rows of an"
                f" embedding between them are never used; {NUMBERED}"
            )
    shapes = {n: TensorShape((1,), "int64", int(ids.max()) + 1) for n, ids in arrays.items()}
    return Prepared(Arrays(arrays, table.where), shapes, None), tuple(doubts)


def _whole(table: Columns, name: str) -> np.ndarray:
    """Int64 of shape [rows]."""
    try:
        values = numbers(table.column(name), table.where, name, rows=table.lines)
    except BadSamples as error:
        raise BadSamples(error.message, where=table.where, hint=NUMBERED) from error
    wrong = np.flatnonzero((values < 0) | (values >= MOST_IDS) | (values != np.rint(values)))
    if len(wrong):
        cell = table.column(name)[wrong[0]]
        message = f"`{cell}` in column `{name}` is no id: whole numbers from 0 to {MOST_IDS - 1}"
        raise BadSamples(message, where=table.called(int(wrong[0])), hint=NUMBERED)
    return values.astype(np.int64)
