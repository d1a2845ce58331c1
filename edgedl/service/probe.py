"""Whether a model's samples can share a call: tried, since a dynamic first axis does not prove it.

A sequence model may have time in front; a dynamically quantized one takes its scales from all
samples of a call. Both have a dynamic first axis, and in both a sample's answer hangs on its
neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgedl.core.errors import EdgeError
from edgedl.service.batch import Feed, Run
from edgedl.service.contract import Contract, Slot

SIZES = (8, 1, 32, 224, 16)
LOUDER = 8.0
MOST_APART = 0.1
SEED = 20


def shares(run: Run, contract: Contract, most: int) -> str | None:
    """None where samples of made-up data answer alike alone, in both places of a call of two
    whatever their neighbour is, and in a call of `most`; otherwise why they cannot share a call.

    The same sample in the same place must answer bit for bit alike beside another neighbour: the
    engine's kernels are the same there. In another place or alone they may differ, and a tenth of
    the answer's norm is allowed.
    """
    if not contract.may_share:
        return "its first axis is fixed"
    for size in SIZES:
        try:
            return _tried(run, contract, size, most)
        except EdgeError:
            continue
    return "no made-up input of two samples runs"


def _tried(run: Run, contract: Contract, size: int, most: int) -> str | None:
    random = np.random.default_rng(SEED)
    sample, other = (_drawn(contract, size, random, 1.0) for _ in range(2))
    louder = _drawn(contract, size, random, LOUDER)
    alone = run(sample)
    for place in (0, 1):
        quiet, loud, full = (
            _row(run, [one] * place + [sample] + [one] * (count - 1 - place), place)
            for one, count in ((other, 2), (louder, 2), (other, most))
        )
        for name, mine in alone.items():
            if quiet[name].shape != mine.shape or full[name].shape != mine.shape:
                return f"output `{name}` has no row for each sample"
            if quiet[name].tobytes() != loud[name].tobytes():
                return f"a sample's `{name}` hangs on the other samples of its call"
            if not (_near(mine, quiet[name]) and _near(mine, full[name])):
                return f"a sample's `{name}` hangs on its place in the call"
    return None


def _drawn(contract: Contract, size: int, random: np.random.Generator, scale: float) -> Feed:
    return {name: _values(slot, size, random, scale) for name, slot in contract.inputs.items()}


def _values(
    slot: Slot, size: int, random: np.random.Generator, scale: float
) -> np.ndarray[Any, Any]:
    assert slot.shape is not None
    shape = [1, *(d if isinstance(d, int) else size for d in slot.shape[1:])]
    if slot.dtype.kind == "f":
        return (random.standard_normal(shape) * scale).astype(slot.dtype)
    return random.integers(0, 2, shape).astype(slot.dtype)


def _row(run: Run, feeds: Sequence[Feed], place: int) -> Mapping[str, np.ndarray]:
    """The outputs' rows of the sample at `place` of one call; none where they have none."""
    outputs = run({name: np.concatenate([one[name] for one in feeds]) for name in feeds[0]})
    return {
        name: array[place : place + 1] if array.shape[:1] == (len(feeds),) else array.ravel()[:0]
        for name, array in outputs.items()
    }


def _near(mine: np.ndarray, theirs: np.ndarray) -> bool:
    if mine.dtype.kind != "f":
        return bool(np.count_nonzero(mine != theirs) <= MOST_APART * mine.size)
    one, other = mine.astype(np.float64), theirs.astype(np.float64)
    differ = (one != other) & ~(np.isnan(one) & np.isnan(other))
    apart = np.linalg.norm(one[differ] - other[differ])
    return bool(apart <= MOST_APART * np.linalg.norm(one[np.isfinite(one)]))
