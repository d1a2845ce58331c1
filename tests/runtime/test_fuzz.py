"""Whatever lies in a file or a key, reading it ends in a value or in an error in words."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgedl.core.errors import BadBundle, BadKey, EdgeError
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.golden import unpack
from edgedl.runtime.layout import HEADER, MAGIC, aligned, file_blocks
from edgedl.runtime.limits import canonical
from edgedl.runtime.sign.envelope import of_lines
from edgedl.runtime.sign.keys import PublicKey, public_key

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
WORDS = st.sampled_from(
    [
        "signature",
        "payloads",
        "golden",
        "notes",
        "inputs",
        "outputs",
        "name",
        "dtype",
        "shape",
        "engine",
        "format",
        "part",
        "precision",
        "settings",
        "samples",
        "tolerance",
        "sealed",
        "onnx",
        "onnx+deflate",
        "onnx+sealed",
        "about/history",
        "inflated",
        "bytes",
        "sha256",
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | WORDS
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | TEXT, inner, max_size=4),
    max_leaves=12,
)
MANIFESTS = st.fixed_dictionaries(
    {
        "signature": st.fixed_dictionaries({"inputs": JSON, "outputs": JSON}) | JSON,
        "payloads": st.lists(
            st.fixed_dictionaries(
                {
                    "engine": TEXT | JSON,
                    "format": WORDS | JSON,
                    "part": st.just("models/a") | JSON,
                    "precision": TEXT | JSON,
                    "settings": JSON,
                },
                optional={"inflated": JSON, "sealed": JSON},
            )
            | JSON,
            max_size=2,
        )
        | JSON,
        "notes": st.just({}) | JSON,
        "golden": st.fixed_dictionaries({"samples": JSON, "tolerance": LEAVES}) | JSON,
    }
)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A file that cases are written to, one after another."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "case.edl"


def opened(path: Path, data: bytes) -> None:
    """Open a file, and read what is in it; errors in words are fine."""
    path.write_bytes(data)
    try:
        found = open_bundle(path, key=lambda _: bytes(32))
    except BadBundle as error:
        assert error.where == str(path)
        assert error.hint
        return
    uses: list[Any] = [found.history, found.names, found.processing, found.golden]
    uses += [lambda one=one: found.payload_bytes(one) for one in found.payloads]
    for use in uses:
        try:
            use()
        except EdgeError as error:
            assert str(error)


@settings(max_examples=150)
@given(st.binary(max_size=400), st.integers(0, 4), st.integers(0, 2**64 - 1), st.booleans())
@example(b"", 3, 64, True)
def test_any_bytes_behind_a_header(
    place: Path, data: bytes, version: int, length: int, fits: bool
) -> None:
    size = HEADER.size + len(data)
    header = HEADER.pack(MAGIC, version, 0, size if fits else length, len(data), bytes(32))
    opened(place, header + data)
    opened(place, data)


@settings(max_examples=200)
@given(MANIFESTS, st.dictionaries(WORDS, st.binary(max_size=40), max_size=3), st.integers(1, 3))
def test_any_manifest_under_right_digests(
    place: Path, manifest: Any, contents: dict[str, bytes], version: int
) -> None:
    parts = {f"about/{name.replace('+', '-')}": data for name, data in contents.items()}
    blocks = file_blocks(manifest, {"models/a": b"model", **parts}, version)
    opened(place, b"".join(block.ljust(aligned(len(block)), b"\0") for block in blocks))


@given(JSON, st.dictionaries(WORDS, st.binary(max_size=80)))
def test_any_golden_index(index: Any, parts: dict[str, bytes]) -> None:
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
        unpack(index, parts)


@given(st.binary(max_size=300) | JSON.map(canonical))
def test_any_envelope(data: bytes) -> None:
    for text in (data, data + b"\n"):
        with pytest.raises(ValueError):
            of_lines(text)


PEM = PublicKey(bytes([3]) + bytes(31), "x").pem()


@given(st.binary(max_size=200), st.integers(0, len(PEM)), st.integers(0, len(PEM)))
def test_any_key_file(place: Path, data: bytes, start: int, end: int) -> None:
    path = place.with_suffix(".pub")
    for text in (data, PEM[:start] + data + PEM[end:]):
        path.write_bytes(text)
        try:
            found = public_key(path)
        except BadKey as error:
            assert error.hint
        else:
            assert len(found.raw) == 32


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script of a hundred thousand cases."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import fuzz

    return fuzz


def test_some_of_the_cases_of_the_benchmark(fuzz: Any) -> None:
    tally = fuzz.many((0, 150))
    assert not tally.faults
    assert tally.ends["opened"] > 10
    assert tally.ends["BadBundle"] > 50
    assert tally.ends["BadKey"] > 0


def test_the_benchmark_notices_faults(
    fuzz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fuzz_cases

    tools, path = fuzz_cases.bench(tmp_path), tmp_path / "case.edl"
    signed = next(seed for seed in tools.seeds if seed.name == "signed")
    path.write_bytes(signed.data)
    assert fuzz_cases.exercise(path, tools, vouched=True) == "opened"
    with pytest.raises(AssertionError, match="nobody signed it"):
        fuzz_cases.exercise(path, tools, vouched=False)
    tally = fuzz.Tally()
    monkeypatch.setattr(fuzz, "MOST_CALLS", 10)
    fuzz.one(0, path, tools, tally)
    assert tally.ends == {"FAULT": 1}
    assert "more than 10 calls" in tally.faults[0]
