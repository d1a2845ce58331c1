"""Whatever a manifest claims under right digests, opening ends in a bundle or in BadBundle."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import BadBundle
from edgedl.core.model import Signature, Tensor
from edgedl.runtime.bundle import Bundle, open_bundle
from edgedl.runtime.golden import Answer, Golden
from edgedl.runtime.layout import ALIGN, HEADER, MAGIC
from edgedl.runtime.payload import Payload
from edgedl.runtime.writing import Contents, write_bundle

STRANGE = (None, True, -1, 10**30, 0.5, "", "strange", [], [1], [[]], {}, {"a": 1}, {"a": {}}, [{}])
Way = tuple[str | int, ...]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose payload nobody opens here."""
    path = tmp_path_factory.mktemp("bundle") / "net.edl"
    x, y = np.arange(6, dtype=np.float32).reshape(1, 6), np.ones((1, 2), np.float32)
    write_bundle(
        path,
        Contents(
            signature=Signature(
                (Tensor("x", "float32", (1, 6)),), (Tensor("y", "float32", (1, None)),)
            ),
            payloads=[
                (Payload("onnxruntime", "onnx", "models/a.onnx", "int8", {"a": 1}), b"model")
            ],
            golden=Golden(({"x": x},), ({"y": Answer.of(y)},), 0.01),
            history=[],
            notes={"a": [1, {"b": None}]},
        ),
    )
    return path


def manifest_and_body(path: Path) -> tuple[dict[str, Any], bytes]:
    """A bundle's manifest, and the bytes from its first part on."""
    data = path.read_bytes()
    length = HEADER.unpack_from(data)[4]
    manifest = json.loads(data[HEADER.size : HEADER.size + length])
    return manifest, data[manifest["parts"][0]["offset"] :]


def rewritten(path: Path, manifest: Any, body: bytes, sound: bool = True) -> Path:
    """A bundle of this manifest with right digests, its parts where they then lie."""
    text = b""
    while True:
        start = -(-(HEADER.size + len(text)) // ALIGN) * ALIGN
        if sound:
            shift = start - manifest["parts"][0]["offset"]
            for part in manifest["parts"]:
                part["offset"] += shift
        longer = json.dumps(manifest).encode()
        text, shorter = longer, text
        if len(text) == len(shorter):
            break
    start = -(-(HEADER.size + len(text)) // ALIGN) * ALIGN
    header = HEADER.pack(MAGIC, 1, 0, start + len(body), len(text), hashlib.sha256(text).digest())
    path.write_bytes((header + text).ljust(start, b"\0") + body)
    return path


def ways(document: Any, way: Way = ()) -> Iterator[Way]:
    """The way to every value in a document."""
    if way:
        yield way
    if isinstance(document, dict):
        for key, value in document.items():
            yield from ways(value, (*way, key))
    elif isinstance(document, list):
        for i, value in enumerate(document):
            yield from ways(value, (*way, i))


def at(document: Any, way: Way) -> Any:
    for key in way:
        document = document[key]
    return document


def test_the_same_manifest_is_the_same_bundle(bundle: Path, tmp_path: Path) -> None:
    manifest, body = manifest_and_body(bundle)
    found = open_bundle(rewritten(tmp_path / "again.edl", manifest, body))
    assert found.signature == open_bundle(bundle).signature
    assert found.golden().error(0, {"y": np.ones((1, 2), np.float32)}) == 0


SECTIONS = ("signature", "payloads", "golden", "notes")


@pytest.mark.parametrize("section", SECTIONS)
def test_a_value_replaced_by_another_kind(section: str, bundle: Path, tmp_path: Path) -> None:
    manifest, body = manifest_and_body(bundle)
    tried = 0
    for way in [(section,), *((section, *way) for way in ways(manifest[section]))]:
        for strange in STRANGE:
            altered = copy.deepcopy(manifest)
            at(altered, way[:-1])[way[-1]] = copy.deepcopy(strange)
            path = rewritten(tmp_path / "altered.edl", altered, body)
            try:
                found = open_bundle(path)
                found.golden()
                found.history()
                found.names()
            except BadBundle as error:
                assert error.where == str(path)
                assert error.hint
            else:
                assert isinstance(found, Bundle)
            tried += 1
    assert tried >= len(STRANGE)


@pytest.mark.parametrize("section", [*SECTIONS, "parts"])
def test_a_missing_section(section: str, bundle: Path, tmp_path: Path) -> None:
    manifest, body = manifest_and_body(bundle)
    if section != "parts":
        altered = {key: value for key, value in manifest.items() if key != section}
        path = rewritten(tmp_path / "altered.edl", altered, body)
    else:
        path = rewritten(tmp_path / "altered.edl", {"signature": {}}, body, sound=False)
    with pytest.raises(BadBundle):
        open_bundle(path)


@pytest.mark.parametrize("document", [None, 3, "text", [], [1], {"parts": 3}, {"parts": [3]}])
def test_a_manifest_of_another_kind(document: Any, tmp_path: Path) -> None:
    with pytest.raises(BadBundle):
        open_bundle(rewritten(tmp_path / "altered.edl", document, b"", sound=False))


def test_a_payload_that_is_not_there(bundle: Path, tmp_path: Path) -> None:
    manifest, body = manifest_and_body(bundle)
    manifest["payloads"][0]["part"] = "models/none.onnx"
    with pytest.raises(BadBundle):
        open_bundle(rewritten(tmp_path / "altered.edl", manifest, body))


def test_a_bundle_of_no_models(bundle: Path, tmp_path: Path) -> None:
    manifest, body = manifest_and_body(bundle)
    manifest["payloads"] = []
    with pytest.raises(BadBundle, match="no model"):
        open_bundle(rewritten(tmp_path / "altered.edl", manifest, body))


def test_two_parts_of_one_name(bundle: Path, tmp_path: Path) -> None:
    manifest, body = manifest_and_body(bundle)
    manifest["parts"][1]["name"] = manifest["parts"][0]["name"]
    with pytest.raises(BadBundle, match="name"):
        open_bundle(rewritten(tmp_path / "altered.edl", manifest, body))


def test_parts_in_another_order_or_overlapping(bundle: Path, tmp_path: Path) -> None:
    manifest, body = manifest_and_body(bundle)
    turned = copy.deepcopy(manifest)
    turned["parts"].reverse()
    with pytest.raises(BadBundle):
        open_bundle(rewritten(tmp_path / "altered.edl", turned, body))
    manifest["parts"][1]["offset"] = manifest["parts"][0]["offset"]
    with pytest.raises(BadBundle):
        open_bundle(rewritten(tmp_path / "altered.edl", manifest, body))


def test_a_claimed_array_larger_than_its_bytes(bundle: Path, tmp_path: Path) -> None:
    for shape in ([1, 7], [10**6, 10**6], [-1, -6], [2**62, 4]):
        manifest, body = manifest_and_body(bundle)
        manifest["golden"]["samples"][0]["inputs"]["x"]["shape"] = shape
        found = open_bundle(rewritten(tmp_path / "altered.edl", manifest, body))
        with pytest.raises(BadBundle, match="golden"):
            found.golden()
