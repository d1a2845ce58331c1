"""Payloads that lie deflated: when they do, what a reader gets, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgedl
from edgedl.core.errors import BadBundle
from edgedl.inputs import load_model
from edgedl.passes.graph import to_ship
from edgedl.runtime import any_engine
from edgedl.runtime.artifact import find_artifact
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.check import check
from edgedl.runtime.deflate import BLOCK, MOST_PAYLOAD_BYTES, Inflated, deflate, inflate
from edgedl.runtime.golden import Answer, Golden, coarse
from edgedl.runtime.layout import ALIGN, HEADER, MAGIC
from edgedl.runtime.payload import Payload, stored
from edgedl.runtime.writing import Contents, write_bundle
from tests.models import Sketch, answers, feeds, saved

RANDOM = np.random.default_rng(5)


def sparse(share: float, scale: float = 1.0) -> bytes:
    """A dense network whose first product has this share of zeros."""
    net = Sketch()
    weight = net.random.standard_normal((64, 128)) * scale
    weight[net.random.random(weight.shape) < share] = 0
    net.node("MatMul", ["x", net.constant("first_w", weight.astype(np.float32))], "first")
    net.node("Relu", ["first"], "relu")
    net.node("MatMul", ["relu", net.weight("second_w", 128, 5)], "logits")
    return bytes(net.model([1, 64], [1, 5]).SerializeToString())


def written(path: Path, data: bytes, *, deflated: bool = True, payload: Any = None) -> Path:
    """A bundle of a model's file."""
    import onnx

    engine = any_engine().name
    model = saved(onnx.load_model_from_string(data), path.parent)
    shipped, names = to_ship(model)
    feed = coarse(feeds(model.signature, 1)[0])
    answer = {k: Answer.of(v) for k, v in answers(shipped, [feed], engine)[0].items()}
    plain = Payload(engine, "onnx", "models/net.onnx", "float32", {})
    write_bundle(
        path,
        Contents(
            signature=model.signature,
            payloads=[payload or (stored(plain, shipped) if deflated else (plain, shipped))],
            golden=Golden((feed,), (answer,), 0.01),
            history=[],
            notes={},
            names=names,
        ),
    )
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a deflated payload."""
    return written(tmp_path_factory.mktemp("bundle") / "net.edl", sparse(0.75))


def test_every_reader_inflates(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "store"))
    plain = written(tmp_path / "plain.edl", sparse(0.75), deflated=False)
    found, other = open_bundle(bundle), open_bundle(plain)
    payload, part = found.payloads[0], found.parts["models/net.onnx"]
    model = other.read("models/net.onnx")
    assert payload.format == "onnx+deflate"
    assert payload.inflated == Inflated(len(model), other.parts["models/net.onnx"].sha256)
    assert part.bytes < 0.6 * len(model)
    assert found.size_bytes == bundle.stat().st_size < 0.6 * plain.stat().st_size
    assert found.payload_bytes(payload) == other.payload_bytes(other.payloads[0]) == model
    assert find_artifact(bundle).data == model
    assert load_model(bundle).path == load_model(plain).path
    assert check(bundle).ok
    feed = {"x": np.ones((1, 64), np.float32)}
    with edgedl.open(bundle, threads=1) as one, edgedl.open(plain, threads=1) as two:
        np.testing.assert_array_equal(one.run(feed)["logits"], two.run(feed)["logits"])
    told = edgedl.inspect(bundle)["payloads"][0]
    assert (told["bytes"], told["inflated"]["bytes"]) == (part.bytes, len(model))
    assert told["format"] == "onnx+deflate"


def test_only_what_is_deflated_needs_a_later_reader(bundle: Path, tmp_path: Path) -> None:
    """A dense payload is written byte for byte as before there was another format."""
    raw = written(tmp_path / "raw.edl", sparse(0), deflated=False).read_bytes()
    assert written(tmp_path / "dense.edl", sparse(0)).read_bytes() == raw
    assert (raw[8], bundle.read_bytes()[8]) == (1, 2)
    manifest = json.loads(raw[HEADER.size : HEADER.size + HEADER.unpack_from(raw)[4]])
    assert set(manifest["payloads"][0]) == {"engine", "format", "part", "precision", "settings"}


def test_the_same_is_deflated_to_the_same(bundle: Path, tmp_path: Path) -> None:
    assert written(tmp_path / "again.edl", sparse(0.75)).read_bytes() == bundle.read_bytes()


def weights(kind: str) -> bytes:
    """2 MB of float32, or half a million bytes."""
    drawn = RANDOM.standard_normal(500_000)
    if kind == "float32":
        return drawn.astype(np.float32).tobytes()
    if kind == "int8, 75 % zeros":
        drawn[np.abs(drawn) < 1.15] = 0
        return np.round(drawn * 25).astype(np.int8).tobytes()
    if kind == "16 floats":
        return drawn[:16].astype(np.float32)[RANDOM.integers(0, 16, drawn.size)].tobytes()
    return RANDOM.bytes(drawn.size)


@pytest.mark.parametrize(
    ("kind", "most"),
    [("float32", None), ("noise", None), ("int8, 75 % zeros", 0.36), ("16 floats", 0.2)],
)
def test_what_saves_a_quarter_is_deflated(kind: str, most: float | None) -> None:
    data = weights(kind)
    found = deflate(data)
    if most is None:
        assert found is None
        return
    assert found is not None
    packed, inflated = found
    assert len(packed) < most * len(data)
    assert inflated == Inflated(len(data), hashlib.sha256(data).hexdigest())
    assert inflate(memoryview(packed), inflated) == data


@pytest.mark.parametrize(("zeros", "deflated"), [(24_800, False), (25_100, True)])
def test_the_bound_is_a_quarter(zeros: int, deflated: bool) -> None:
    """Of noise and zeros, which take next to nothing: the share of zeros is what is saved."""
    data = RANDOM.bytes(100_000 - zeros - 100) + bytes(zeros + 100)
    assert (deflate(data) is not None) is deflated


def test_little_is_not_worth_a_word_in_the_manifest() -> None:
    assert deflate(b"") is None
    assert deflate(bytes(250)) is None
    assert deflate(bytes(2500)) is not None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=40), st.integers(1, 3 * BLOCK)), max_size=6))
def test_what_is_deflated_inflates_to_itself(runs: list[tuple[bytes, int]]) -> None:
    """Runs within blocks and across them, and ones that end where a block does."""
    data = b"".join((word * count)[: 3 * BLOCK] for word, count in runs)
    found = deflate(data)
    if found is not None:
        assert inflate(memoryview(found[0]), found[1]) == data


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK])
def test_ends_of_blocks(size: int) -> None:
    for data in (bytes(size), RANDOM.bytes(size)):
        stated = Inflated(size, hashlib.sha256(data).hexdigest())
        assert inflate(memoryview(zlib.compress(data)), stated) == data


def test_it_is_in_memory_once() -> None:
    data = weights("int8, 75 % zeros") * 16
    stated = Inflated(len(data), hashlib.sha256(data).hexdigest())
    packed = memoryview(zlib.compress(data, 1))
    tracemalloc.start()
    try:
        made = inflate(packed, stated)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert made == data
    assert peak < 1.2 * len(data) + (1 << 20)


def test_a_bomb_is_left_where_it_passes_what_is_stated() -> None:
    """A gigabyte of zeros in a megabyte, said to be a hundred kilobytes."""
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(1 << 24)) for _ in range(64)) + packer.flush()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than the 100000 bytes stated"):
            inflate(memoryview(bomb), Inflated(100_000, ""))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


MODEL = sparse(0.75)
PACKED = zlib.compress(MODEL)
Forged = tuple[bytes, int, str]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


FORGERIES: Mapping[str, tuple[bytes, int, str]] = {
    "truncated": (PACKED[:-100], len(MODEL), "is truncated"),
    "without its check sum": (PACKED[:-4], len(MODEL), "is truncated"),
    "followed by others": (PACKED + b"more", len(MODEL), "followed by other bytes"),
    "followed by many": (PACKED + bytes(2 * BLOCK), len(MODEL), "followed by other bytes"),
    "twice": (PACKED + PACKED, len(MODEL), "followed by other bytes"),
    "stated smaller": (PACKED, len(MODEL) - 1, "inflates to more than"),
    "stated larger": (PACKED, len(MODEL) + 1, f"inflates to {len(MODEL)} bytes"),
    "damaged": (flipped(PACKED, len(PACKED) // 2), len(MODEL), "cannot be inflated|inflates to"),
    "of a wrong check sum": (flipped(PACKED, len(PACKED) - 1), len(MODEL), "cannot be inflated"),
    "not deflated": (MODEL, len(MODEL), "cannot be inflated"),
    "another's": (zlib.compress(MODEL[::-1]), len(MODEL), "inflates to something else"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_payloads_are_refused_in_words(forgery: str, tmp_path: Path) -> None:
    """All digests of the file are right; what lies in the part is not what the manifest says."""
    data, size, words = FORGERIES[forgery]
    inflated = Inflated(size, hashlib.sha256(MODEL).hexdigest())
    payload = Payload(any_engine().name, "onnx+deflate", "a", "float32", {}, inflated)
    path = written(tmp_path / "forged.edl", MODEL, payload=(payload, data))
    for reader in (edgedl.open, find_artifact, load_model):
        with pytest.raises(BadBundle, match=words) as caught:
            reader(path)
        assert caught.value.where == str(path)
        assert caught.value.hint
    found = check(path)
    assert not found.ok
    assert found.payloads[0].problem is not None


def test_a_size_that_nothing_inflates_to_is_refused_with_the_manifest(tmp_path: Path) -> None:
    inflated = Inflated(len(MODEL), hashlib.sha256(MODEL).hexdigest())
    payload = Payload(any_engine().name, "onnx+deflate", "a", "float32", {}, inflated)
    path = written(tmp_path / "forged.edl", MODEL, payload=(payload, zlib.compress(b"")))
    for reader in (edgedl.open, find_artifact, load_model, check):
        with pytest.raises(BadBundle, match="8 bytes never inflate to"):
            reader(path)


def rewritten(bundle: Path, path: Path, change: Callable[[Any], None], version: int = 2) -> Path:
    """The bundle with its manifest changed, all digests right, and parts where they then lie."""
    data = bundle.read_bytes()
    length = HEADER.unpack_from(data)[4]
    manifest = json.loads(data[HEADER.size : HEADER.size + length])
    first = manifest["parts"][0]["offset"]
    change(manifest["payloads"][0])
    # Room to lie where they lay, whatever was changed.
    start = first + 4096
    for part in manifest["parts"]:
        part["offset"] += 4096
    text = json.dumps(manifest).encode().ljust(start - HEADER.size - ALIGN + 1)
    header = HEADER.pack(
        MAGIC, version, 0, len(data) + 4096, len(text), hashlib.sha256(text).digest()
    )
    path.write_bytes((header + text).ljust(start, b"\0") + data[first:])
    return path


def test_what_a_manifest_may_say(bundle: Path, tmp_path: Path) -> None:
    path = rewritten(bundle, tmp_path / "same.edl", lambda one: one.update(more=1))
    assert check(path).ok


STATED: Mapping[str, dict[str, Any]] = {
    "nothing": {"inflated": None},
    "no size": {"inflated": {"sha256": "0" * 64}},
    "no digest": {"inflated": {"bytes": 100}},
    "a digest that is a number": {"inflated": {"bytes": 100, "sha256": 1}},
    "a size that is text": {"inflated": {"bytes": "100", "sha256": ""}},
    "true": {"inflated": {"bytes": True, "sha256": ""}},
    "a negative size": {"inflated": {"bytes": -1, "sha256": ""}},
    "no bytes": {"inflated": {"bytes": 0, "sha256": ""}},
    "more than a file holds": {"inflated": {"bytes": MOST_PAYLOAD_BYTES + 1, "sha256": ""}},
    "more than deflate can": {"inflated": {"bytes": MOST_PAYLOAD_BYTES, "sha256": ""}},
    "not deflated after all": {"format": "onnx"},
    "an unknown way": {"format": "onnx+other"},
}


@pytest.mark.parametrize("claim", STATED.values(), ids=STATED)
def test_forged_statements_are_refused_on_opening(
    claim: dict[str, Any], bundle: Path, tmp_path: Path
) -> None:
    path = rewritten(bundle, tmp_path / "forged.edl", lambda one: one.update(claim))
    with pytest.raises(BadBundle) as caught:
        open_bundle(path)
    assert caught.value.hint


def test_a_header_of_the_other_version_is_altered(bundle: Path, tmp_path: Path) -> None:
    path = rewritten(bundle, tmp_path / "forged.edl", lambda _: None, version=1)
    with pytest.raises(BadBundle, match="header"):
        open_bundle(path)
    plain = bytearray(written(tmp_path / "plain.edl", MODEL, deflated=False).read_bytes())
    plain[8] = 2
    path.write_bytes(plain)
    with pytest.raises(BadBundle, match="header"):
        open_bundle(path)


def test_an_unknown_format_never_reaches_an_engine(bundle: Path, tmp_path: Path) -> None:
    def change(one: dict[str, Any]) -> None:
        one["format"] = "onnx+other"

    path = rewritten(bundle, tmp_path / "other.edl", change, version=1)
    with pytest.raises(BadBundle, match=r"format 'onnx\+other' is not known") as caught:
        edgedl.open(path)
    assert "upgrade" in str(caught.value.hint)
