"""Every limit of the format is held, in words, before anything of that size is allocated."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgedl
from edgedl.core.errors import BadBundle
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.golden import Answer, Golden, pack, unpack
from edgedl.runtime.layout import ALIGN, HEADER, MAGIC, aligned
from edgedl.runtime.limits import LIMITS, manifest_of, strict_json
from edgedl.runtime.payload import Needs
from tests.runtime.shipped import payload, written

MOST_BYTES = 16 << 20


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle."""
    return written(tmp_path_factory.mktemp("limits") / "net.edl", [payload()])


def altered(bundle: Path, path: Path, change: Callable[[Any], None], version: int = 1) -> Path:
    """The bundle with its manifest changed, digests right, and parts where they then lie."""
    data = bundle.read_bytes()
    manifest = json.loads(data[HEADER.size : HEADER.size + HEADER.unpack_from(data)[4]])
    places = [(part["offset"], part["bytes"]) for part in manifest["parts"]]
    body = b"".join(data[a : a + n].ljust(aligned(n), b"\0") for a, n in places)
    change(manifest)
    room = 1 << 13
    while len(json.dumps(manifest)) > room - HEADER.size - ALIGN:
        room *= 2
    for part, (offset, _) in zip(manifest["parts"], places, strict=False):
        part["offset"] = offset - places[0][0] + room
    text = json.dumps(manifest).encode().ljust(room - HEADER.size - ALIGN + 1)
    header = HEADER.pack(
        MAGIC, version, 0, room + len(body), len(text), hashlib.sha256(text).digest()
    )
    path.write_bytes((header + text).ljust(room, b"\0") + body)
    return path


def first(key: str, value: Any) -> Callable[[Any], None]:
    return lambda manifest: manifest["payloads"][0].update({key: value})


def deep(levels: int) -> Any:
    found: Any = 1
    for _ in range(levels):
        found = [found]
    return found


def too_many_samples(manifest: Any) -> None:
    manifest["golden"]["samples"] *= LIMITS.golden_samples


