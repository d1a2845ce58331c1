"""Small bundles whose models no engine opens, and keys to sign and encrypt them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.core.model import Signature, Step, Tensor
from edgedl.runtime.golden import Answer, Golden
from edgedl.runtime.payload import Payload, stored
from edgedl.runtime.sign.encrypt import encrypt
from edgedl.runtime.sign.keys import PublicKey
from edgedl.runtime.sign.private import Signed, keygen, sign
from edgedl.runtime.writing import Contents, write_bundle

SECRET = bytes(range(32))
NOW = 1_800_000_000


def clock() -> float:
    """The time at which these bundles are signed, in January 2027."""
    return NOW + 0.5


def like_onnx(content: bytes) -> bytes:
    """A message of Protocol Buffers that holds these bytes where ONNX has its producer's name."""
    size, length = bytearray(), len(content)
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([2 << 3 | 2, *size, length]) + content


def small_bundle(path: Path, model: bytes = b"model", *, deflated: bool = False) -> Path:
    """A bundle of one input, one output, one golden sample and a payload of these bytes."""
    x, y = np.arange(6, dtype=np.float32).reshape(1, 6), np.ones((1, 2), np.float32)
    plain = Payload("onnxruntime", "onnx", "models/a.onnx", "int8", {"memory_pattern": True})
    write_bundle(
        path,
        Contents(
            signature=Signature(
                (Tensor("x", "float32", (1, 6)),), (Tensor("y", "float32", (1, None)),)
            ),
            payloads=[stored(plain, model) if deflated else (plain, model)],
            golden=Golden(({"x": x},), ({"y": Answer.of(y)},), 0.01),
            history=[Step("clean", {"a": 1}, hashlib.sha256(b"").hexdigest(), {"edgedl": "0"})],
            notes={"a": [1, {"b": None}]},
            names={"w0": "weight"},
        ),
    )
    return path


def pair(folder: Path, name: str = "alice", **more: Any) -> tuple[Path, PublicKey]:
    """A private key's file, the public one beside it, and the latter's key."""
    key = keygen(folder / name, **more)
    return folder / f"{name}.key", key


def signed(path: Path, key: Path, **more: Any) -> Signed:
    """Sign a bundle at `NOW`."""
    return sign(path, key, **{"clock": clock, **more})


def encrypted_bundle(path: Path, model: bytes = b"model", *, deflated: bool = False) -> Path:
    """As `small_bundle`, its payload encrypted by `SECRET`."""
    plain = small_bundle(path.with_suffix(".plain.edl"), model, deflated=deflated)
    encrypt(plain, SECRET, path)
    plain.unlink()
    return path
