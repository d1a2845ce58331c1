"""Bundles of each format version, kept to be opened by every later reader.

    python -m tests.golden.bundles.make_bundles 5

Only a version that has no file yet is ever made; version N is written by code that knows of no
later one. The keys in `keys/` were made for these files and are known to everybody: nothing else
may ever trust them. They were made by

    edgedl keygen tests/golden/bundles/keys/for_tests_only
    edgedl keygen tests/golden/bundles/keys/for_tests_only --encryption
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.core.model import Signature, Step, Tensor
from edgedl.runtime.golden import Answer, Golden, coarse
from edgedl.runtime.payload import Needs, Payload, stored
from edgedl.runtime.process import Processing
from edgedl.runtime.process.image import Image
from edgedl.runtime.sign.encrypt import encrypt
from edgedl.runtime.sign.private import sign
from edgedl.runtime.writing import Contents, write_bundle
from tests.models import Sketch, answers

HERE = Path(__file__).parent
PART = "models/net.onnx"
KEYS = HERE / "keys"
SIGNER, SECRET = KEYS / "for_tests_only.key", KEYS / "for_tests_only.aes"
# Version 5 is signed in January 2027, and holds until January 2037.
SIGNED_AT, EXPIRES = 1_800_000_000, 2_115_360_000
HISTORY = [Step("clean", {"a": 1}, "0" * 64, {"edgedl": "0.1.0"})]


def image_net() -> bytes:
    """conv, relu, mean, dense: an image of 8x8 to five figures."""
    net = Sketch(20)
    net.conv("x", "conv1", 3, 4)
    net.node("Relu", ["conv1"], "relu1")
    net.head("relu1", 4)
    return bytes(net.model([1, 3, 8, 8], [1, 5]).SerializeToString())


def sparse_net() -> bytes:
    """A product of which three weights in four are zero."""
    net = Sketch(21)
    weight = net.random.standard_normal((40, 32)).astype(np.float32)
    weight[net.random.random(weight.shape) < 0.75] = 0
    net.node("MatMul", ["x", net.constant("w", weight)], "product")
    net.node("Add", ["product", net.weight("b", 32)], "logits")
    return bytes(net.model([1, 40], [1, 32]).SerializeToString())


def write(
    path: Path, data: bytes, shape: tuple[int, ...], classes: int, payloads: Any, **more: Any
) -> None:
    """A bundle with two golden samples, their answers from onnxruntime."""
    random = np.random.default_rng(22)
    rows = [coarse({"x": random.standard_normal(shape).astype(np.float32)}) for _ in range(2)]
    told = [{k: Answer.of(v) for k, v in row.items()} for row in answers(data, rows, "onnxruntime")]
    write_bundle(
        path,
        Contents(
            signature=Signature(
                (Tensor("x", "float32", shape),), (Tensor("logits", "float32", (1, classes)),)
            ),
            payloads=payloads,
            golden=Golden(tuple(rows), tuple(told), 0.01),
            history=HISTORY,
            notes={"threads": 1, "speedup": {"ratio": 2.5, "low": 2.4, "high": 2.6}},
            names={"w0": "layer/weight"},
            **more,
        ),
    )


def own(key: Path, folder: Path) -> Path:
    """A copy of a key that nobody else may read, which a file of a repository cannot be."""
    copy = folder / key.name
    copy.touch(mode=0o600)
    copy.write_bytes(key.read_bytes())
    return copy


def version_1(path: Path) -> None:
    """One ONNX payload, as it is, and what stands before the network."""
    data = image_net()
    payload = Payload("onnxruntime", "onnx", PART, "float32", {})
    write(path, data, (1, 3, 8, 8), 5, [(payload, data)], processing=Processing(Image()))


def version_2(path: Path) -> None:
    """One ONNX payload, deflated."""
    data = sparse_net()
    payload, lying = stored(Payload("onnxruntime", "onnx", PART, "float32", {}), data)
    assert payload.format == "onnx+deflate"
    write(path, data, (1, 40), 32, [(payload, lying)])


def version_3(path: Path) -> None:
    """Payloads that need more than an engine, a recipe of a deflated part, and one part for all."""
    data = sparse_net()
    plain, lying = stored(Payload("onnxruntime", "onnx", PART, "float32", {}), data)
    other = replace(plain, engine="openvino", settings={"precision": "f32"})
    elsewhere = Needs("2026.4.1", "2026.4.1", "ab" * 32, "Cortex-A72")
    payloads = [
        (
            Payload(
                "openvino", "compiled", "models/a72.compiled", "float32", {"precision": "f32"},
                needs=elsewhere,
            ),
            b"what OpenVINO made there",
        ),
        (replace(plain, engine="tensorrt", format="build", settings={"workspace": 1 << 28},
                 needs=Needs(least="10.3")), lying),
        (replace(other, precision="int8", needs=Needs(flags=("no_such_flag",))), lying),
        (replace(plain, needs=Needs(least="1.20")), lying),
        (other, lying),
    ]  # fmt: skip
    write(path, data, (1, 40), 32, payloads)


def version_4(path: Path) -> None:
    """Two payloads of one deflated part, and one that lies as it is, encrypted."""
    data = sparse_net()
    plain, lying = stored(Payload("onnxruntime", "onnx", PART, "float32", {}), data)
    other = replace(plain, engine="openvino", settings={"precision": "f32"})
    whole = replace(plain, format="onnx", part="models/plain.onnx", inflated=None)
    clear = path.with_name(f"clear_{path.name}")
    write(clear, data, (1, 40), 32, [(plain, lying), (other, lying), (whole, data)])
    encrypt(clear, own(SECRET, path.parent), path, key_id="for-tests-only")
    clear.unlink()


def version_5(path: Path) -> None:
    """One ONNX payload, signed, and the raw signature beside it."""
    data = image_net()
    payload = Payload("onnxruntime", "onnx", PART, "float32", {})
    write(path, data, (1, 3, 8, 8), 5, [(payload, data)])
    more = {"name": "golden/net", "release": 7, "expires": EXPIRES}
    sign(path, own(SIGNER, path.parent), signer="for tests only", clock=lambda: SIGNED_AT, **more)


VERSIONS: dict[str, Callable[[Path], None]] = {
    "1": version_1,
    "2": version_2,
    "3": version_3,
    "4": version_4,
    "5": version_5,
}


def main(versions: list[str]) -> None:
    for version in versions:
        path = HERE / f"version_{version}.edl"
        assert not path.exists(), f"{path} is kept for good"
        VERSIONS[version](path)
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1:])
