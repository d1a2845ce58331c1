"""Lines that were kept, and what a kill, a full disk or another process may leave of them."""

from __future__ import annotations

import math
import os
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgedl
from edgedl.core.ledger import Ledger

ROWS = [{"what": "a", "us": 1.5}, {"what": "b", "us": 2}]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "folder" / "one.jsonl")


def test_what_was_added_is_read_back_oldest_first(ledger: Ledger) -> None:
    assert list(ledger.rows()) == []
    ledger.add(ROWS)
    ledger.add([{"what": "Größe", "with": ["\n", "\u2028", "\x1c"]}])
    assert list(ledger.rows()) == [*ROWS, {"what": "Größe", "with": ["\n", "\u2028", "\x1c"]}]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=5))
def test_any_plain_rows_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "one.jsonl")
    ledger.add(rows)
    assert list(ledger.rows()) == rows


@pytest.mark.parametrize("cut", range(1, 23))
def test_a_line_that_a_kill_cut_costs_no_other_line(cut: int, ledger: Ledger) -> None:
    ledger.add(ROWS)
    whole = ledger.path.read_bytes()
    last = whole.rindex(b"{")
    assert len(whole) - last > cut > 0
    ledger.path.write_bytes(whole[: last + cut])
    ledger.add([{"what": "c"}])
    ledger.add([{"what": "d"}])
    found = [row["what"] for row in ledger.rows()]
    complete = last + cut >= len(whole) - 1
    assert found == ["a", *(["b"] if complete else []), "c", "d"]


@pytest.mark.parametrize(
    "damage", [b"\xff\xfe\n", b"\x00" * 64 + b"\n", b"null\n", b"[1]\n", b"{}x\n", b"\n\n"]
)
def test_damage_between_lines_is_passed_over(damage: bytes, ledger: Ledger) -> None:
    ledger.add(ROWS[:1])
    ledger.path.write_bytes(ledger.path.read_bytes() + damage)
    ledger.add(ROWS[1:])
    assert list(ledger.rows()) == ROWS


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
def test_a_figure_that_json_does_not_have_costs_its_own_row_alone(
    strange: float, ledger: Ledger
) -> None:
    ledger.add([ROWS[0], {"what": "x", "us": strange}, ROWS[1]])
    assert list(ledger.rows()) == ROWS


def test_a_store_that_cannot_be_written_or_read_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.jsonl").mkdir()
    for path in (tmp_path / "file" / "one.jsonl", tmp_path / "folder.jsonl"):
        Ledger(path).add(ROWS)
        assert list(Ledger(path).rows()) == []


def test_other_parts_are_another_ledger() -> None:
    first = Ledger.of("kind", machine="a", threads=1)
    assert first == Ledger.of("kind", threads=1, machine="a")
    others = [
        Ledger.of("kind", machine="a", threads=2),
        Ledger.of("kind", machine="b", threads=1),
        Ledger.of("other", machine="a", threads=1),
        Ledger.of("kind", machine="a"),
    ]
    assert len({first.path, *(ledger.path for ledger in others)}) == 5


def test_another_version_reads_nothing_of_this_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Ledger.of("kind", machine="a")
    monkeypatch.setattr(edgedl, "__version__", "99.0")
    assert Ledger.of("kind", machine="a") != mine


def _write(path: Path, name: str) -> None:
    for number in range(40):
        Ledger(path).add([{"name": name, "number": number, "long": "x" * 3000}] * 3)


def test_processes_that_write_at_once_lose_nothing(ledger: Ledger) -> None:
    context = get_context("spawn")
    both = [context.Process(target=_write, args=(ledger.path, name)) for name in "ab"]
    for process in both:
        process.start()
    for process in both:
        process.join()
    found = [(row["name"], row["number"]) for row in ledger.rows()]
    for name in "ab":
        assert [n for one, n in found if one == name] == [n for n in range(40) for _ in range(3)]


def test_a_file_that_grew_too_long_keeps_its_latest_lines(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "one.jsonl", most_bytes=1000)
    for number in range(200):
        ledger.add([{"number": number}])
        found = [row["number"] for row in ledger.rows()]
        assert found == list(range(found[0], number + 1))
        assert ledger.path.stat().st_size <= 1000
    assert 20 < len(found) < 70
    ledger.add([{"number": number} for number in range(200, 400)])
    assert [row["number"] for row in ledger.rows()][-20:] == list(range(380, 400))
    assert ledger.path.stat().st_size <= 500
    assert [path.name for path in tmp_path.iterdir()] == ["one.jsonl"]


def test_a_file_that_nothing_was_added_to_for_half_a_year_goes(tmp_path: Path) -> None:
    old, late, new = (Ledger(tmp_path / f"{name}.jsonl") for name in ("old", "late", "new"))
    old.add(ROWS)
    late.add(ROWS)
    for ledger, days in ((old, 181), (late, 179)):
        then = ledger.path.stat().st_mtime - days * 86_400
        os.utime(ledger.path, (then, then))
    late.add(ROWS)
    assert old.path.exists()  # only a new file tidies
    new.add(ROWS)
    assert not old.path.exists()
    assert len(list(late.rows())) == 4
    assert list(new.rows()) == ROWS
