"""Recordings to inputs: resampled, cut to a window and normalised, by numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edgedl.core.errors import BadSamples, BadValue
from edgedl.runtime.process.wav import MOST_CHANNELS, read_wav
from edgedl.runtime.process.wav import RATES as GIVEN

RATES = (1_000, 192_000)
MOST_LENGTH = 1 << 28
CROSSINGS = 32
ROLLOFF = 0.91
KAISER_BETA = 9.0
TAP_STEPS = 1 << 26
PCM_BITS = {"float32": 0, "float64": 0, "float16": 0, "uint8": 8, "int16": 16, "int32": 32}


@dataclass(frozen=True, eq=False)
class Recording:
    """Sound as it was recorded: float32 of shape [frames], and frames a second."""

    values: np.ndarray
    rate: int


@dataclass(frozen=True)
class Sound:
    """What turns a recording into an input: rate, window, `(value * scale - mean) / std`, layout.

    Values run from -1 to 1 before `scale`; the formula is computed in double precision and rounded
    once. Several channels are mixed to their mean.

    Attributes:
        rate: frames a second that the model takes; others are resampled, see `resample`.
        length: frames of the one window that is taken, from the beginning: what is longer is cut,
            what is shorter is followed by zeros. The whole recording where None.
        layout: the axes of the input: `n` and `c` are 1, `t` is time.
        input: the model's input; its only one where None.
    """

    kind: ClassVar[str] = "sound"
    suffixes: ClassVar[frozenset[str]] = frozenset({".wav", ".wave"})
    dtype: ClassVar[str] = "float32"

    rate: int
    length: int | None = None
    scale: float = 1.0
    mean: float = 0.0
    std: float = 1.0
    layout: Literal["nt", "nct", "ntc", "t", "ct", "tc"] = "nt"
    input: str | None = None

    def __post_init__(self) -> None:
        if not RATES[0] <= self.rate <= RATES[1]:
            hint = f"{RATES[0]} to {RATES[1]} frames a second"
            raise BadValue(f"`rate` is {self.rate}", keys=("rate",), hint=hint)
        if self.length is not None and not 1 <= self.length <= MOST_LENGTH:
            hint = f"frames at `rate`, so that one second is {self.rate}"
            raise BadValue(f"`length` is {self.length}", keys=("length",), hint=hint)
        if self.std == 0:
            raise BadValue("`std` divides, and is 0", keys=("std",), hint="leave it out for 1")
        if not np.isfinite(self._normalised(np.array([-1.0, 1.0]))).all():
            raise BadValue("`scale`, `mean` and `std` make values that are not finite",
                           keys=("std",), hint="float32 goes to 3.4e38")  # fmt: skip

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of the input, None where it is the recording's own."""
        return tuple(self.length if axis == "t" else 1 for axis in self.layout)

    @property
    def decoder(self) -> str:
        """What decodes and resamples, and its version."""
        return "edgedl 1"

    def decode(self, path: str | Path) -> Recording:
        """The sound of a WAV file, no more of it than the window takes.

        Raises:
            BadSamples: the file is missing, damaged, empty, or of a kind that is not read.
        """
        seconds = None
        if self.length is not None:
            seconds = (self.length + 2 * CROSSINGS / ROLLOFF) / self.rate + 2 * CROSSINGS / 1_000
        return Recording(*read_wav(path, seconds))

    def apply(self, raw: Recording | np.ndarray) -> np.ndarray:
        """The model's input, of a recording as `decode` gives it, or as a microphone does.

        Args:
            raw: a recording, or what `recorded` makes one of.

        Raises:
            BadSamples: its values are not of one axis, there are none, they or its rate are none.
        """
        raw = recorded(raw, self.rate)
        if raw.values.ndim != 1 or not raw.values.size or not GIVEN[0] <= raw.rate <= GIVEN[1]:
            message = f"{raw.values.shape} at {raw.rate} frames a second is no recording"
            raise BadSamples(message, hint="one channel, float32 of shape (frames,)")
        values = resample(raw.values, raw.rate, self.rate)[: self.length]
        if self.length is not None and len(values) < self.length:
            values = np.concatenate([values, np.zeros(self.length - len(values), values.dtype)])
        if (self.scale, self.mean, self.std) != (1.0, 0.0, 1.0):
            values = self._normalised(values)
        if not np.isfinite(values).all():
            message = "the recording becomes values that are not finite"
            raise BadSamples(message, hint="is it within -1 to 1?")
        shape = [-1 if axis == "t" else 1 for axis in self.layout]
        return np.ascontiguousarray(values, np.float32).reshape(shape)

    def _normalised(self, values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            found = (values.astype(np.float64) * self.scale - self.mean) / self.std
            return found.astype(np.float32)


def recorded(raw: Any, rate: int) -> Recording:
    """An array of sound as a recording at this rate; a recording stays as it is.

    Args:
        raw: of shape [frames] or [frames, channels]: floats from -1 to 1, or whole numbers as WAV
            files have them, uint8, int16 or int32.

    Raises:
        BadSamples: it is no such array.
    """
    if isinstance(raw, Recording):
        return raw
    kind = raw.dtype.name if isinstance(raw, np.ndarray) else None
    said = type(raw).__name__ if kind is None else f"{kind} of shape {raw.shape}"
    if kind in PCM_BITS and raw.ndim == 2 and raw.shape[1] > MOST_CHANNELS:
        hint = "frames first, then channels: is it to be `.T`?"
        raise BadSamples(f"{said} would have {raw.shape[1]} channels", hint=hint)
    if kind not in PCM_BITS or raw.ndim not in (1, 2) or not raw.size:
        hint = "floats, int16, int32 or uint8 of shape (frames,) or (frames, channels)"
        raise BadSamples(f"{said} is no recording", hint=hint)
    values = raw if raw.ndim == 1 else raw.astype(np.float64).mean(axis=1)
    if bits := PCM_BITS[kind]:
        middle = 128 if kind == "uint8" else 0
        values = (values.astype(np.float64) - middle) / (1 << bits - 1)
    return Recording(values.astype(np.float32), rate)


def resample(values: np.ndarray, given: int, wanted: int) -> np.ndarray:
    """Sound at another rate, band-limited.

    A windowed sinc in polyphase form, as J. O. Smith describes it (Digital Audio Resampling, CCRMA,
    Stanford): 32 crossings to either side, a Kaiser window of beta 9, the edge at 0.91 of the lower
    Nyquist frequency, so that what would fold back is 90 dB down. Taps are multiples of 2**-26:
    sums over sound of 24 bits are then exact in double precision, and the same on every machine.

    Args:
        values: float32 of shape [frames].
        given, wanted: frames a second.

    Returns:
        float32 of shape [ceil(frames * wanted / given)]; the first frame stays at its time.
    """
    if given == wanted:
        return values
    divisor = math.gcd(given, wanted)
    up, down = wanted // divisor, given // divisor
    taps = _taps(up, down)
    half = taps.shape[1] // 2
    padded = np.pad(values.astype(np.float64), half)
    windows = sliding_window_view(padded, taps.shape[1])
    count = -(-len(values) * up // down)
    found = np.empty(count)
    for phase in range(min(up, count)):
        first, offset = divmod(phase * down, up)
        places = found[phase::up]
        np.einsum("nk,k->n", windows[first::down][: len(places)], taps[offset], out=places)
    return found.astype(np.float32)


@lru_cache(maxsize=4)
def _taps(up: int, down: int) -> np.ndarray:
    """The filter for each of `up` offsets between two frames, float64 of shape [up, taps]."""
    edge = ROLLOFF * min(1.0, up / down)
    reach = CROSSINGS / edge
    half = math.ceil(reach) + 1
    times = np.arange(up)[:, None] / up - np.arange(-half, half + 1)
    inside = np.clip(1 - (times / reach) ** 2, 0, None)
    window = np.i0(KAISER_BETA * np.sqrt(inside)) * (inside > 0)
    taps = np.sinc(edge * times) * window
    taps /= taps.sum(axis=1, keepdims=True)
    return np.asarray(np.rint(taps * TAP_STEPS) / TAP_STEPS)
