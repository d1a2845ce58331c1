"""Cases for `fuzz.py`: small bundles, what is changed in them, and what a device does with them.

Every case follows from a number alone. Half of them are changed as bytes; in the other half the
manifest, a part or an envelope is changed as what it says, and digests, places and signatures are
put right again, so that the code behind them is reached.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import edgedl
from edgedl.core.errors import EdgeError
from edgedl.core.model import Signature, Step, Tensor
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.golden import Answer, Golden
from edgedl.runtime.layout import ALIGN, HEADER, SIGNED, aligned, file_blocks
from edgedl.runtime.limits import canonical
from edgedl.runtime.payload import Payload, stored
from edgedl.runtime.process import Processing
from edgedl.runtime.sign import admit, trust
from edgedl.runtime.sign.admit import TRAILER
from edgedl.runtime.sign.encrypt import encrypt
from edgedl.runtime.sign.envelope import Envelope, Statement, lines, of_lines, signed_message
from edgedl.runtime.sign.private import private_key
from edgedl.runtime.writing import Contents, write_bundle

SECRET = bytes(range(32))
NOW = 1_800_000_000
NUMBERS = (0, 1, 7, 63, 64, 65, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
STRANGE: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 10**30, -(10**400), 0.5, -0.0, 1e308, "", "strange", "\u0000"),
    *("../../etc/passwd", "/etc/passwd", "a" * 10_000, "\U0001f600", "object", "U999999", "f4,f4"),
    *("onnx", "onnx+deflate", "onnx+sealed", "onnx+deflate+sealed", [], [1], [[]], {}, {"a": 1}),
    *([{}], {"": None}, [None] * 100, 2**31, 2**63, "about/history", "golden/0/input-0", "(((("),
    *("float32", "int8", "bool", ">f4", "datetime64[s]", "9" * 5000, "\ud7ff", "%s%n", "`error:`"),
)
MOST_CALLS = 400_000


@dataclass(frozen=True)
class Seed:
    """A sound bundle, and whom it is signed by."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Case:
    """A file, how it was made, and whether the trusted key signed it as it is."""

    how: str
    data: bytes
    vouched: bool


@dataclass(frozen=True)
class Bench:
    """The sound bundles, the signer's key, and who trusts it."""

    seeds: tuple[Seed, ...]
    sign: Callable[[bytes], bytes]
    key_id: str
    trusted: trust.Trust


def bench(folder: Path) -> Bench:
    """Sound bundles of every kind, made in a folder."""
    key = edgedl.keygen(folder / "alice")
    private, _ = private_key(folder / "alice.key")
    model, dense = b"\x12\xc0\x17" + bytes(3008), b"\x12\x80\x08" + bytes(range(256)) * 4
    after = {"kind": "top-k", "k": 2, "labels": ["cat", "dog"]}
    image = {"kind": "image", "crop": [8, 8], "mean": [0.5, 0.5, 0.5], "postprocess": after}
    plain = written(folder / "plain.edl", dense, None)
    paths = [
        plain,
        written(folder / "deflated.edl", model, Processing.from_json(image)),
        encrypt(plain, SECRET, folder / "sealed.edl").path,
    ]
    both = encrypt(paths[1], SECRET, folder / "both.edl").path
    for path in (written(folder / "signed.edl", dense, None), both):
        edgedl.sign(path, folder / "alice.key", expires=NOW + 99, clock=lambda: NOW)
        paths.append(path)
    return Bench(
        tuple(Seed(path.stem, path.read_bytes()) for path in paths),
        private.sign,
        key.id,
        edgedl.trust(folder / "alice.pub", clock=lambda: NOW),
    )


def written(path: Path, model: bytes, processing: Processing | None) -> Path:
    x, y = np.arange(6, dtype=np.float32).reshape(1, 6), np.ones((1, 2), np.float32)
    write_bundle(
        path,
        Contents(
            signature=Signature(
                (Tensor("x", "float32", (1, 6)),), (Tensor("y", "float32", (1, None)),)
            ),
            payloads=[stored(Payload("onnxruntime", "onnx", "models/a", "int8", {"a": 1}), model)],
            golden=Golden(({"x": x, "n": x.astype(np.int64)},), ({"y": Answer.of(y)},), 0.01),
            history=[Step("clean", {"a": 1}, "0" * 64, {"edgedl": "0"})],
            notes={"a": [1, {"b": None}]},
            names={"w0": "weight"},
            processing=processing,
        ),
    )
    return path


def case(number: int, tools: Bench) -> Case:
    """The case of this number."""
    rng = random.Random(number)
    seed = rng.choice(tools.seeds)
    way = rng.choice((_bytes, _bytes, _manifest, _manifest, _part, _envelope))
    data, vouched = way(rng, seed.data, tools)
    return Case(f"{seed.name}:{way.__name__}:{number}", data, vouched)


