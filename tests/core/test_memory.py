"""Memory figures in bytes that fit one another."""

from __future__ import annotations

import numpy as np

from edgedl.core.memory import available_bytes, peak_rss_bytes, total_bytes


def test_the_peak_covers_what_is_held() -> None:
    held = np.ones(8_000_000)
    peak, total = peak_rss_bytes(), total_bytes()
    assert peak is not None
    assert total is not None
    assert held.nbytes < peak < total


def test_available_is_part_of_the_whole() -> None:
    available, total = available_bytes(), total_bytes()
    assert available is not None
    assert total is not None
    assert 0 < available <= total
