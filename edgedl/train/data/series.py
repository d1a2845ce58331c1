"""Streams of sensor frames: windows with the label they bear, or what comes behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgedl.core.errors import BadSamples, nearest
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import map_npz
from edgedl.runtime.process.series import Series
from edgedl.runtime.process.table import category, is_missing
from edgedl.train.data.dataset import Found, Prepared, Task
from edgedl.train.data.labels import (
    DATE,
    anomalies,
    group_numbers,
    is_regression,
    numbers,
    to_classes,
)
from edgedl.train.data.rows import prepared
from edgedl.train.data.settings import Data
from edgedl.train.data.table import feature_columns, label_column
from edgedl.train.data.table_files import SUFFIXES, Columns, read_table

INPUT = "series"
LEAST_STD = 1e-12


@dataclass(frozen=True, eq=False)
class Stream:
    """Frames in the order of time.

    Attributes:
        values: float32 of shape [frames, channels].
        labels: a cell a frame; None where there are none.
        group: whose frames they are.
    """

    values: np.ndarray
    labels: Sequence[Any] | None = None
    group: str | None = None


@dataclass(frozen=True, eq=False)
class Windows(Sequence[Any]):
    """Windows of streams, cut when they are asked for."""

    streams: Sequence[Stream]
    spans: np.ndarray

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, row: Any) -> Any:
        stream, first, last = self.spans[row]
        return self.streams[stream].values[first:last]


@dataclass(eq=False)
class _Cut:
    spans: list[tuple[int, int, int]] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    mixed: int = 0


def find(settings: Data, *, progress: Progress = silent) -> Found:
    """The streams that the settings name.

    Raises:
        BadSamples: one cannot be read, lacks a column, or is shorter than a window.
    """
    assert settings.series is not None
    if settings.test is not None:
        message = "streams are split by `group`, or in time"
        raise BadSamples(message, where=settings.test, hint="leave `test` out")
    path = Path(settings.series)
    streams: list[Stream] = []
    names: tuple[str, ...] = ()
    files = _files(path)
    for i, file in enumerate(files):
        read = _npz if file.suffix.lower() == ".npz" else _table
        found, names = read(file, settings)
        # without a column that says whose it is, each file of a folder is a group of its own
        alone = settings.group is None and len(files) > 1
        streams += [Stream(s.values, s.labels, file.name) for s in found] if alone else found
        progress("reading series", i + 1, len(files))
    return from_streams(streams, settings, str(path), names)


def from_streams(
    streams: Sequence[Stream], settings: Data, where: str, channels: tuple[str, ...] = ()
) -> Found:
    """Windows of streams: with the one label of their frames, or with the frames behind them.

    Raises:
        BadSamples: there are no windows, or no labels.
    """
    if settings.length is None:
        message = "how many frames has a window?"
        raise BadSamples(message, where=where, hint="`length: 128`")
    widths = {stream.values.shape[1] for stream in streams}
    if len(widths) != 1:
        message = f"streams of {min(widths, default=0)} to {max(widths, default=0)} channels"
        raise BadSamples(message, where=where, hint="the same columns in each")
    cut = _cut(streams, settings)
    if not cut.spans:
        longest = max(len(stream.values) for stream in streams)
        message = f"no window of {settings.length} frames bears one label"
        message += f"; the longest stream has {longest} frames"
        raise BadSamples(message, where=where, hint="a smaller `length`")
    spans = np.array(cut.spans, np.int64)
    labels, task, outputs, classes = _labels(streams, spans, cut, settings, where, channels)
    windows = Windows(streams, spans)
    hop, length = _hop(settings), settings.length
    taken: Literal["first", "last"] = "first" if settings.horizon is None else "last"

    def prepare(train: np.ndarray) -> Prepared:
        mean, std = _moments(windows, train)
        before = Series(widths.copy().pop(), length, hop, mean, std, taken=taken)
        return prepared(windows, INPUT, before, where)

    doubts: tuple[str, ...] = ()
    if cut.mixed:
        total = cut.mixed + len(spans)
        doubts = (f"{cut.mixed} of {total} windows bear two labels, or none, and were dropped",)
    groups = [stream.group for stream in streams]
    of_stream = None if None in groups else group_numbers(groups)
    behind = spans + np.array([0, 0, settings.horizon or 0])
    return Found(
        count=len(spans),
        prepare=prepare,
        labels=labels,
        task=task,
        outputs=outputs,
        where=where,
        classes=classes,
        groups=None if of_stream is None else of_stream[spans[:, 0]],
        normal_only=settings.normal is not None and settings.horizon is None,
        spans=behind if of_stream is None else None,
        doubts=doubts,
    )


def _hop(settings: Data) -> int:
    """Frames from one window to the next; a forecast begins at any frame, as on the device."""
    assert settings.length is not None
    return settings.hop or (settings.length if settings.horizon is None else 1)


def _cut(streams: Sequence[Stream], settings: Data) -> _Cut:
    assert settings.length is not None
    hop, behind = _hop(settings), settings.horizon or 0
    cut = _Cut()
    for i, stream in enumerate(streams):
        numbered = None
        if stream.labels is not None and not behind:
            texts = ["" if is_missing(cell) else category(cell) for cell in stream.labels]
            _, numbered = np.unique(texts, return_inverse=True)
        last = len(stream.values) - settings.length - behind
        for start in range(0, last + 1, hop):
            end = start + settings.length
            if numbered is None:
                cut.spans.append((i, start, end))
            elif texts[start] and (numbered[start:end] == numbered[start]).all():
                assert stream.labels is not None
                cut.spans.append((i, start, end))
                cut.labels.append(stream.labels[start])
            else:
                cut.mixed += 1
    return cut


def _labels(
    streams: Sequence[Stream],
    spans: np.ndarray,
    cut: _Cut,
    settings: Data,
    where: str,
    channels: tuple[str, ...],
) -> tuple[np.ndarray | None, Task, int, tuple[str, ...]]:
    if settings.horizon is not None:
        which = list(range(streams[0].values.shape[1]))
        if settings.label is not None:
            if settings.label not in channels:
                hint = nearest(settings.label, channels)
                message = f"there is no channel `{settings.label}`"
                raise BadSamples(message, where=where, hint=hint)
            which = [channels.index(settings.label)]
        parts = [streams[s].values[e : e + settings.horizon, which] for s, _, e in spans]
        values = np.stack(parts).reshape(len(parts), -1)
        return values.astype(np.float32), "regression", values.shape[1], ()
    if settings.task == "reconstruction" and not cut.labels and settings.normal is None:
        return None, "reconstruction", 0, ()
    if not cut.labels:
        message = "the frames have no labels, and there is no `horizon` to forecast"
        raise BadSamples(message, where=where, hint="`label: COLUMN`, or `horizon: 12`")
    if settings.task == "regression" or (settings.task is None and is_regression(cut.labels)):
        values = numbers(cut.labels, where, "label").astype(np.float32)[:, None]
        return values, "regression", 1, ()
    labels, classes = to_classes(cut.labels, settings.classes, where, "label")
    if settings.normal is not None:
        labels, classes = anomalies(labels, classes, settings.normal, where)
    if settings.task == "reconstruction":
        return labels, "reconstruction", 0, classes
    return labels, "classification", len(classes), classes


def _moments(windows: Windows, train: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel over the frames of these windows."""
    total = squares = np.zeros(windows.streams[0].values.shape[1])
    count = 0
    for row in train:
        values = windows[int(row)].astype(np.float64)
        total, squares = total + values.sum(axis=0), squares + np.square(values).sum(axis=0)
        count += len(values)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    std = np.where(std <= LEAST_STD * np.maximum(1, np.abs(mean)), 1.0, std)
    return tuple(map(float, mean)), tuple(map(float, std))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in (*SUFFIXES, ".npz"))
    if not found:
        hint = f"files that end in {', '.join((*SUFFIXES, '.npz'))}"
        raise BadSamples("the folder holds no series", where=str(path), hint=hint)
    return found