def exercise(path: Path, tools: Bench, *, vouched: bool) -> str:
    """What a device does with a file; how it ended: `opened`, or the kind of its refusal.

    Raises:
        AssertionError: it was trusted, and the trusted key never signed it. Whatever else is
            raised but an EdgeError is a fault, too.
    """
    try:
        open_bundle(path, trust=tools.trusted)
        trusted = "opened"
    except EdgeError as error:
        trusted = type(error).__name__
        _told(error)
    assert vouched or trusted != "opened", "it was trusted, and nobody signed it"
    try:
        found = open_bundle(path, key=lambda _: SECRET)
    except EdgeError as error:
        _told(error)
        return type(error).__name__
    worst = "opened"
    uses: list[Callable[[], Any]] = [
        found.history,
        found.names,
        found.processing,
        lambda: _answered(found.golden()),
        lambda: found.payload(None, ["onnxruntime"]),
        *(lambda one=one: found.payload_bytes(one) for one in found.payloads),
    ]
    for use in uses:
        try:
            use()
        except EdgeError as error:
            _told(error)
            worst = type(error).__name__
    return worst


def _answered(golden: Golden) -> None:
    """Golden answers are held against arrays as `edgedl check` holds them against an engine's."""
    for i, answers in enumerate(golden.answers):
        for answer in answers.values():
            answer.error(np.ones((1, 2), np.float32))
        golden.error(i, {name: np.ones((1, 2), np.float32) for name in answers})


def _told(error: EdgeError) -> None:
    """An error is text that any screen takes, and not a book."""
    text = f"{error}\n{error.hint}"
    text.encode()
    assert len(text) < 20_000, f"an error of {len(text)} characters"


def _bytes(rng: random.Random, data: bytes, tools: Bench) -> tuple[bytes, bool]:
    made = _changed(rng, data, rng.choice(tools.seeds).data)
    return made, made in {seed.data for seed in tools.seeds}


def _changed(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Bytes flipped, set, cut, doubled, moved, or taken from elsewhere."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at, size = rng.randrange(len(made) + 1), rng.choice((1, 2, 8, 64, 300))
        way = rng.randrange(8)
        if way == 0 and at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        elif way == 1 and at < len(made):
            made[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x5B, 0x7B))
        elif way == 2:
            del made[at:]
        elif way == 3:
            del made[at : at + size]
        elif way == 4:
            made[at:at] = made[at : at + size]
        elif way == 5:
            from_ = rng.randrange(len(other) + 1)
            made[at : at + size] = other[from_ : from_ + size]
        elif way == 6:
            made += rng.randbytes(size)
        elif len(made) >= HEADER.size:
            place = rng.choice((8, 12, 16, 20, 24, 28))
            made[place : place + 8] = rng.choice(NUMBERS).to_bytes(8, "little")
    return bytes(made)


def _taken_apart(data: bytes) -> tuple[int, dict[str, Any], dict[str, bytes], bytes]:
    """A sound bundle's version, manifest, parts, and what follows them."""
    _, version, _, end, length, _ = HEADER.unpack_from(data)
    manifest = json.loads(data[HEADER.size : HEADER.size + length])
    contents = {
        part["name"]: data[part["offset"] : part["offset"] + part["bytes"]]
        for part in manifest.pop("parts")
    }
    return version, manifest, contents, data[end:]


def _put_together(
    rng: random.Random, version: int, manifest: Any, contents: dict[str, bytes], tools: Bench
) -> tuple[bytes, bool]:
    """A bundle whose digests are right, signed where its version says so, half of the time by a
    signer who signs whatever it says."""
    region = b"".join(
        block.ljust(aligned(len(block)), b"\0")
        for block in file_blocks(manifest, contents, version)
    )
    if version != SIGNED:
        return region, False
    length = HEADER.unpack_from(region)[4]
    vouched = rng.random() < 0.5
    digest = hashlib.sha256(region[: HEADER.size + length] if vouched else b"").hexdigest()
    return region + trust.trailer([_signed(Statement(digest, "alice", NOW), tools)]), vouched


def _signed(statement: Statement, tools: Bench) -> Envelope:
    return Envelope(statement, tools.key_id, tools.sign(signed_message(statement)))


