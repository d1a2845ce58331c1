"""The format as it is written down, and bundles of every version that there ever was."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgedl
from edgedl.core.errors import BadKey, Untrusted
from edgedl.runtime import installed_engines
from edgedl.runtime import limits as limits_module
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.check import check
from edgedl.runtime.layout import (
    HEADER,
    LEAST_DIVIDED_BYTES,
    MAGIC,
    SIGNED,
    VERSION,
    file_blocks,
)
from edgedl.runtime.limits import LIMITS
from edgedl.runtime.payload import FORMATS
from edgedl.runtime.sign import admit
from edgedl.runtime.sign.admit import MOST_ENVELOPE_BYTES, MOST_SIGNATURES, TRAILER
from edgedl.runtime.sign.envelope import MOST_RELEASE, TYPE
from edgedl.runtime.sign.sealed import CIPHER, associated
from edgedl.runtime.sign.verify import verify
from tests.golden.bundles.make_bundles import EXPIRES, HERE, KEYS, SECRET, SIGNED_AT, VERSIONS

PAGE = (Path(limits_module.__file__).parent / "FORMAT.md").read_text()
DIGESTS = {
    "1": "a4a0845232d7e91b7894a1f2c9f6cad18ee13d3bf7ba9c15502539a4a59ae33a",
    "2": "ecc66545d1bf242fa3bb61aa6e0c1b8385cdaf261c801781dfdf36ecc3db691b",
    "3": "f5757b0c34fb37325e4e194e25938dffdb9cfb0c04bce0cc4c408742cd325eea",
    "4": "646e72498c53de42d52a09e4348f42cb5183532332ded5fc6881fe2a7069af0e",
    "5": "bddd1a0a1042af58ecf8d23a16fabe44d719a4bd2c0557e8d6ede50c1076c9f8",
}
# Below these stand names and values of the maker's own.
FREE = ("notes", "payloads[].settings")
NAMED = ("golden.samples[].inputs", "golden.samples[].answers")


def kept(version: str) -> Path:
    return HERE / f"version_{version}.edl"


def tables(section: str) -> Iterator[list[list[str]]]:
    """The cells of each of a section's tables, without their heads."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    for block in text.strip().split("\n\n"):
        if block.startswith("|"):
            lines = block.splitlines()[2:]
            yield [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def rows(section: str) -> list[list[str]]:
    """The cells of a section's only table."""
    [table] = tables(section)
    return table


def secret(_: str) -> bytes:
    return bytes.fromhex(SECRET.read_text())


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
    large = file_blocks({}, {"large": bytes(LEAST_DIVIDED_BYTES)}, VERSION)[0]
    found |= set(keys(json.loads(large[HEADER.size :])))
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
    assert versions == list(range(VERSION, SIGNED + 1)) == sorted(map(int, VERSIONS))
    assert {row[0].strip("`") for row in rows("Payloads")} == set(FORMATS)


def test_signatures_are_written_down() -> None:
    layout, envelope, statement = (list(some) for some in tables("Signatures"))
    offset = 0
    for row, size in zip(layout, (8, 8, 32), strict=False):
        assert (int(row[0]), int(row[1])) == (offset, size)
        offset += size
    assert int(layout[-1][0]) == offset == TRAILER.size
    assert admit.MAGIC.hex(" ").upper() in layout[0][2]
    data = kept("5").read_bytes()
    line = data[HEADER.unpack_from(data)[3] + TRAILER.size :]
    document = json.loads(line)
    assert {row[0].strip("`") for row in envelope} == set(keys(document))
    told = json.loads(base64.b64decode(document["payload"]))
    assert {row[0].strip("`") for row in statement} == set(told)
    assert TYPE in envelope[0][1]
    assert f"At most {MOST_SIGNATURES} lines of {MOST_ENVELOPE_BYTES} bytes" in PAGE
    assert str(MOST_RELEASE) in PAGE
    assert f"`{CIPHER}`" in PAGE


def test_what_a_tag_binds_is_written_down() -> None:
    [line] = [one.strip() for one in PAGE.splitlines() if one.startswith("    {")]
    assert associated("", {"bytes": 0, "sha256": ""}, "") == line.encode()


def test_kept_keys_open_what_they_are_for() -> None:
    trusted = edgedl.trust(
        KEYS, name="golden/net", least_release=7, clock=lambda: SIGNED_AT + 86_400
    )
    [proof] = open_bundle(kept("5"), trust=trusted).proofs
    assert proof.statement.signer == "for tests only"
    assert proof.statement.expires == EXPIRES
    assert verify(kept("5"), trusted).raw == "for_tests_only"
    with pytest.raises(Untrusted, match="expired"):
        open_bundle(kept("5"), trust=edgedl.trust(KEYS, clock=lambda: EXPIRES))
    asked: list[str] = []
    found = open_bundle(kept("4"), key=lambda name: asked.append(name) or secret(name))
    deflated, same, plain = (found.payload_bytes(one) for one in found.payloads)
    assert deflated == same == plain
    assert asked == ["for-tests-only"] * 3
    with pytest.raises(BadKey, match="does not open"):
        open_bundle(kept("4"), key=lambda _: bytes(32)).payload_bytes(found.payloads[0])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_kept_bundle_is_the_one_that_was_made(version: str) -> None:
    data = kept(version).read_bytes()
    assert hashlib.sha256(data).hexdigest() == DIGESTS[version]
    assert data[8] == int(version)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_opens(version: str) -> None:
    path = kept(version)
    found = open_bundle(path, key=secret)
    assert found.history()[0].settings == {"a": 1}
    assert found.names() == {"w0": "layer/weight"}
    assert found.notes["speedup"]["ratio"] == 2.5
    assert (found.processing() is not None) is (version == "1")
    golden = found.golden()
    assert len(golden.inputs) == 2
    if "onnxruntime" not in installed_engines():
        pytest.skip("onnxruntime is not installed")
    with edgedl.open(
        path, threads=1, golden="all", engine_name="onnxruntime", key=secret
    ) as session:
        assert session.opened.golden_samples == 2
        assert session.signature.inputs[0].dtype == found.signature.inputs[0].dtype
        assert golden.error(1, session.run(golden.inputs[1])) <= golden.tolerance
    assert check(path, threads=1, key=secret).ok


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
        drawn = {payload["part"] for payload in each["payloads"] if "sealed" in payload}
        for part in each["parts"]:
            if "answer" in part["name"] or part["name"] in drawn:
                del part["sha256"]
        for payload in each["payloads"]:
            payload.get("sealed", {}).pop("nonce", None)
    assert one == other