def _table(path: Path, settings: Data) -> tuple[list[Stream], tuple[str, ...]]:
    table = read_table(path)
    # of a forecast, the label is a channel as well
    needs = settings.horizon is None and settings.task != "reconstruction"
    label = label_column(table, settings) if needs or settings.label else None
    seen = None if settings.horizon is not None else label
    names = feature_columns(table, settings, seen)
    values = np.stack([_channel(table, name, names, settings.missing) for name in names], axis=1)
    labels = table.column(label) if label is not None and seen is not None else None
    if settings.group is None:
        return [Stream(values, labels)], tuple(names)
    texts = [category(cell) for cell in table.column(settings.group)]
    changes = [i for i in range(1, len(texts)) if texts[i] != texts[i - 1]]
    bounds = zip([0, *changes], [*changes, len(texts)], strict=True)
    streams = [
        Stream(values[a:b], None if labels is None else labels[a:b], texts[a]) for a, b in bounds
    ]
    return streams, tuple(names)


def _channel(table: Columns, name: str, names: Sequence[str], missing: str) -> np.ndarray:
    """A channel; a gap takes the last value before it, where gaps may be."""
    if missing == "drop":
        message = "frames cannot be dropped out of a series"
        raise BadSamples(message, where=table.where, hint="`missing: mean` fills gaps")
    cells = table.column(name)
    whole = (cell for cell in cells if not is_missing(cell))
    if not any(map(_is_number, whole)) and any(not is_missing(cell) for cell in cells):
        rest = ", ".join(one for one in names if one != name)
        message = f"column `{name}` holds texts, as `{str(cells[0])[:40]}`"
        hint = f"`columns: [{rest}]`"
        if len(set(cells)) <= len(cells) // 2 and not DATE.match(str(cells[0])):
            hint = f"`group: {name}` where it says whose frames these are, else {hint}"
        raise BadSamples(message, where=table.where, hint=hint)
    found = numbers(cells, table.where, name, missing == "mean", table.lines)
    gaps = np.isnan(found)
    if gaps.any():
        if gaps.all():
            message = f"column `{name}` has no value"
            raise BadSamples(message, where=table.where, hint="leave it out of `columns`")
        places = np.where(gaps, -1, np.arange(len(found)))
        last = np.maximum.accumulate(places)
        found = np.where(last >= 0, found[np.maximum(last, 0)], found[~gaps][0])
    return found.astype(np.float32)


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _npz(path: Path, settings: Data) -> tuple[list[Stream], tuple[str, ...]]:
    """Frames in the first array of shape [frames, channels], labels and groups beside it."""
    arrays = map_npz(path)
    label, group = settings.label or "labels", settings.group
    for name in (settings.label, group, *settings.columns):
        if name is not None and name not in arrays:
            hint = nearest(name, arrays)
            raise BadSamples(f"there is no array `{name}`", where=str(path), hint=hint)
    names = settings.columns or tuple(n for n in arrays if n not in (label, group))
    values = arrays[names[0]] if names else np.zeros(0)
    if len(names) != 1 or values.ndim not in (1, 2) or values.dtype.kind not in "iuf":
        message = f"{len(names)} arrays of frames, the first {values.dtype} {values.shape}"
        hint = "one of shape (frames, channels); windows that are cut already go to `arrays:`"
        raise BadSamples(message, where=str(path), hint=hint)
    values = (values[:, None] if values.ndim == 1 else values).astype(np.float32)
    for name in (label, group):
        if name in arrays and arrays[name].shape != (len(values),):
            message = f"`{name}` of shape {arrays[name].shape} for {len(values)} frames"
            raise BadSamples(message, where=str(path), hint="one entry a frame")
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        message = f"frame {row} of `{names[0]}` is not finite"
        raise BadSamples(message, where=str(path), hint="remove it, or fill it")
    labels = list(arrays[label]) if label in arrays and settings.horizon is None else None
    if group is None:
        return [Stream(values, labels)], ()
    texts = [category(cell) for cell in arrays[group]]
    changes = [i for i in range(1, len(texts)) if texts[i] != texts[i - 1]]
    bounds = zip([0, *changes], [*changes, len(texts)], strict=True)
    streams = [
        Stream(values[a:b], None if labels is None else labels[a:b], texts[a]) for a, b in bounds
    ]
    return streams, ()
