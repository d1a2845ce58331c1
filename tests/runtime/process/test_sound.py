"""Recordings to inputs: files of every kind, resampling that keeps frequencies, windows."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.errors import BadSamples, BadValue
from edgedl.runtime.process.sound import Recording, Sound, resample
from edgedl.runtime.process.wav import read_wav
from tests.sounds import chunk, tone, wav

CODES = {
    "8 bits": (8, 1, bytes([0, 128, 255]), [-1.0, 0.0, 127 / 128]),
    "16 bits": (16, 1, struct.pack("<3h", -32768, 16384, 1), [-1.0, 0.5, 1 / 32768]),
    "24 bits": (
        24, 1, b"\x00\x00\x80" + b"\x00\x00\x40" + b"\x01\x00\x00" + b"\xff\xff\xff",
        [-1.0, 0.5, 2.0**-23, -(2.0**-23)],
    ),
    "32 bits": (32, 1, struct.pack("<2i", -(2**31), 2**30), [-1.0, 0.5]),
    "float32": (32, 3, struct.pack("<3f", -1.5, 0.25, 1e-9), [-1.5, 0.25, np.float32(1e-9)]),
}  # fmt: skip


@pytest.mark.parametrize(("bits", "tag", "data", "values"), CODES.values(), ids=CODES)
@pytest.mark.parametrize("extensible", [False, True])
def test_every_kind_by_hand(
    bits: int, tag: int, data: bytes, values: list[float], extensible: bool, tmp_path: Path
) -> None:
    path = wav(tmp_path, data, bits=bits, tag=tag, extensible=extensible, rate=8000)
    found, rate = read_wav(path)
    assert found.tolist() == values
    assert found.dtype == np.float32
    assert rate == 8000


def test_channels_are_mixed_to_their_mean(tmp_path: Path) -> None:
    data = struct.pack("<6h", 16384, 0, -16384, 16384, 32767, 32767)
    found, _ = read_wav(wav(tmp_path, data, channels=2))
    assert found.tolist() == [0.25, 0.0, 32767 / 32768]


def test_other_chunks_are_passed_over(tmp_path: Path) -> None:
    extra = chunk(b"LIST", b"odd") + chunk(b"fact", b"1234")
    found, _ = read_wav(wav(tmp_path, struct.pack("<h", 8192), before=extra))
    assert found.tolist() == [0.25]


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_stream_that_did_not_know_its_length(size: int, tmp_path: Path) -> None:
    path = wav(tmp_path, struct.pack("<2h", 8192, 0), claims=size, whole=size)
    assert read_wav(path)[0].tolist() == [0.25, 0.0]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "truncated": ({"claims": 100}, "truncated"),
    "empty": ({"data": b""}, "without sound"),
    "empty, and more behind": ({"data": b"", "after": chunk(b"LIST", b"abcd")}, "without sound"),
    "half a frame": ({"data": b"\x00"}, "without sound"),
    "float64": ({"bits": 64, "tag": 3, "data": bytes(8)}, "float of 64 bits is not read"),
    "mu-law": ({"bits": 8, "tag": 7}, "format 7 of 8 bits is not read"),
    "no channels": ({"channels": 0}, "claims 0 channels"),
    "a rate of 0": ({"rate": 0}, "claims 0 frames a second"),
    "a rate beyond hearing": ({"rate": 4_000_000_000}, "claims 4000000000 frames"),
    "not a number": (
        {"bits": 32, "tag": 3, "data": struct.pack("<2f", 0, np.nan)},
        "not finite",
    ),
}


@pytest.mark.parametrize(("options", "says"), REFUSED.values(), ids=REFUSED)
def test_files_that_are_refused(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    options = {"data": bytes(4), **options}
    path = wav(tmp_path, options.pop("data"), **options)
    with pytest.raises(BadSamples, match=says) as caught:
        read_wav(path)
    assert caught.value.where == str(path)
    assert caught.value.hint


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"RIFF\0\0\0\0AVI LIST", b"ID3 not a wav file", b"RIFF\0\0\0\0WAVE"]
)
def test_files_that_are_no_sound(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(BadSamples, match="WAV file"):
        read_wav(tmp_path / "a.wav")
    with pytest.raises(BadSamples, match="no such file"):
        read_wav(tmp_path / "absent.wav")


@given(st.binary(max_size=200))
def test_any_bytes_are_sound_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.wav"
    path.write_bytes(b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + content)
    try:
        values, _ = read_wav(path)
    except BadSamples as error:
        assert error.where == str(path)
    else:
        assert np.isfinite(values).all()


@pytest.mark.parametrize(
    ("given_rate", "wanted_rate"),
    [(44_100, 16_000), (48_000, 16_000), (8_000, 16_000), (22_050, 44_100), (44_101, 16_000)],
)
@pytest.mark.parametrize("share", [0.05, 0.4, 0.75])
def test_resampling_keeps_a_tone(given_rate: int, wanted_rate: int, share: float) -> None:
    hertz = share * min(given_rate, wanted_rate) / 2
    found = resample(tone(hertz, given_rate, 0.5), given_rate, wanted_rate)
    wanted = tone(hertz, wanted_rate, 0.5)
    assert len(found) == -(-(given_rate // 2) * wanted_rate // given_rate)
    middle = slice(len(found) // 4, -len(found) // 4)
    assert np.abs(found[middle] - wanted[: len(found)][middle]).max() < 1e-4
    spectrum = np.abs(np.fft.rfft(found[middle] * np.hanning(len(found[middle]))))
    peak = np.argmax(spectrum) * wanted_rate / len(found[middle])
    assert peak == pytest.approx(hertz, abs=wanted_rate / len(found[middle]))


def test_resampling_lets_nothing_fold_back() -> None:
    found = resample(tone(9_000, 44_100, 0.5), 44_100, 16_000)
    assert np.abs(found[1000:-1000]).max() < 10 ** (-90 / 20)


def test_resampling_keeps_a_constant_and_the_rate_that_is_right() -> None:
    flat = np.full(4_000, 0.5, np.float32)
    assert np.abs(resample(flat, 44_100, 16_000)[200:-200] - 0.5).max() < 1e-6
    assert resample(flat, 16_000, 16_000) is flat


@pytest.mark.parametrize("bits", [16, 24])
def test_sums_do_not_depend_on_their_order(bits: int) -> None:
    most = 2 ** (bits - 1)
    whole = np.random.default_rng(0).integers(-most, most, 3 * 666 + 1)
    values = (whole / most).astype(np.float32)
    # every third frame, from either end the same ones, by a filter that is the same backwards
    forth = resample(values, 48_000, 16_000)
    back = resample(values[::-1].copy(), 48_000, 16_000)
    assert len(forth) == 667
    assert np.array_equal(forth, back[::-1])


def test_a_recording_is_cut_or_followed_by_zeros() -> None:
    sound = Sound(rate=8_000, length=4)
    short = sound.apply(Recording(np.array([1, 2], np.float32), 8_000))
    assert short.tolist() == [[1, 2, 0, 0]]
    long = sound.apply(Recording(np.arange(9, dtype=np.float32), 8_000))
    assert long.tolist() == [[0, 1, 2, 3]]
    assert Sound(rate=8_000).apply(Recording(np.ones(3, np.float32), 8_000)).shape == (1, 3)


def test_normalising_by_hand() -> None:
    sound = Sound(rate=8_000, length=3, scale=32768, mean=100, std=2)
    found = sound.apply(Recording(np.array([0.5, -1], np.float32), 8_000))
    # (16384 - 100) / 2, (-32768 - 100) / 2, and the zeros behind, which are normalised too
    assert found.tolist() == [[8142, -16434, -50]]
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("nt", (1, 5)), ("nct", (1, 1, 5)), ("ntc", (1, 5, 1)), ("t", (5,)), ("ct", (1, 5))],
)
def test_layouts(layout: Any, shape: tuple[int, ...]) -> None:
    sound = Sound(rate=8_000, length=5, layout=layout)
    assert sound.shape == shape
    found = sound.apply(Recording(np.arange(5, dtype=np.float32), 8_000))
    assert found.shape == shape
    assert found.reshape(-1).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("given_rate", [8_000, 16_000, 44_100])
def test_no_more_is_read_than_the_window_takes(given_rate: int, tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(-3000, 3000, 2 * given_rate)
    path = wav(tmp_path, values.astype("<i2").tobytes(), rate=given_rate)
    sound = Sound(rate=16_000, length=4_000)
    part, whole = sound.decode(path), Sound(rate=16_000).decode(path)
    assert len(part.values) < len(whole.values) / 2
    assert np.array_equal(sound.apply(part), sound.apply(whole))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"rate": 10}, "rate"),
        ({"rate": 10**7}, "rate"),
        ({"rate": 8_000, "length": 0}, "length"),
        ({"rate": 8_000, "std": 0.0}, "std"),
        ({"rate": 8_000, "std": 1e-300}, "std"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(BadValue) as caught:
        Sound(**settings)
    assert caught.value.keys == (key,)
    assert caught.value.hint


def test_a_recording_beyond_float32_is_refused() -> None:
    loud = Recording(np.array([3e38], np.float32), 8_000)
    with pytest.raises(BadSamples, match="not finite"):
        Sound(rate=8_000, scale=100.0).apply(loud)


@pytest.mark.parametrize(
    "raw",
    [
        Recording(np.zeros((2, 2), np.float32), 8_000),
        Recording(np.zeros(0, np.float32), 8_000),
        Recording(np.zeros(3, np.float32), 0),
    ],
)
def test_recordings_that_are_none(raw: Recording) -> None:
    with pytest.raises(BadSamples, match="no recording"):
        Sound(rate=8_000).apply(raw)
