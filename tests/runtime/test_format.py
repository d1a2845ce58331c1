"""The format as it is written down, and bundles of every version that there ever was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgedl
from edgedl.runtime import installed_engines
from edgedl.runtime import limits as limits_module
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.check import check
from edgedl.runtime.layout import COMPILING, HEADER, MAGIC, VERSION
from edgedl.runtime.limits import LIMITS
from edgedl.runtime.payload import FORMATS
from tests.golden.bundles.make_bundles import HERE, VERSIONS

PAGE = (Path(limits_module.__file__).parent / "FORMAT.md").read_text()
DIGESTS = {
    "1": "a4a0845232d7e91b7894a1f2c9f6cad18ee13d3bf7ba9c15502539a4a59ae33a",
    "2": "ecc66545d1bf242fa3bb61aa6e0c1b8385cdaf261c801781dfdf36ecc3db691b",
    "3": "f5757b0c34fb37325e4e194e25938dffdb9cfb0c04bce0cc4c408742cd325eea",
}
# Below these stand names and values of the maker's own.
FREE = ("notes", "payloads[].settings")
NAMED = ("golden.samples[].inputs", "golden.samples[].answers")


def kept(version: str) -> Path:
    return HERE / f"version_{version}.edl"


def rows(section: str) -> list[list[str]]:
    """The cells of a section's tables, without their heads."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for i, row in enumerate(cells) if i > 1]


def keys(document: Any, way: str = "") -> Iterator[str]:
    """Every key of a manifest, as the page writes it."""
    if isinstance(document, list):
        for value in document:
            yield from keys(value, f"{way}[]")
    elif isinstance(document, dict) and way not in FREE:
        for key, value in document.items():
            named = "*" if way in NAMED else key
            deeper = f"{way}.{named}" if way else named
            if named != "*":
                yield deeper
            yield from keys(value, deeper)


def manifest(path: Path) -> Any:
    data = path.read_bytes()
    return json.loads(data[HEADER.size : HEADER.size + HEADER.unpack_from(data)[4]])


def test_every_key_is_written_down_and_every_one_that_is_is_written() -> None:
    found = {key for version in VERSIONS for key in keys(manifest(kept(version)))}
    told = [row[0].strip("`") for row in rows("Manifest")]
    assert len(set(told)) == len(told)
    assert found == set(told)


def test_every_limit_is_written_down() -> None:
    told = {row[0].strip("`"): int(row[1]) for row in rows("Limits")}
    assert told == vars(LIMITS)


def test_the_layout_is_written_down() -> None:
    table = rows("Layout")
    offset = 0
    for row, size in zip(table, (8, 4, 4, 8, 8, 32), strict=False):
        assert (int(row[0]), int(row[1])) == (offset, size)
        offset += size
    assert int(table[-1][0]) == offset == HEADER.size
    assert MAGIC.hex(" ").upper() in table[0][2]
    versions = [int(row[0]) for row in rows("Compatibility")]
    assert versions == list(range(VERSION, COMPILING + 1)) == sorted(map(int, VERSIONS))
    assert {row[0].strip("`") for row in rows("Payloads")} == set(FORMATS)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_kept_bundle_is_the_one_that_was_made(version: str) -> None:
    data = kept(version).read_bytes()
    assert hashlib.sha256(data).hexdigest() == DIGESTS[version]
    assert data[8] == int(version)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_opens(version: str) -> None:
    path = kept(version)
    found = open_bundle(path)
    assert found.history()[0].settings == {"a": 1}
    assert found.names() == {"w0": "layer/weight"}
    assert found.notes["speedup"]["ratio"] == 2.5
    assert (found.processing() is not None) is (version == "1")
    golden = found.golden()
    assert len(golden.inputs) == 2
    if "onnxruntime" not in installed_engines():
        pytest.skip("onnxruntime is not installed")
    with edgedl.open(path, threads=1, golden="all", engine_name="onnxruntime") as session:
        assert session.opened.golden_samples == 2
        assert session.signature.inputs[0].dtype == found.signature.inputs[0].dtype
        assert golden.error(1, session.run(golden.inputs[1])) <= golden.tolerance
    assert check(path, threads=1).ok


def test_version_3_falls_back_to_what_is_here() -> None:
    with edgedl.open(kept("3"), threads=1) as session:
        opened = session.opened
    assert opened.payload not in (0, 2)
    assert opened.proven
    assert opened.skipped[0].format == "compiled"
    assert "Cortex-A72" in opened.skipped[0].reason


@pytest.mark.parametrize("version", VERSIONS)
def test_todays_writer_writes_every_version_alike(version: str, tmp_path: Path) -> None:
    """Where answers are the same to the bit, which they are on like processors alone."""
    if "onnxruntime" not in installed_engines():
        pytest.skip("onnxruntime is not installed")
    again = tmp_path / "again.edl"
    VERSIONS[version](again)
    one, other = manifest(kept(version)), manifest(again)
    for each in (one, other):
        for part in each["parts"]:
            if "answer" in part["name"]:
                del part["sha256"]
    assert one == other
