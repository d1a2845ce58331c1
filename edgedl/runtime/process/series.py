"""Sensor streams to inputs: a window of frames, each channel normalised."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from edgedl.core.errors import BadSamples, BadValue
from edgedl.runtime.process.normalise import check_normal, normalised

MOST_CHANNELS = 4096
MOST_LENGTH = 1 << 20
MOST_VALUES = 1 << 26
MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class Series:
    """What turns frames of sensor values into an input: a window, `(value - mean) / std`, layout.

    Values are rounded to float32 first, as training keeps them.

    Attributes:
        channels: values a frame.
        length: frames of a window; what is shorter is followed by frames of 0, which after
            normalising stands for the mean.
        taken: which frames of what is longer; a forecast takes the last.
        hop: frames from one window of a stream to the next; `length` where None.
        mean, std: one number, or one for each channel.
        layout: the axes of the input: `n` is 1, `c` are channels, `t` is time.
        input: the model's input; its only one where None.
    """

    kind: ClassVar[str] = "series"
    suffixes: ClassVar[frozenset[str]] = frozenset({".csv", ".npy"})
    dtype: ClassVar[str] = "float32"

    channels: int
    length: int
    hop: int | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["nct", "ntc", "ct", "tc"] = "nct"
    input: str | None = None
    taken: Literal["first", "last"] = "first"

    def __post_init__(self) -> None:
        if not 1 <= self.channels <= MOST_CHANNELS:
            message, hint = f"`channels` is {self.channels}", f"1 to {MOST_CHANNELS}"
            raise BadValue(message, keys=("channels",), hint=hint)
        for name, size in (("length", self.length), ("hop", self.hop)):
            if size is not None and not 1 <= size <= MOST_LENGTH:
                hint = f"1 to {MOST_LENGTH} frames"
                raise BadValue(f"`{name}` is {size}", keys=(name,), hint=hint)
        if self.channels * self.length > MOST_VALUES:
            message = f"a window of {self.channels} x {self.length} values"
            raise BadValue(message, keys=("length",), hint=f"{MOST_VALUES} at most")
        check_normal(self.mean, self.std, self.channels, "channels")

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of the input."""
        sizes = {"n": 1, "c": self.channels, "t": self.length}
        return tuple(sizes[axis] for axis in self.layout)

    @property
    def decoder(self) -> str:
        """What decodes, and its version."""
        return "edgedl 1"

    def decode(self, path: str | Path) -> np.ndarray:
        """The frames of a file: float64 of shape [frames, channels].

        A CSV file has a frame a line, and may begin with a line of names; an `.npy` file holds the
        array.

        Raises:
            BadSamples: the file is missing, damaged, too large, or holds something else.
        """
        try:
            content = _content(Path(path))
            if Path(path).suffix.lower() == ".npy":
                found: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
                if found.dtype.kind not in "iuf":
                    raise ValueError(f"it holds {found.dtype}")
                return found.astype(np.float64)
            return _frames(content.decode("utf-8-sig"))
        except FileNotFoundError as error:
            raise _bad(path, "no such file") from error
        except (OSError, ValueError, EOFError, csv.Error) as error:
            raise _bad(path, f"cannot be read ({' '.join(str(error).split())[:120]})") from error

    def apply(self, raw: Any) -> np.ndarray:
        """The model's input, of frames as `decode` gives them, or as a sensor does.

        Args:
            raw: numbers of shape [frames, channels]; one channel may lack the last axis.

        Raises:
            BadSamples: the array is none of these, or a value is not finite.
        """
        frames = self._checked(raw)
        frames = frames[: self.length] if self.taken == "first" else frames[-self.length :]
        with np.errstate(over="ignore"):
            frames = frames.astype(np.float32)
        found = np.zeros((self.length, self.channels), np.float32)
        found[: len(frames)] = normalised(frames, self.mean, self.std)
        found = found.T if self.layout.endswith("ct") else found
        return np.ascontiguousarray(found[None] if self.layout[0] == "n" else found)

    def windows(self, raw: Any) -> Iterator[np.ndarray]:
        """The input of each whole window of a stream, in the order of time, as `apply` gives it.

        Args:
            raw: numbers of shape [frames, channels]; one channel may lack the last axis.

        Raises:
            BadSamples: as `apply`.
        """
        frames = self._checked(raw)
        for start in range(0, len(frames) - self.length + 1, self.hop or self.length):
            yield self.apply(frames[start : start + self.length])

    def _checked(self, raw: Any) -> np.ndarray:
        frames = np.asarray(raw)
        frames = frames[:, None] if self.channels == 1 and frames.ndim == 1 else frames
        wanted = f"numbers of shape (frames, {self.channels})"
        if frames.dtype.kind not in "iuf" or frames.ndim != 2 or frames.shape[1] != self.channels:
            message = f"{frames.dtype} of shape {frames.shape} is not {self.channels} channels"
            raise BadSamples(message, hint=wanted)
        if not len(frames):
            raise BadSamples("there are no frames", hint=wanted)
        return frames


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES >> 20} MiB")
    return content


def _frames(text: str) -> np.ndarray:
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    if rows and not any(_is_number(cell) for cell in rows[0]):
        del rows[0]
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise ValueError(f"lines of {min(widths)} to {max(widths)} values")
    if not rows:
        raise ValueError("it holds no frames")
    return np.array([[float(cell) for cell in row] for row in rows])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _bad(path: str | Path, reason: str) -> BadSamples:
    return BadSamples(reason, where=str(path), hint="remove it, or put a sound one")