NEEDS = {"version": {"least": "1", "most": "1"}, "machine": {"fingerprint": "0" * 64}}
BAD_NEEDS = {
    "a version of words": {"version": {"least": "new"}},
    "a version that is a number": {"version": {"least": 1}},
    "a long version": {"version": {"most": "1" * 300}},
    "a short fingerprint": {"machine": {"fingerprint": "0" * 63}},
    "a fingerprint that is a number": {"machine": {"fingerprint": 1}},
    "flags that are a text": {"flags": "avx2"},
    "a flag that is none": {"flags": [None]},
    "a list": [1],
    "nothing": None,
}
REFUSED: dict[str, tuple[Callable[[Any], None], str]] = {
    "payloads": (
        lambda m: m.update(payloads=m["payloads"] * (LIMITS.payloads + 1)),
        "17, 16 at most",
    ),
    "an engine's name": (first("engine", "e" * 257), "at most 256 characters"),
    "a format's name": (first("format", "f" * 257), "at most 256 characters"),
    "an engine that is a number": (first("engine", 3), "a text in place of int"),
    "a text": (lambda m: m["notes"].update(a="n" * (LIMITS.string_chars + 1)), "cannot be read"),
    "a key": (lambda m: m["notes"].update({"n" * (LIMITS.string_chars + 1): 1}), "cannot be read"),
    "nesting": (lambda m: m["notes"].update(a=deep(LIMITS.nesting)), "cannot be read"),
    "values": (lambda m: m["notes"].update(a=[0] * LIMITS.manifest_values), "cannot be read"),
    "a part's name": (lambda m: m["parts"][0].update(name="n" * 257), "a part has the name"),
    "compiled for nobody": (first("format", "compiled"), "the machine and the version"),
    **{k: (first("needs", v), "its manifest lacks") for k, v in BAD_NEEDS.items()},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_passes_a_limit_is_refused_in_words(case: str, bundle: Path, tmp_path: Path) -> None:
    change, words = REFUSED[case]
    path = altered(bundle, tmp_path / "altered.edl", change)
    tracemalloc.start()
    try:
        for reader in (open_bundle, edgedl.open):
            with pytest.raises(BadBundle, match=words) as caught:
                reader(path)
            assert caught.value.where == str(path)
            assert caught.value.hint
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


def test_up_to_the_limits_it_opens(bundle: Path, tmp_path: Path) -> None:
    def change(manifest: Any) -> None:
        manifest["payloads"] *= LIMITS.payloads
        manifest["notes"] = {"a": "n" * LIMITS.string_chars, "b": deep(LIMITS.nesting - 3)}

    assert len(open_bundle(altered(bundle, tmp_path / "a.edl", change)).payloads) == 16
    bound = altered(bundle, tmp_path / "b.edl", first("needs", NEEDS), version=3)
    assert open_bundle(bound).payloads[0].needs == Needs("1", "1", "0" * 64)
    assert edgedl.open(bundle).opened.proven


def test_too_many_golden_samples(bundle: Path, tmp_path: Path) -> None:
    path = altered(bundle, tmp_path / "a.edl", too_many_samples)
    with pytest.raises(BadBundle, match="golden samples are damaged"):
        edgedl.open(path)


def test_a_manifest_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    text = b'{"notes": "' + b"n" * LIMITS.manifest_bytes + b'"}'
    length = aligned(HEADER.size + len(text))
    header = HEADER.pack(MAGIC, 1, 0, length, len(text), hashlib.sha256(text).digest())
    path = tmp_path / "long.edl"
    path.write_bytes((header + text).ljust(length, b"\0"))
    with pytest.raises(BadBundle, match="its header is damaged"):
        open_bundle(path)
    with pytest.raises(ValueError, match="at most"):
        manifest_of(text)


def test_a_file_that_is_too_large_is_not_mapped(tmp_path: Path) -> None:
    """A sparse one, which takes no room."""
    path = tmp_path / "large.edl"
    with path.open("wb") as file:
        file.truncate(LIMITS.file_bytes + 1)
    with pytest.raises(BadBundle, match="68719476736 at most"):
        open_bundle(path)


def test_what_is_no_regular_file_never_blocks(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.edl"
    os.mkfifo(pipe)
    for path in (pipe, Path(os.devnull)):
        with pytest.raises(BadBundle, match="is no file"):
            open_bundle(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"a": 1, "a": 2}', "a key twice"),
        (b'{"a": {"b": 1, "c": 2, "b": 1}}', "a key twice"),
        (b'{"a": NaN}', "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"[-1e999]", "-1e999"),
        (b"[" * 33 + b"]" * 33, "nested deeper"),
        (b'{"a": ' * 33 + b"1" + b"}" * 33, "nested deeper"),
        (b"[" * 100_000, "nested deeper|recursion"),
        (b"[1", "delimiter"),
        (b"\xff", "utf-8"),
        (b"1" * 5000, "digits"),
        (b'["\\ud800"]', "half a character"),
        (b'{"a": {"\\uDFFF": 1}}', "half a character"),
    ],
)
def test_documents_are_strict(text: bytes, words: str) -> None:
    with pytest.raises((ValueError, RecursionError), match=words):
        strict_json(text)


def test_documents_up_to_the_depth_are_read() -> None:
    assert strict_json(b"[" * 32 + b"1" + b"]" * 32) == deep(32)
    assert strict_json(b'["\\ud83d\\ude00"]') == ["\U0001f600"]
    assert strict_json(b'{"a": [1, "b", null, 1e-3]}') == {"a": [1, "b", None, 0.001]}


def golden_of(**change: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    x, y = np.zeros((2, 3), np.float32), np.ones(3, np.float32)
    index, parts = pack(Golden(({"x": x},), ({"y": Answer.of(y)},), 0.0))
    index["samples"][0]["inputs"]["x"].update(change)
    return index, parts


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": [1 << 16, 1 << 16]}, "not sound"),
        ({"shape": [1 << 14, 1 << 12]}, "larger than its bytes can hold"),
        ({"shape": [1] * 33}, "a shape is not sound"),
        ({"shape": [-1, 6]}, "a shape is not sound"),
        ({"shape": [1 << 62, 1 << 62]}, "not sound"),
        ({"dtype": "O"}, "not sound"),
        ({"dtype": "9" * 5000}, "not sound"),
        ({"dtype": "f4,f4"}, "not sound"),
        ({"dtype": 7}, "not sound"),
    ],
)
def test_golden_arrays_claim_no_more_than_they_hold(change: dict[str, Any], words: str) -> None:
    index, parts = golden_of(**change)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=words):
            unpack(index, parts)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def npy(header: str, data: bytes = b"", magic: bytes = b"\x93NUMPY\x01\x00") -> bytes:
    """An array of NumPy's format that claims whatever its header says."""
    text = header.encode().ljust(118) + b"\n"
    return magic + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    "answer",
    [
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000,)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", bytes(8)),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", bytes(16)),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -3)}", bytes(12)),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        npy("{'descr': '|V0', 'fortran_order': False, 'shape': (1 << 60,)}"),
        npy(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", bytes(12), b"\x93NUMPY\x02\0"
        ),
        npy("__import__('os').abort()"),
        zlib.compress(bytes(100)),
        b"",
    ],
)
def test_golden_answers_claim_no_more_than_they_hold(answer: bytes) -> None:
    index, parts = golden_of()
    parts["golden/0/answer-0"] = answer
    with pytest.raises((ValueError, TypeError, EOFError)):
        unpack(index, parts)


def test_golden_answers_are_read_as_numpy_reads_them() -> None:
    index, parts = golden_of()
    for values in (np.arange(3.0), np.arange(3), np.arange(3, dtype=">i2"), np.zeros(3, bool)):
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, values, (1, 0), allow_pickle=False)
        parts["golden/0/answer-0"] = buffer.getvalue()
        found = unpack(index, parts).answers[0]["y"].values
        np.testing.assert_array_equal(found, values)
        assert found.dtype == values.dtype
