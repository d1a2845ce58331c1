"""WAV files, written byte by byte, and tones."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np


def chunk(name: bytes, data: bytes, claims: int | None = None) -> bytes:
    """A RIFF chunk, padded to an even length."""
    return (
        name
        + struct.pack("<I", len(data) if claims is None else claims)
        + data
        + bytes(len(data) % 2)
    )


def wav(
    folder: Path,
    data: bytes,
    *,
    name: str = "sound.wav",
    bits: int = 16,
    tag: int = 1,
    channels: int = 1,
    rate: int = 16_000,
    extensible: bool = False,
    before: bytes = b"",
    after: bytes = b"",
    claims: int | None = None,
    whole: int | None = None,
) -> Path:
    """A WAV file of this sound data, which claims to be as many bytes, and the whole file, too."""
    block = channels * bits // 8
    written = 0xFFFE if extensible else tag
    described = struct.pack("<HHIIHH", written, channels, rate, (rate * block) % 2**32, block, bits)
    if extensible:
        described += struct.pack("<HHIH", 22, bits, 0, tag) + bytes(14)
    body = b"WAVE" + chunk(b"fmt ", described) + before + chunk(b"data", data, claims)
    body += after
    path = folder / name
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body) if whole is None else whole) + body)
    return path


def tone(hertz: float, rate: int, seconds: float) -> np.ndarray:
    """A sine from its zero on, float32."""
    times = np.arange(int(rate * seconds) + 1) / rate
    return np.sin(2 * np.pi * hertz * times[: int(rate * seconds)]).astype(np.float32)
