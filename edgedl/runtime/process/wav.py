"""WAV files, read by the standard library: PCM of 8, 16, 24 and 32 bits, and float32.

The format is that of Multimedia Programming Interface and Data Specifications 1.0 (IBM and
Microsoft, 1991), with WAVE_FORMAT_EXTENSIBLE. Python's own `wave` knows no float32.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from edgedl.core.errors import BadSamples

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
KINDS = ((PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32))
STREAMED = (0, 0xFFFFFFFF)
MOST_CHANNELS = 64
MOST_FORMAT_BYTES = 4096
RATES = (1_000, 768_000)
CONVERT = "write it as 16-bit PCM: ffmpeg -i IN -c:a pcm_s16le OUT.wav"


@dataclass(frozen=True)
class Format:
    """How a file's samples are stored, and where: `frames` of them from byte `start` on."""

    tag: int
    bits: int
    channels: int
    rate: int
    start: int
    frames: int


def read_wav(path: str | Path, seconds: float | None = None) -> tuple[np.ndarray, int]:
    """The sound of a WAV file and its frames a second; the whole of it, or its beginning.

    Returns:
        float32 of shape [frames], the mean of the channels; PCM runs from -1 to below 1.

    Raises:
        BadSamples: the file is missing, truncated, empty, or no WAV file of a kind that is read.
    """
    try:
        with Path(path).open("rb") as file:
            found = _format(file, str(path))
            frames = found.frames
            if seconds is not None:
                frames = min(frames, int(seconds * found.rate) + 1)
            file.seek(found.start)
            data = file.read(frames * found.channels * found.bits // 8)
    except FileNotFoundError as error:
        raise _bad(str(path), "no such file") from error
    except OSError as error:
        raise _bad(str(path), f"cannot be read ({error.strerror})") from error
    values = _values(data, found).reshape(-1, found.channels)
    if not np.isfinite(values).all():
        raise _bad(str(path), "holds values that are not finite", CONVERT)
    if found.channels == 1:
        return values[:, 0].astype(np.float32), found.rate
    total = values.astype(np.float64).sum(axis=1)
    return (total / found.channels).astype(np.float32), found.rate


def _format(file: IO[bytes], where: str) -> Format:
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise _bad(where, "not a WAV file", CONVERT)
    streamed = int.from_bytes(head[4:8], "little") in STREAMED
    length = os.fstat(file.fileno()).st_size
    described: bytes | None = None
    while len(head := file.read(8)) == 8:
        name, size = head[:4], int.from_bytes(head[4:], "little")
        if name == b"data":
            if described is None:
                break
            left = length - file.tell()
            size = left if streamed and size in STREAMED else size
            return _described(described, file.tell(), size, left, where)
        if name == b"fmt ":
            described = file.read(min(size, MOST_FORMAT_BYTES))
            size -= len(described)
        file.seek(size + size % 2, os.SEEK_CUR)
    raise _bad(where, "a WAV file without sound in it")


def _described(described: bytes, start: int, size: int, left: int, where: str) -> Format:
    if len(described) < 16:
        raise _bad(where, "its format is damaged")
    tag, channels, rate, _, block, bits = struct.unpack("<HHIIHH", described[:16])
    if tag == EXTENSIBLE and len(described) >= 26:
        tag = int.from_bytes(described[24:26], "little")
    if (tag, bits) not in KINDS:
        kind = {PCM: "PCM", FLOAT: "float"}.get(tag, f"format {tag}")
        raise _bad(where, f"{kind} of {bits} bits is not read", CONVERT)
    if not 1 <= channels <= MOST_CHANNELS or block != channels * bits // 8:
        raise _bad(where, f"claims {channels} channels in {block} bytes", CONVERT)
    if not RATES[0] <= rate <= RATES[1]:
        raise _bad(where, f"claims {rate} frames a second", CONVERT)
    if size > left:
        raise _bad(where, f"{left} bytes of sound, but says {size}: truncated")
    if size < block:
        raise _bad(where, "a WAV file without sound in it")
    return Format(tag, bits, channels, rate, start, size // block)


def _values(data: bytes, found: Format) -> np.ndarray:
    if found.tag == FLOAT:
        return np.frombuffer(data, "<f4")
    if found.bits == 8:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    if found.bits == 16:
        return np.frombuffer(data, "<i2").astype(np.float32) / 2**15
    if found.bits == 32:
        return (np.frombuffer(data, "<i4") / 2**31).astype(np.float32)
    wide = np.zeros((len(data) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return (wide.view("<i4")[:, 0] / 2**31).astype(np.float32)


def _bad(where: str, reason: str, hint: str = "remove it, or put a sound one") -> BadSamples:
    return BadSamples(reason, where=where, hint=hint)
