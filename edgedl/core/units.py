"""Sizes, times and drops as people write them, both ways."""

from __future__ import annotations

import math
import re

from edgedl.core.errors import BadOption

BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-z%]*)\s*", re.IGNORECASE)


def _split(text: str, what: str, example: str) -> tuple[float, str]:
    match = NUMBER.fullmatch(text)
    if match is None:
        raise BadOption(f"`{text}` is not {what}", hint=f"write it like `{example}`")
    number = float(match[1])
    if not math.isfinite(number):
        raise BadOption(f"`{text}` is not {what}", hint=f"write it like `{example}`")
    return number, match[2].lower()


def parse_bytes(text: str) -> int:
    """Bytes in `500kB` or `2MB` (powers of ten); a bare number is bytes.

    Raises:
        BadOption: it is not written so.
    """
    number, unit = _split(text, "a size", "500kB")
    if unit and unit not in BYTES:
        raise BadOption(f"`{text}` is not a size", hint="units: B, kB, MB, GB, as in `500kB`")
    return round(number * BYTES[unit or "b"])


def parse_ms(text: str) -> float:
    """Milliseconds in `5ms`, `800us` or `1s`; a bare number is milliseconds.

    Raises:
        BadOption: it is not written so.
    """
    number, unit = _split(text, "a time", "5ms")
    if unit and unit not in MILLISECONDS:
        raise BadOption(f"`{text}` is not a time", hint="units: us, ms, s, as in `5ms`")
    return number * MILLISECONDS[unit or "ms"]


def parse_drop(text: str) -> float:
    """A drop as a fraction of the metric's scale: `1%` and `0.01` are both 0.01.

    Raises:
        BadOption: it is not written so, or more than all.
    """
    number, unit = _split(text, "a drop", "1%")
    if unit not in ("", "%") or (drop := number / 100 if unit else number) > 1:
        raise BadOption(f"`{text}` is not a drop", hint="write `1%` or `0.01`")
    return drop


def plural(count: int, name: str) -> str:
    """`1 epoch`, `12 epochs`, `54,000 samples`."""
    return f"{count:,} {name}" + "s" * (count != 1)


def format_bytes(count: float) -> str:
    """`14.2 MB`, in powers of ten, three significant digits."""
    return _scaled(count, (("B", 1), ("kB", 10**3), ("MB", 10**6), ("GB", 10**9)))


def format_ms(milliseconds: float) -> str:
    """`4.41 ms`, three significant digits; microseconds below a tenth of a millisecond."""
    if milliseconds < 0.1:
        return f"{milliseconds * 1000:.3g} us"
    return _scaled(milliseconds, (("ms", 1),))


def format_seconds(seconds: float) -> str:
    """`4.1 s`, `3 min 20 s`, `2 h 5 min`: no finer than anyone waits for."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10 and rest:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def _scaled(number: float, units: tuple[tuple[str, int], ...]) -> str:
    for unit, scale in units:
        if number / scale < 999.5:
            return f"{number / scale:.3g} {unit}"
    unit, scale = units[-1]
    return f"{number / scale:.0f} {unit}"
