"""Digests of large parts, which several cores work out together."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import BadBundle
from edgedl.runtime.digest import BLOCK, blocks_of, tree_digest
from edgedl.runtime.layout import (
    HEADER,
    LEAST_DIVIDED_BYTES,
    MAGIC,
    checked,
    file_blocks,
    head_of,
    header,
    holds,
    write_blocks,
)
from edgedl.runtime.window import window_of

LARGE = np.random.default_rng(0).bytes(LEAST_DIVIDED_BYTES + 4321)
OTHER = "0" * 64


def by_hand(data: bytes) -> bytes:
    leaves = [hashlib.sha256(data[at : at + BLOCK]).digest() for at in range(0, len(data), BLOCK)]
    return hashlib.sha256(b"".join(leaves)).digest()


def file_of(**contents: bytes) -> bytes:
    file = io.BytesIO()
    write_blocks(file, file_blocks({}, contents, 1))
    return file.getvalue()


def looked_through(data: bytes, most: int | None = None) -> Any:
    window = window_of(data, "net.edl")
    return checked(window, head_of(window, header(window)), most)


def with_claims(data: bytes, **claims: Any) -> bytes:
    """The same file, whose first part's digests are said to be these."""
    length = HEADER.unpack_from(data)[4]
    manifest = json.loads(data[HEADER.size : HEADER.size + length])
    manifest["parts"][0] |= claims
    text = json.dumps(manifest, sort_keys=True).encode()
    assert len(text) == length
    said = HEADER.unpack_from(data)
    head = HEADER.pack(MAGIC, *said[1:5], hashlib.sha256(text).digest())
    return head + text + data[len(head) + length :]


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 7])
def test_blocks_are_digested_alike_by_one_core_and_by_several(size: int) -> None:
    data = LARGE[:1] * size
    assert tree_digest(list(blocks_of(data))) == by_hand(data)


def test_only_large_parts_have_a_digest_of_blocks() -> None:
    _, parts = looked_through(file_of(large=LARGE, small=LARGE[: LEAST_DIVIDED_BYTES - 1]))
    assert parts["large"].blocks == parts["large"].digest == by_hand(LARGE).hex()
    assert parts["large"].sha256 == hashlib.sha256(LARGE).hexdigest()
    assert parts["small"].blocks is None
    assert parts["small"].digest == parts["small"].sha256
    assert holds(parts["large"], LARGE)


@pytest.mark.parametrize("at", [0, BLOCK, len(LARGE) - 1])
def test_an_altered_byte_of_a_large_part_is_noticed(at: int) -> None:
    data = bytearray(file_of(large=LARGE))
    _, parts = looked_through(bytes(data))
    altered = LARGE[:at] + bytes([LARGE[at] ^ 1]) + LARGE[at + 1 :]
    assert not holds(parts["large"], altered)
    data[parts["large"].offset + at] ^= 1
    with pytest.raises(BadBundle, match="part `large` was altered"):
        looked_through(bytes(data))


def test_blocks_in_another_order_are_another_part() -> None:
    _, parts = looked_through(file_of(large=LARGE))
    assert not holds(parts["large"], LARGE[BLOCK : 2 * BLOCK] + LARGE[:BLOCK] + LARGE[2 * BLOCK :])


@pytest.mark.parametrize("claims", [{"sha256": OTHER}, {"blocks": OTHER}, {"blocks": [10**63]}])
def test_of_two_digests_both_must_be_right(claims: dict[str, Any]) -> None:
    data = with_claims(file_of(large=LARGE), **claims)
    with pytest.raises(BadBundle, match="part `large` was altered"):
        looked_through(data)
