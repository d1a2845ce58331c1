"""What operators that reshape, move, cut and join tensors do to the labels of channels."""

# ruff: noqa: ARG001 (every rule takes the same arguments)
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedl.train.shrink.labels import FIXED, Labels, reshaped

if TYPE_CHECKING:
    from edgedl.train.shrink.trace import Trace

Given = Mapping[str, Any]
# The trace, what to say where channels have to be kept, the operator's arguments and its results;
# gives the labels of each result, or None where nothing is known.
Rule = Callable[["Trace", str, Given, Any], "list[Labels] | None"]


def fixed(length: int) -> np.ndarray:
    """Labels of an axis that is kept."""
    return np.full(length, FIXED)


def _view(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    tensor = given["self"]
    labels, shape = trace.of(tensor), tuple(out.shape)
    if len(shape) == 4 and tensor.dim() == 3 and shape[2] == 1 and shape[3] == tensor.shape[2]:
        # A single head of attention: its values are one unit.
        labels = (*labels[:2], np.repeat(trace.atoms.tie_rows(labels[2][None], why), shape[3]))
    number = trace.views()
    skip = int(number in trace.apart)
    made = reshaped(trace.atoms, labels, tuple(tensor.shape), shape, why, skip=skip)
    if len(shape) > tensor.dim():
        trace.parted[number] = [one for one in made if (one != FIXED).any()]
    for axis in made:
        _sized(trace, axis)
    return [made]


def _take_apart(trace: Trace, labels: np.ndarray) -> None:
    """Notes that places along an axis go different ways, where a reshaping made that axis."""
    roots = trace.atoms.roots(labels)
    for number, axes in trace.parted.items():
        if any(np.array_equal(trace.atoms.roots(axis), roots) for axis in axes):
            trace.apart.add(number)


def _sized(trace: Trace, labels: np.ndarray) -> bool:
    """Notes an attribute that an axis may be as long as; whether there is one, or no need."""
    if not (labels != FIXED).any():
        return True
    return trace.size(len(labels), labels)


def _made(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    """A constant, the same everywhere: as long as it is wanted."""
    labels = tuple(trace.atoms.fresh(n, held=False) for n in out.shape)
    for axis in labels:
        _sized(trace, axis)
    return [labels]


def _permute(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    labels = trace.of(given["self"])
    return [tuple(labels[axis] for axis in given["dims"])]


def _transpose(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    labels = list(trace.of(given["self"]))
    one, other = given["dim0"], given["dim1"]
    labels[one], labels[other] = labels[other], labels[one]
    return [tuple(labels)]


def _t(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    return [trace.of(given["self"])[::-1]]


def _expand(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    labels = trace.of(given["self"])
    more = out.dim() - len(labels)
    made = [fixed(n) for n in out.shape[:more]]
    for axis, axis_labels in enumerate(labels, more):
        length = out.shape[axis]
        if length == len(axis_labels):
            made.append(axis_labels)
        else:
            trace.atoms.freeze(axis_labels, why)
            made.append(trace.atoms.fresh(length, held=False) if axis else fixed(length))
    return [tuple(made)]


def _repeat(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    labels = trace.of(given["self"])
    times = list(given["repeats"])
    padded = [fixed(1)] * (len(times) - len(labels)) + list(labels)
    return [tuple(np.tile(one, n) for one, n in zip(padded, times, strict=True))]


def _unsqueeze(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    labels = list(trace.of(given["self"]))
    axis = given["dim"] % out.dim()
    return [(*labels[:axis], fixed(1), *labels[axis:])]


def _squeeze(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    labels, dims = trace.of(given["self"]), given.get("dim")
    wanted = range(len(labels)) if dims is None else np.atleast_1d(np.array(dims)) % len(labels)
    gone = [axis for axis in wanted if len(labels[axis]) == 1]
    for axis in gone:
        trace.atoms.freeze(labels[axis], why)
    return [tuple(one for axis, one in enumerate(labels) if axis not in gone)]


def _select(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    labels = list(trace.of(given["self"]))
    gone = labels.pop(given["dim"])
    _take_apart(trace, gone)
    trace.atoms.freeze(gone, why)
    return [tuple(labels)]


def _unbind(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    labels = list(trace.of(given["self"]))
    gone = labels.pop(given["dim"])
    _take_apart(trace, gone)
    trace.atoms.freeze(gone, why)
    return [tuple(labels)] * len(out)


def _slice(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    labels = list(trace.of(given["self"]))
    axis, whole = given["dim"], labels[given["dim"]]
    part = whole[slice(given["start"], given["end"], given["step"])]
    if len(part) != len(whole) and (whole != FIXED).any():
        if len(part) == 1:
            _take_apart(trace, whole)
        # Cut where an attribute says so, which then follows; else nobody knows where.
        start, end = (np.clip(given[n] or 0, 0, len(whole)) for n in ("start", "end"))
        bounds = [n for n in (start, end) if 0 < n < len(whole)]
        known = [trace.size(int(n), whole[: int(n)]) for n in bounds]
        if not all(known) or given["step"] != 1:
            trace.atoms.freeze(whole, why)
    labels[axis] = part
    return [tuple(labels)]


def _split(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    """Parts of one length are taken for halves (or thirds) of a whole, cut alike."""
    labels = list(trace.of(given["self"]))
    axis = given["dim"] % len(labels)
    whole, sizes = labels[axis], [one.shape[axis] for one in out]
    if (whole != FIXED).any() and len(sizes) > 1:
        if set(sizes) == {1}:
            _take_apart(trace, whole)
        if len(set(sizes)) == 1 and not trace.size(sizes[0], whole[: sizes[0]]):
            whole = np.tile(trace.atoms.tie_rows(whole.reshape(len(sizes), -1).T, why), len(sizes))
        else:
            trace.atoms.freeze(whole, why)
    made, start = [], 0
    for size in sizes:
        made.append((*labels[:axis], whole[start : start + size], *labels[axis + 1 :]))
        start += size
    return made


def _gates(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    """Gates of a recurrent cell: parts of one length, whatever attribute has it."""
    labels = list(trace.of(given["self"]))
    axis = given["dim"] % len(labels)
    if len({one.shape[axis] for one in out}) > 1:
        return _split(trace, why, given, out)
    labels[axis] = trace.atoms.tie_rows(labels[axis].reshape(len(out), -1).T, why)
    return [tuple(labels)] * len(out)


def _cat(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    parts = [trace.of(one) for one in given["tensors"] if one.dim() == out.dim()]
    axis = given["dim"] % out.dim()
    made = list(parts[0])
    for part in parts[1:]:
        for place, labels in enumerate(part):
            if place != axis:
                made[place] = trace.atoms.tie(made[place], labels, why)
    made[axis] = np.concatenate([part[axis] for part in parts])
    return [tuple(made)]


def _stack(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    parts = [trace.of(one) for one in given["tensors"]]
    made = list(parts[0])
    for part in parts[1:]:
        made = [trace.atoms.tie(one, two, why) for one, two in zip(made, part, strict=True)]
    axis = given["dim"] % out.dim()
    return [(*made[:axis], fixed(len(parts)), *made[axis:])]


def _pad(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    labels = list(trace.of(given["self"]))
    for place, (before, after) in enumerate(
        zip(given["pad"][::2], given["pad"][1::2], strict=True)
    ):
        axis = len(labels) - 1 - place
        if before < 0 or after < 0:
            trace.atoms.freeze(labels[axis], why)
            labels[axis] = fixed(out.shape[axis])
        else:
            labels[axis] = np.concatenate([fixed(before), labels[axis], fixed(after)])
    return [tuple(labels)]


def _shuffled(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    """Channels become places: all those of one go together."""
    batch, channels, *_ = trace.of(given["self"])
    table = channels.reshape(-1, given["upscale_factor"] ** 2)
    return [(batch, trace.atoms.tie_rows(table, why), *map(fixed, out.shape[2:]))]


def _unshuffled(trace: Trace, why: str, given: Given, out: Any) -> list[Labels]:
    batch, channels, *_ = trace.of(given["self"])
    many = np.repeat(channels, given["downscale_factor"] ** 2)
    return [(batch, many, *map(fixed, out.shape[2:]))]


# Constants, which are as long as another tensor says.
ADAPTS = {"zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty",
          "scalar_tensor"}  # fmt: skip
SHAPES: Mapping[str, Rule] = {
    "view": _view, "_unsafe_view": _view, "reshape": _view,
    "permute": _permute, "transpose": _transpose, "t": _t,
    "expand": _expand, "repeat": _repeat, "unsqueeze": _unsqueeze, "squeeze": _squeeze,
    "select": _select, "unbind": _unbind, "slice": _slice, "split": _split,
    "split_with_sizes": _split, "unsafe_split": _gates, "cat": _cat, "stack": _stack,
    "constant_pad_nd": _pad, "pixel_shuffle": _shuffled, "pixel_unshuffle": _unshuffled,
    **dict.fromkeys(ADAPTS, _made),
}  # fmt: skip
