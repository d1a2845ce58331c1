"""Log-mel and MFCC: by hand where arithmetic is the point, and what must hold of any sound."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.errors import BadSamples, BadValue
from edgedl.runtime.process.features import Features, to_hertz, to_mel
from edgedl.runtime.process.sound import Recording, Sound
from tests.sounds import tone, wav

TINY = {"rate": 1000, "window": 8, "hop": 8, "low": 0.0, "floor": 1e-9}


def recording(values: Any, rate: int) -> Recording:
    return Recording(np.asarray(values, np.float32), rate)


def test_mel_scales_by_hand() -> None:
    # 2595 log10(1 + 700/700) = 2595 log10 2
    assert to_mel(np.array([0.0, 700.0]), "htk").tolist() == [0, pytest.approx(781.1728)]
    # linear: 200/3 Hz a mel, 15 of them are 1 kHz; 27 more for each factor of 6.4
    assert to_mel(np.array([200 / 3, 1000.0, 6400.0]), "slaney") == pytest.approx([1, 15, 42])


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@given(hertz=st.floats(0, 24_000))
def test_mel_goes_back(scale: str, hertz: float) -> None:
    assert to_hertz(to_mel(np.array([hertz]), scale), scale)[0] == pytest.approx(hertz, abs=1e-6)


def test_one_band_of_a_constant_by_hand() -> None:
    features = Features(bands=1, length=8, **TINY)
    # corners 0, 700 (sqrt(12/7) - 1) = 216.515 and 500 Hz; points every 125 Hz
    middle = 700 * (math.sqrt(12 / 7) - 1)
    rises, falls = 125 / middle, 500 - middle
    wanted = [0, rises, 250 / falls, 125 / falls, 0]
    assert features.filters[0] == pytest.approx(wanted)
    # the periodic Hann window of 8 has the spectrum 4, -2, 0, 0, 0
    found = features.apply(recording(np.ones(8), 1000))
    assert found.shape == (1, 1, 1, 1)
    assert found.item() == pytest.approx(math.log(4 * rises), abs=1e-6)


def test_silence_is_the_floor() -> None:
    features = Features(bands=2, length=16, **TINY)
    found = features.apply(recording(np.zeros(16), 1000))
    assert found.reshape(-1) == pytest.approx([math.log(1e-9)] * 4)


def test_triangles_of_one_area() -> None:
    points = Features(8000, bands=10, window=400, points=8192, area=True).filters
    # the area under a triangle is width / 2 * 2 / width = 1, in Hz
    assert points.sum(axis=1) * 8000 / 8192 == pytest.approx(np.ones(10), rel=0.01)


def test_two_cepstral_coefficients_by_hand() -> None:
    values = np.random.default_rng(0).standard_normal(8) / 4
    mel = Features(bands=2, length=8, layout="ft", **TINY)
    cepstral = Features(bands=2, length=8, layout="ft", of="mfcc", coefficients=2, **TINY)
    a, b = mel.apply(recording(values, 1000))[:, 0]
    found = cepstral.apply(recording(values, 1000))[:, 0]
    assert found == pytest.approx([(a + b) / math.sqrt(2), (a - b) / math.sqrt(2)], rel=1e-5)


def test_cepstral_coefficients_of_all_bands_keep_the_energy() -> None:
    values = np.random.default_rng(1).standard_normal(800) / 4
    common: dict[str, Any] = {"rate": 8000, "bands": 20, "layout": "tf"}
    mel = Features(**common).apply(recording(values, 8000))
    cepstral = Features(of="mfcc", coefficients=20, **common).apply(recording(values, 8000))
    assert np.square(cepstral).sum(axis=1) == pytest.approx(np.square(mel).sum(axis=1), rel=1e-4)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("hertz", [400, 1000, 2500])
def test_a_tone_lies_in_its_band(scale: Any, hertz: int) -> None:
    features = Features(8000, mel=scale, layout="tf", bands=30)
    ends = to_mel(np.array([20.0, 4000.0]), scale)
    middles = to_hertz(np.linspace(*ends, 32), scale)[1:-1]
    found = features.apply(recording(tone(hertz, 8000, 0.5), 8000))
    assert (found.argmax(axis=1) == np.abs(middles - hertz).argmin()).mean() > 0.9


def test_twice_as_loud_is_log_4_more() -> None:
    values = np.random.default_rng(2).standard_normal(2000) / 10
    features = Features(8000, bands=20)
    quiet, loud = (features.apply(recording(values * k, 8000)) for k in (1, 2))
    assert np.abs(loud - quiet - math.log(4)).max() < 1e-4


def test_a_hop_later_is_a_frame_later() -> None:
    values = np.random.default_rng(3).standard_normal(2000) / 10
    features = Features(8000, layout="tf", bands=20)
    found = features.apply(recording(values, 8000))
    later = features.apply(recording(values[160:], 8000))
    assert len(found) == 1 + (2000 - 400) // 160 == 11
    assert np.array_equal(found[1:], later)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("ncft", (1, 1, 12, 5)), ("nctf", (1, 1, 5, 12)), ("nft", (1, 12, 5)), ("ntf", (1, 5, 12)),
     ("cft", (1, 12, 5)), ("ctf", (1, 5, 12)), ("ft", (12, 5)), ("tf", (5, 12))],
)  # fmt: skip
def test_layouts(layout: Any, shape: tuple[int, ...]) -> None:
    features = Features(8000, length=1040, bands=12, layout=layout)
    found = features.apply(recording(tone(500, 8000, 0.1), 8000))
    assert features.shape == found.shape == shape
    wanted = Features(8000, length=1040, bands=12, layout="ft")
    flat = wanted.apply(recording(tone(500, 8000, 0.1), 8000))
    squeezed = found.reshape(shape[-2:])
    assert np.array_equal(squeezed if layout.endswith("ft") else squeezed.T, flat)


def test_normalised_by_band() -> None:
    common: dict[str, Any] = {"rate": 8000, "bands": 2, "layout": "tf", "low": 300.0}
    values = np.random.default_rng(4).standard_normal(400)
    plain = Features(**common).apply(recording(values, 8000))
    found = Features(mean=(1.0, 2.0), std=(2.0, 4.0), **common).apply(recording(values, 8000))
    assert found == pytest.approx((plain - [1, 2]) / [2, 4], abs=1e-5)


def test_a_file_and_its_other_rate(tmp_path: Path) -> None:
    values = (tone(440, 16_000, 0.5) * 20_000).astype("<i2")
    path = wav(tmp_path, values.tobytes(), rate=16_000)
    features = Features(8000, length=4000, bands=20)
    found = features.apply(features.decode(path))
    sound = Sound(8000, 4000, layout="t").apply(Sound(8000, 4000).decode(path))
    assert np.array_equal(found, features.apply(recording(sound, 8000)))


def test_a_short_recording_is_filled_up_or_refused() -> None:
    assert Features(8000, length=800, bands=20).apply(recording([0.5], 8000)).shape == (1, 1, 20, 3)
    with pytest.raises(BadSamples, match="less than the window") as caught:
        Features(8000, bands=20).apply(recording(np.ones(399), 8000))
    assert "length" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"rate": 5}, "rate"),
        ({"rate": 8000, "length": 399}, "length"),
        ({"rate": 8000, "window": 1}, "window"),
        ({"rate": 8000, "hop": 0}, "hop"),
        ({"rate": 8000, "points": 256}, "points"),
        ({"rate": 8000, "bands": 0}, "bands"),
        ({"rate": 8000, "bands": 256}, "bands"),
        ({"rate": 8000, "of": "mfcc", "coefficients": 41}, "coefficients"),
        ({"rate": 8000, "high": 4001.0}, "high"),
        ({"rate": 8000, "low": 4000.0}, "low"),
        ({"rate": 8000, "floor": 0.0}, "floor"),
        ({"rate": 8000, "std": (0.0,)}, "std"),
        ({"rate": 8000, "bands": 20, "mean": (0.0, 1.0)}, "mean"),
        ({"rate": 8000, "length": 1 << 27, "hop": 1}, "hop"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(BadValue) as caught:
        Features(**settings)
    assert caught.value.keys == (key,)
    assert caught.value.hint