def _manifest(rng: random.Random, data: bytes, tools: Bench) -> tuple[bytes, bool]:
    version, manifest, contents, _ = _taken_apart(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        manifest = _changed_value(rng, manifest)
    if rng.random() < 0.1:
        version = rng.choice((1, 2, 3, 4, 0))
    if rng.random() < 0.1:
        contents.pop(rng.choice(list(contents)))
    if isinstance(manifest, dict):
        manifest.pop("parts", None)
        return _put_together(rng, version, manifest, contents, tools)
    text = json.dumps(manifest).encode()
    digest = hashlib.sha256(text).digest()
    size = aligned(HEADER.size + len(text))
    head = HEADER.pack(data[:8], min(version, 2), 0, size, len(text), digest)
    return (head + text).ljust(size, b"\0"), False


def _part(rng: random.Random, data: bytes, tools: Bench) -> tuple[bytes, bool]:
    version, manifest, contents, _ = _taken_apart(data)
    name = rng.choice(list(contents))
    if name.startswith("about/") and rng.random() < 0.8:
        document = json.loads(zlib.decompress(contents[name]))
        text = _text(rng, _changed_value(rng, document))
        contents[name] = zlib.compress(text, rng.choice((0, 9)))
    elif rng.random() < 0.1:
        contents[name] = zlib.compress(bytes(1 << 22), 9)
    else:
        contents[name] = _changed(rng, contents[name], rng.choice(list(contents.values())))
    return _put_together(rng, version, manifest, contents, tools)


def _envelope(rng: random.Random, data: bytes, tools: Bench) -> tuple[bytes, bool]:
    """A signed bundle whose envelopes are changed, under a right digest."""
    data = next(one.data for one in tools.seeds if one.data[8] == SIGNED) if data[8] != 3 else data
    _, _, length, _, _ = HEADER.unpack_from(data)[1:]
    region, text = data[:length], data[length + TRAILER.size :]
    (before,) = of_lines(text)
    way = rng.randrange(5)
    if way == 0:
        text = _changed(rng, text, rng.choice(tools.seeds).data)
    elif way == 1:
        text = _text(rng, _changed_value(rng, json.loads(text))) + b"\n"
    elif way == 2:
        document = json.loads(text)
        statement = _changed_value(rng, before.statement.to_json())
        document["payload"] = base64.b64encode(_text(rng, statement)).decode()
        text = canonical(document) + b"\n"
    elif way == 3:
        more = [replace(before, key_id=f"{i:064x}") for i in range(rng.choice((1, 7, 8, 99)))]
        text = lines([*more, before] if rng.random() < 0.5 else [before, *more])
    else:
        later = replace(before.statement, **rng.choice(LATER))
        text = lines([_signed(later, tools)])
    made = region + TRAILER.pack(admit.MAGIC, len(text), hashlib.sha256(text).digest()) + text
    return made, before.line() in text.split(b"\n") or way == 4


LATER: Sequence[dict[str, Any]] = (
    {"expires": NOW + 1},
    {"expires": NOW},
    {"name": "door"},
    {"signed": 0},
    {"signer": "\U0001f600" * 128},
    {"release": 2**53 - 1},
)


def _text(rng: random.Random, value: Any) -> bytes:
    """A value as JSON, seldom as what only looks like it."""
    text = canonical(value)
    way = rng.randrange(12)
    if way == 0:
        return text.replace(b":", b": ")
    if way == 1:
        return text.replace(b"1", b"NaN", 1)
    if way == 2:
        return text[:-1] + b',"a":1,"a":2}'
    if way == 3:
        return b"[" * rng.choice((10, 33, 5000)) + text
    if way == 4:
        return text.replace(b"a", b"\\ud800", 1)
    return text


def _changed_value(rng: random.Random, document: Any) -> Any:
    """A document in which one value is another, is gone, stands twice, or is nested deep."""
    made = copy.deepcopy(document)
    ways = [((), made)]
    for _, value in ways:
        inner = value.items() if isinstance(value, dict) else ()
        inner = enumerate(value) if isinstance(value, list) else inner
        ways += [((value, key), one) for key, one in inner]
    way, value = rng.choice(ways)
    what = rng.randrange(8)
    new = copy.deepcopy(rng.choice(STRANGE))
    if what == 0 and way:
        del way[0][way[1]]
        return made
    if what == 1:
        new = value
        for _ in range(rng.choice((1, 3, 40, 80))):
            new = [new] if rng.random() < 0.5 else {"a": new}
    elif what == 2 and isinstance(value, list):
        new = value * rng.choice((2, 100, 5000))
    elif what == 3 and isinstance(value, dict):
        new = {**value, rng.choice(("a", "later", "part", "")): new}
    elif what == 4 and isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        new = value[:at] + rng.choice(("/", "..", "\n", "é", "")) + value[at + 1 :]
    elif what == 5:
        new = copy.deepcopy(rng.choice(ways)[1])
    elif what == 6 and type(value) is int:
        new = value + rng.choice((-1, 1, ALIGN, -ALIGN))
    if not way:
        return new
    way[0][way[1]] = new
    return made
