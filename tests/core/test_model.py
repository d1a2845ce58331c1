"""Tensors, signatures and steps go to JSON and back."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.model import Model, Signature, Step, Tensor, sha256

DIMENSIONS = st.one_of(st.integers(0, 512), st.text(min_size=1, max_size=5), st.none())
TENSORS = st.builds(
    Tensor,
    st.text(min_size=1, max_size=9),
    st.sampled_from(["float32", "int64", "uint8", "bool"]),
    st.one_of(st.none(), st.lists(DIMENSIONS, max_size=4).map(tuple)),
)
SIGNATURES = st.builds(
    Signature, st.lists(TENSORS, max_size=3).map(tuple), st.lists(TENSORS, max_size=3).map(tuple)
)


@given(SIGNATURES)
def test_signature_survives_json(signature: Signature) -> None:
    assert Signature.from_json(json.loads(json.dumps(signature.to_json()))) == signature


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 3), True),
        (("n", 3), True),
        ((None, 3), True),
        ((2, 3), False),
        ((), False),
        (None, False),
    ],
)
def test_batch_axis_is_one_or_dynamic(
    shape: tuple[int | str | None, ...] | None, expected: bool
) -> None:
    assert Tensor("x", "float32", shape).has_batch_axis is expected


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (Tensor("x", "float32", (1, 3, "w", None)), "x float32[1x3xwx?]"),
        (Tensor("n", "int64", ()), "n int64[]"),
        (Tensor("z", "uint8", None), "z uint8[?]"),
    ],
)
def test_tensor_reads_as_people_write_it(tensor: Tensor, text: str) -> None:
    assert str(tensor) == text


def test_step_survives_json() -> None:
    step = Step("fold", {"limit": 3, "names": ["a"]}, "ab" * 32, {"onnx": "1.0"})
    assert Step.from_json(json.loads(json.dumps(step.to_json()))) == step


def test_digest_and_size_cover_every_file(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"abc")
    second.write_bytes(b"defgh")
    assert sha256([first, second]) == hashlib.sha256(b"abcdefgh").hexdigest()
    assert Model(first, "0", Signature((), ()), (), (first, second)).bytes == 8
