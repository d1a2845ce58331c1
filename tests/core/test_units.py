"""Sizes, times and drops, read and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.errors import BadOption
from edgedl.core.units import (
    format_bytes,
    format_ms,
    format_seconds,
    parse_bytes,
    parse_drop,
    parse_ms,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500kB", 500_000),
        ("2MB", 2_000_000),
        ("2mb", 2_000_000),
        ("1.5 GB", 1_500_000_000),
        (" 12 ", 12),
        ("12B", 12),
        (".5kB", 500),
        ("1e3", 1000),
        ("0", 0),
    ],
)
def test_parse_bytes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5ms", 5.0), ("800us", 0.8), ("1s", 1000.0), ("5", 5.0), ("0.5 s", 500.0)],
)
def test_parse_ms(text: str, expected: float) -> None:
    assert parse_ms(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"), [("1%", 0.01), ("0.01", 0.01), ("0", 0.0), ("100%", 1.0), ("1", 1.0)]
)
def test_parse_drop(text: str, expected: float) -> None:
    assert parse_drop(text) == pytest.approx(expected)


@pytest.mark.parametrize("parse", [parse_bytes, parse_ms, parse_drop])
@pytest.mark.parametrize(
    "text", ["", "kB", "-1", "5 parsecs", "1,5", "nan", "inf", "1..2", "1e", "1e999"]
)
def test_nonsense_is_refused_with_an_example(parse: object, text: str) -> None:
    with pytest.raises(BadOption) as caught:
        parse(text)  # type: ignore[operator]
    assert f"`{text}`" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("parse", "text"),
    [(parse_bytes, "5ms"), (parse_ms, "5MB"), (parse_drop, "5ms"), (parse_drop, "101%")],
)
def test_units_of_another_kind_are_refused(parse: object, text: str) -> None:
    with pytest.raises(BadOption) as caught:
        parse(text)  # type: ignore[operator]
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (14_200_000, "14.2 MB"),
        (2_500_000_000, "2.5 GB"),
        (3_000_000_000_000, "3000 GB"),
    ],
)
def test_format_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (4.412, "4.41 ms"),
        (0.0123, "12.3 us"),
        (0.5, "0.5 ms"),
        (123.4, "123 ms"),
        (4321.0, "4321 ms"),
    ],
)
def test_format_ms(milliseconds: float, text: str) -> None:
    assert format_ms(milliseconds) == text


@given(st.integers(0, 10**13))
def test_bytes_come_back_to_three_digits(count: int) -> None:
    text = format_bytes(count)
    assert parse_bytes(text) == pytest.approx(count, rel=0.005)
    assert "e" not in text


@given(st.floats(1e-3, 1e6))
def test_times_come_back_to_three_digits(milliseconds: float) -> None:
    text = format_ms(milliseconds)
    assert parse_ms(text) == pytest.approx(milliseconds, rel=0.005)
    assert "e" not in text


@pytest.mark.parametrize("count", [999_499, 999_500, 999_999, 999_999_999])
def test_sizes_just_below_the_next_unit_are_written_plainly(count: int) -> None:
    assert "e" not in format_bytes(count)


@pytest.mark.parametrize("milliseconds", [0.09999, 0.0999999, 999.4, 999.7])
def test_times_just_below_the_next_unit_are_written_plainly(milliseconds: float) -> None:
    assert "e" not in format_ms(milliseconds)


@given(st.floats(0, 1))
def test_a_drop_in_points_is_a_hundredth_of_its_fraction(drop: float) -> None:
    assert parse_drop(f"{100 * drop:.6f}%") == pytest.approx(drop, abs=1e-8)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (99.4, "99 s"),
        (99.6, "1 min 40 s"),
        (120, "2 min"),
        (599.6, "10 min"),
        (3569, "59 min"),
        (3599, "1 h"),
        (7510, "2 h 5 min"),
    ],
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
