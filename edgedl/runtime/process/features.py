"""Recordings to log-mel bands or cepstral coefficients (MFCC), by numpy alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edgedl.core.errors import BadSamples, BadValue
from edgedl.runtime.process.normalise import check_normal, normalised
from edgedl.runtime.process.sound import Recording, Sound

MOST_POINTS = 1 << 16
MOST_BANDS = 512
MOST_FRAMES = 1 << 16
# Slaney's scale: linear below 1 kHz, 27 bands for each factor of 6.4 above
LINEAR_HERTZ = 200 / 3
BREAK_HERTZ = 1000.0
BREAK_MEL = BREAK_HERTZ / LINEAR_HERTZ
LOG_STEP = np.log(6.4) / 27
HTK = 2595.0, 700.0


@dataclass(frozen=True)
class Features:
    """What turns a recording into an input: rate, window, spectrum, mel bands, logarithm, cosines.

    The recording is brought to `rate` and `length` as by `Sound`. Frame k is `window` values from
    `k * hop` on, nothing is padded, so that there are `1 + (length - window) // hop` frames. Each
    is multiplied by the periodic Hann window `0.5 - 0.5 cos(2 pi i / window)`, followed by zeros up
    to `points`, and its power is `|rfft|^2`. Band b is the sum of the power under a triangle that
    rises from corner b to b+1 and falls to b+2, linear in Hz, of peak 1; the `bands + 2` corners
    lie evenly on the mel scale from `low` to `high`. The value is `ln(max(power, floor))`; for MFCC
    the orthonormal DCT-II of a frame's bands, the first `coefficients` of them (Davis and
    Mermelstein, 1980). Then `(value - mean) / std`. All of it is computed in double precision and
    rounded once.

    Attributes:
        rate: values a second that the formulas take; recordings at others are resampled.
        length: values of the one stretch that is taken, from the beginning; shorter ones are
            followed by zeros. The whole recording where None.
        of: `log-mel`, or `mfcc`.
        window, hop: in values at `rate`.
        points: of the Fourier transform; the power of two not below `window` where None.
        high: in Hz; half the rate where None.
        mel: the scale; `htk` is 2595 log10(1 + f / 700), `slaney` is f / 66.7 below 1 kHz and
            15 + 27 ln(f / 1000) / ln 6.4 above.
        area: whether a triangle is divided by half its width in Hz, so that all have one area.
        floor: the least power.
        mean, std: one number, or one for each band or coefficient.
        layout: the axes of the input: `n` and `c` are 1, `f` bands or coefficients, `t` is time.
        input: the model's input; its only one where None.
    """

    kind: ClassVar[str] = "features"
    suffixes: ClassVar[frozenset[str]] = Sound.suffixes
    dtype: ClassVar[str] = "float32"

    rate: int
    length: int | None = None
    of: Literal["log-mel", "mfcc"] = "log-mel"
    window: int = 400
    hop: int = 160
    points: int | None = None
    bands: int = 40
    coefficients: int = 13
    low: float = 20.0
    high: float | None = None
    mel: Literal["htk", "slaney"] = "htk"
    area: bool = False
    floor: float = 1e-6
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["ncft", "nctf", "nft", "ntf", "cft", "ctf", "ft", "tf"] = "ncft"
    input: str | None = None

    def __post_init__(self) -> None:
        Sound(self.rate, self.length)
        self._check_frames()
        if not 1 <= self.bands <= MOST_BANDS:
            raise BadValue(f"`bands` is {self.bands}", keys=("bands",), hint=f"1 to {MOST_BANDS}")
        if self.of == "mfcc" and not 1 <= self.coefficients <= self.bands:
            message = f"`coefficients` is {self.coefficients}, of {self.bands} bands"
            raise BadValue(message, keys=("coefficients",), hint="not more than `bands`")
        if not 0 <= self.low < self._high <= self.rate / 2:
            message = f"bands from {self.low:g} to {self._high:g} Hz"
            hint = f"0 <= low < high <= {self.rate / 2:g}, half of `rate`"
            raise BadValue(message, keys=("low" if self.high is None else "high",), hint=hint)
        if not 0 < self.floor <= 1:
            message = f"`floor` is {self.floor:g}"
            raise BadValue(message, keys=("floor",), hint="a small power, like 1e-6")
        what = "bands" if self.of == "log-mel" else "coefficients"
        check_normal(self.mean, self.std, self.rows, what)
        if not (self.filters.sum(axis=1) > 0).all():
            empty = int(np.argmin(self.filters.sum(axis=1)))
            message = f"band {empty} of {self.bands} lies between two points of the spectrum"
            raise BadValue(message, keys=("bands",), hint="fewer bands, more `points`, more `low`")

    def _check_frames(self) -> None:
        if not 2 <= self.window <= MOST_POINTS:
            hint = f"2 to {MOST_POINTS} values; 25 ms are {self.rate // 40}"
            raise BadValue(f"`window` is {self.window}", keys=("window",), hint=hint)
        if not 1 <= self.hop <= MOST_POINTS:
            hint = f"1 to {MOST_POINTS} values; 10 ms are {self.rate // 100}"
            raise BadValue(f"`hop` is {self.hop}", keys=("hop",), hint=hint)
        if not self.window <= self._points <= MOST_POINTS:
            message = f"`points` is {self._points} for a window of {self.window}"
            raise BadValue(message, keys=("points",), hint=f"{self.window} to {MOST_POINTS}")
        if self.length is not None and self.length < self.window:
            message = f"`length` of {self.length} is less than the `window` of {self.window}"
            raise BadValue(message, keys=("length",), hint="a longer length, or a shorter window")
        if self.frames is not None and self.frames > MOST_FRAMES:
            message = f"`length` and `hop` make {self.frames} frames"
            raise BadValue(message, keys=("hop",), hint=f"{MOST_FRAMES} at most")

    @property
    def rows(self) -> int:
        """How many bands, or coefficients."""
        return self.bands if self.of == "log-mel" else self.coefficients

    @property
    def frames(self) -> int | None:
        """How many frames; None where it is the recording's own."""
        return None if self.length is None else 1 + (self.length - self.window) // self.hop

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of the input, None where it is the recording's own."""
        sizes = {"n": 1, "c": 1, "f": self.rows, "t": self.frames}
        return tuple(sizes[axis] for axis in self.layout)

    @property
    def decoder(self) -> str:
        """What decodes and transforms, and its version."""
        return "edgedl 1"

    @property
    def _points(self) -> int:
        return self.points or 1 << (self.window - 1).bit_length()

    @property
    def _high(self) -> float:
        return self.rate / 2 if self.high is None else self.high

    @cached_property
    def _sound(self) -> Sound:
        return Sound(self.rate, self.length, layout="t")

    @cached_property
    def _hann(self) -> np.ndarray:
        return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)

    @cached_property
    def filters(self) -> np.ndarray:
        """The triangles, float64 of shape [bands, points // 2 + 1]."""
        ends = to_mel(np.array([self.low, self._high]), self.mel)
        corners = to_hertz(np.linspace(ends[0], ends[1], self.bands + 2), self.mel)
        hertz = np.arange(self._points // 2 + 1) * self.rate / self._points
        left, middle, right = (corners[i : i + self.bands, None] for i in range(3))
        rising, falling = (hertz - left) / (middle - left), (right - hertz) / (right - middle)
        found = np.clip(np.minimum(rising, falling), 0, None)
        return np.asarray(found * 2 / (right - left) if self.area else found)

    @cached_property
    def _cosines(self) -> np.ndarray:
        """The orthonormal DCT-II, float64 of shape [coefficients, bands]."""
        places = (np.arange(self.bands) + 0.5) / self.bands
        found = np.cos(np.pi * np.arange(self.coefficients)[:, None] * places)
        found *= np.sqrt(2 / self.bands)
        found[0] /= np.sqrt(2)
        return np.asarray(found)

    def decode(self, path: str | Path) -> Recording:
        """The sound of a WAV file, no more of it than is taken.

        Raises:
            BadSamples: the file is missing, damaged, empty, or of a kind that is not read.
        """
        return self._sound.decode(path)

    def apply(self, raw: Recording | np.ndarray) -> np.ndarray:
        """The model's input, of a recording as `decode` gives it, or as a microphone does: float32,
        frames and features in the order of `layout`.

        Raises:
            BadSamples: it is none, or shorter than one window where `length` is None.
        """
        values = self._sound.apply(raw).astype(np.float64)
        if len(values) < self.window:
            message = f"{len(values)} values are less than the window of {self.window}"
            raise BadSamples(message, hint="give `length`, so that short recordings are filled up")
        if 1 + (len(values) - self.window) // self.hop > MOST_FRAMES:
            raise BadSamples("the recording is too long", hint="give `length`")
        frames = sliding_window_view(values, self.window)[:: self.hop] * self._hann
        power = np.abs(np.fft.rfft(frames, self._points, axis=1)) ** 2
        found = np.log(np.maximum(power @ self.filters.T, self.floor))
        if self.of == "mfcc":
            found = found @ self._cosines.T
        found = normalised(found, self.mean, self.std)
        found = found.T if self.layout.endswith("ft") else found
        lead = tuple(1 for axis in self.layout if axis in "nc")
        return np.ascontiguousarray(found).reshape(*lead, *found.shape)


def to_mel(hertz: np.ndarray, scale: str) -> np.ndarray:
    """Frequencies in Hz on the mel scale `htk` or `slaney`, in the shape that they have."""
    if scale == "htk":
        return np.asarray(HTK[0] * np.log10(1 + hertz / HTK[1]))
    above = BREAK_MEL + np.log(np.maximum(hertz, BREAK_HERTZ) / BREAK_HERTZ) / LOG_STEP
    return np.where(hertz < BREAK_HERTZ, hertz / LINEAR_HERTZ, above)


def to_hertz(mel: np.ndarray, scale: str) -> np.ndarray:
    """The inverse of `to_mel`: frequencies in Hz."""
    if scale == "htk":
        return np.asarray(HTK[1] * (10 ** (mel / HTK[0]) - 1))
    above = BREAK_HERTZ * np.exp(LOG_STEP * (np.maximum(mel, BREAK_MEL) - BREAK_MEL))
    return np.where(mel < BREAK_MEL, mel * LINEAR_HERTZ, above)
