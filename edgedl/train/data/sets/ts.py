"""Time series as the UCR and UEA archives write them: `.ts` text (Löning et al., sktime, 2019)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgedl.core.errors import BadSamples


def read_ts(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """Each series float32 of shape [frames, channels], and its class.

    Raises:
        BadSamples: the file is none of these: without classes, with time stamps, or with gaps.
    """
    head: dict[str, str] = {}
    series: list[np.ndarray] = []
    labels: list[str] = []
    data = False
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if not data:
            key, _, value = stripped.partition(" ")
            head[key.lower()] = value.strip().lower()
            data = key.lower() == "@data"
            continue
        *channels, label = stripped.split(":")
        try:
            rows = [[float(cell) for cell in channel.split(",")] for channel in channels]
            values = np.array(rows, np.float32).T
        except ValueError as error:
            raise _bad(path, f"line {number} is no series ({str(error)[:80]})") from error
        if values.ndim != 2 or not values.size or not np.isfinite(values).all():
            raise _bad(path, f"line {number} is no series of finite numbers")
        series.append(values)
        labels.append(label.strip())
    if head.get("@timestamps") == "true" or not head.get("@classlabel", "false").startswith("true"):
        raise _bad(path, "series with time stamps, or without classes, are not read")
    if not series or len({values.shape[1] for values in series}) != 1:
        raise _bad(path, "it holds no series, or of unlike channels")
    return series, labels


def _bad(path: Path, message: str) -> BadSamples:
    return BadSamples(message, where=str(path), hint="remove it, and fetch it anew")
