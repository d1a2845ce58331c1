"""Whether a model's samples can share a call: tried, since a dynamic first axis does not prove it.

A sequence model may have time in front; a dynamically quantized one takes its scales from all
samples of a call. Both have a dynamic first axis, and in both a sample's answer hangs on its
neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgedl.core.errors import EdgeError
from edgedl.service.batch import Feed, Run
from edgedl.service.contract import Contract, Slot

SIZES = (8, 1, 32, 224, 16)
LOUDER = 8.0
MOST_APART = 0.1
SEED = 20


def shares(run: Run, contract: Contract) -> str | None:
    """None where samples of made-up data answer alike alone, in both places of a call of two, and
    whatever their neighbour is; otherwise why they cannot share a call.

    The same sample in the same place must answer bit for bit alike beside another neighbour: the
    engine's kernels are the same there. In another place or alone they may differ, and a tenth of
    the answer's norm is allowed.
    """
    if not contract.may_share:
        return "its first axis is fixed"
    for size in SIZES:
        try:
            return _tried(run, contract, size)
        except EdgeError:
            continue
    return "no made-up input of two samples runs"


def _tried(run: Run, contract: Contract, size: int) -> str | None:
    random = np.random.default_rng(SEED)
    sample, other = (_drawn(contract, size, random, 1.0) for _ in range(2))
    louder = _drawn(contract, size, random, LOUDER)
    alone = run(sample)
    for place in (0, 1):
        quiet, loud = (_beside(run, sample, one, place) for one in (other, louder))
        for name, mine in alone.items():
            if quiet[name].shape != mine.shape:
                return f"output `{name}` has no row for each sample"
            if quiet[name].tobytes() != loud[name].tobytes():
                return f"a sample's `{name}` hangs on the other samples of its call"
            if not _near(mine, quiet[name]):
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


def _beside(run: Run, sample: Feed, other: Feed, place: int) -> Mapping[str, np.ndarray]:
    """The sample's own rows from a call that it shares, where there is a row for each sample."""
    pair = (sample, other) if place == 0 else (other, sample)
    outputs = run({name: np.concatenate([one[name] for one in pair]) for name in sample})
    return {
        name: array[place : place + 1] if array.ndim and array.shape[0] == 2 else array[:0]
        for name, array in outputs.items()
    }


def _near(mine: np.ndarray, theirs: np.ndarray) -> bool:
    if mine.dtype.kind != "f":
        return bool(np.mean(mine != theirs) <= MOST_APART)
    one, other = mine.astype(np.float64), theirs.astype(np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    apart, norm = np.linalg.norm(np.where(same, 0, one - other)), np.linalg.norm(one[~same])
    return bool(same.all() or apart <= MOST_APART * max(norm, np.linalg.norm(one)))
