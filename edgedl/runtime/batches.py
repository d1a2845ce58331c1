"""Many samples in one go: one call where the model takes them together, else one each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

import numpy as np

from edgedl.core.errors import BadOption, WrongInput
from edgedl.core.model import Signature, Tensor
from edgedl.runtime.alarm import ends_at, run_until
from edgedl.runtime.session import EngineSession, Session

Feed = Mapping[str, np.ndarray]
Run = Callable[[Feed], dict[str, np.ndarray]]


def takes_batches(signature: Signature) -> bool:
    """Whether a model takes several samples in one call: the first axes of all its inputs and
    outputs are dynamic."""
    tensors = (*signature.inputs, *signature.outputs)
    return bool(signature.inputs) and all(
        t.shape and not isinstance(t.shape[0], int) for t in tensors
    )


def run_batch(
    session: Session,
    inputs: Mapping[str, np.ndarray],
    *,
    most: int | None = None,
    deadline_ms: float | None = None,
) -> dict[str, np.ndarray]:
    """The answers to samples that lie along the first axis of every array, a row each.

    Where the model's first axis is a batch axis (1 or dynamic), sample i is rows i to i + 1 of the
    array; otherwise it is the array's element i. Outputs are stacked in the same way, so that those
    of a model of fixed and of dynamic batch look alike.

    Samples go together where the batch axes of all inputs and outputs are dynamic. An answer may
    then differ in its last digits from that to the sample alone, and more where the model takes
    ranges of its activations from the whole batch, as dynamic quantization does; `most=1` asks for
    each alone. A dynamic first axis that is time, and no batch, is not told apart: use `run`.

    Args:
        most: samples in one call; all where None.
        deadline_ms: milliseconds from now for all of them together, after which the call under way
            is stopped as `EngineSession.run` says, and no further one is begun. The session is then
            one that `edgedl.open` gave, whose `run` takes a deadline.

    Raises:
        WrongInput: arrays have unlike numbers of samples, none, or do not fit; or the outputs of
            two samples cannot be stacked. EngineFailed: the engine failed.
        BadOption: `most` is less than 1.
        Late: the deadline passed; no answer is kept.
    """
    if most is not None and most < 1:
        raise BadOption(f"`most` is {most}", hint="most=1 is the least")
    run: Run = session.run
    if deadline_ms is not None:
        timed = cast("EngineSession", session)
        run = partial(run_until, timed, ends=ends_at(deadline_ms), deadline_ms=deadline_ms)
    count = _count(inputs)
    if takes_batches(session.signature):
        return _together(session.signature, run, inputs, count, most or count)
    return _one_by_one(session.signature, run, inputs, count)


def _count(inputs: Mapping[str, np.ndarray]) -> int:
    """How many samples there are."""
    if not isinstance(inputs, Mapping):
        raise WrongInput(
            f"arrays are given by name, not as {type(inputs).__name__}", hint="{'name': array}"
        )
    counts: dict[str, int] = {}
    for name, array in inputs.items():
        if not isinstance(array, np.ndarray) or not array.ndim:
            what = "has no axis of samples" if isinstance(array, np.ndarray) else "is no array"
            raise WrongInput(f"input `{name}` {what}", hint="np.stack(samples)")
        counts[name] = len(array)
    if len(set(counts.values())) > 1:
        words = ", ".join(f"{count} of `{name}`" for name, count in counts.items())
        raise WrongInput(f"unlike numbers of samples: {words}", hint="give one row a sample")
    count = next(iter(counts.values()), 0)
    if not count:
        raise WrongInput("there are no samples", hint="give at least one row")
    return count


def _together(
    signature: Signature, run: Run, inputs: Feed, count: int, most: int
) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {t.name: [] for t in signature.outputs}
    for first in range(0, count, most):
        rows = min(most, count - first)
        for name, array in run(
            {name: array[first : first + rows] for name, array in inputs.items()}
        ).items():
            if len(array) != rows:
                raise WrongInput(
                    f"output `{name}` has {len(array)} rows for {rows} samples",
                    hint="its first axis counts no samples: `run` one at a time",
                )
            found[name].append(array)
    for name, parts in found.items():
        _alike(name, {part.shape[1:] for part in parts})
    return {
        name: parts[0] if len(parts) == 1 else np.concatenate(parts)
        for name, parts in found.items()
    }


def _one_by_one(signature: Signature, run: Run, inputs: Feed, count: int) -> dict[str, np.ndarray]:
    keeps = {t.name: t.has_batch_axis for t in signature.inputs}
    found: dict[str, list[np.ndarray]] = {t.name: [] for t in signature.outputs}
    for i in range(count):
        feed = {
            # An element of a flat array is no array; `...` leaves it one of no axes.
            name: array[i : i + 1] if keeps.get(name) else array[i, ...]
            for name, array in inputs.items()
        }
        answers = run(feed)
        for tensor in signature.outputs:
            found[tensor.name].append(row_of(tensor, answers[tensor.name]))
    for name, rows in found.items():
        _alike(name, {one.shape for one in rows})
    return {name: np.stack(rows) for name, rows in found.items()}


def row_of(tensor: Tensor, answer: np.ndarray) -> np.ndarray:
    """One sample's output without the batch axis, where it has one."""
    return answer[0] if tensor.has_batch_axis and answer.ndim and len(answer) == 1 else answer


def _alike(name: str, shapes: set[tuple[int, ...]]) -> None:
    if len(shapes) > 1:
        raise WrongInput(
            f"output `{name}` has another shape from sample to sample",
            hint="run samples of one size at a time",
        )
