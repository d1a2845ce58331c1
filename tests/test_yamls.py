"""YAML read into plain data: its lines, its words, and what is never read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.errors import BadValue
from edgedl.yamls import Located, read_yaml


def read(folder: Path, text: str | bytes) -> Located:
    path = folder / "spec.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path)


def test_plain_data_and_the_line_of_everything(tmp_path: Path) -> None:
    found = read(tmp_path, "# a comment\na: 1\nb:\n  c: [x,\n    y]\n\n  d: {e: 2.5}\n")
    assert found.data == {"a": 1, "b": {"c": ["x", "y"], "d": {"e": 2.5}}}
    assert found.lines == {
        (): 2, ("a",): 2, ("b",): 3, ("b", "c"): 4, ("b", "c", 0): 4, ("b", "c", 1): 5,
        ("b", "d"): 7, ("b", "d", "e"): 7,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("true", True), ("False", False), ("~", None), ("", None),
        ("1e-3", 0.001), (".5", 0.5), ("010", 10), ("0x1F", "0x1F"), ("1/255", "1/255"),
        ("2026-01-02", "2026-01-02"), ("1:30", "1:30"), ("-7", -7), ("'7'", "7"), (".nan", ".nan"),
        ("!!str 7", "7"), ("99999999999999999999", 1e20),
    ],
)  # fmt: skip
def test_words_and_numbers_as_yaml_1_2_has_them(text: str, value: Any, tmp_path: Path) -> None:
    found = read(tmp_path, f"a: {text}\n").data["a"]
    assert found == value
    assert type(found) is type(value)


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, "").data is None
    assert read(tmp_path, "\ufeff# only a comment\n").data is None


WRONG: dict[str, tuple[str | bytes, int | None, str]] = {
    "a key twice": ("a: 1\nb: 2\na: 3\n", 3, "`a` stands here a second time, after line 1"),
    "a key twice, inside": ("a:\n  b: 1\n  b: 2\n", 3, "second time"),
    "an alias": ("a: &x 1\nb: *x\n", 2, "the alias `*x` is not read"),
    "a Python tag": ("a: !!python/object:os.system x\n", 1, "`!!python/object:os.system`"),
    "a tag of one's own": ("a: !env HOME\n", 1, "the tag `!env` is not read"),
    "a set": ("!!set {a, b}\n", 1, "`!!set`"),
    "a tag that lies": ("a: !!int abc\n", 1, "`abc` is no int"),
    "two documents": ("a: 1\n---\nb: 1\n", 2, "another document"),
    "a number as key": ("a: 1\n2: b\n", 2, "not text"),
    "a list as key": ("[1]: b\n", 1, "not text"),
    "an open bracket": ("a: [1,\n  2\n", 3, "expected"),
    "a tab": ("a:\n\tb: 1\n", 2, "\\t"),
    "a control character": ("a: 1\nb: \x07\n", 2, "U+0007"),
    "bytes that are no text": (b"a: 1\nb: \xff\n", 2, "UTF-8"),
    "half a character": ('a: "\\ud83d"\n', 1, "half a character"),
    "a number too large": ("a: 1e999\n", 1, "too large"),
    "a megabyte and more": ("a: " + "x" * 1_000_000, None, "1 MB"),
    "a hundred thousand brackets": ("[" * 100_000, None, "too deep"),
}


@pytest.mark.parametrize(("text", "line", "says"), WRONG.values(), ids=WRONG)
def test_what_is_not_read(text: str | bytes, line: int | None, says: str, tmp_path: Path) -> None:
    with pytest.raises(BadValue) as caught:
        read(tmp_path, text)
    path = str(tmp_path / "spec.yaml")
    assert caught.value.where == (path if line is None else f"{path}:{line}")
    assert says in caught.value.message
    assert caught.value.hint


def test_a_second_document_is_to_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(BadValue) as caught:
        read(tmp_path, "a: 1\n---\nb: 1\n")
    assert "behind `---`" in (caught.value.hint or "")


def test_laughs_are_not_multiplied(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    with pytest.raises(BadValue, match="alias"):
        read(tmp_path, "\n".join(lines))


@pytest.mark.parametrize("name", ["none.yaml", "."])
def test_a_file_that_is_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadValue) as caught:
        read_yaml(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)


def test_an_error_stands_at_the_nearest_line_that_is_known(tmp_path: Path) -> None:
    found = read(tmp_path, "a: 1\nb:\n  c: 2\n")
    assert found.error(("b", "c"), "m").where == f"{found.path}:3"
    assert found.error(("b", "absent", 4), "m").where == f"{found.path}:2"
    assert found.error((), "m", "h").hint == "h"

    def reader(data: Any) -> None:
        raise BadValue("unknown key `c`", keys=("b", "c"), hint="did you mean `d`?")

    with pytest.raises(BadValue) as caught:
        found.read(reader)
    assert str(caught.value) == f"{found.path}:3: unknown key `c`"
    assert caught.value.hint == "did you mean `d`?"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_json_is_yaml(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    folder = tmp_path_factory.getbasetemp()
    assert read(folder, json.dumps(document)).data == document
