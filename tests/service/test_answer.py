"""Answers as the protocol writes them, in JSON and in binary."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.errors import BadRequest, Unsupported
from edgedl.core.model import Tensor
from edgedl.service.answer import encoded, refusal
from edgedl.service.contract import DTYPES
from edgedl.service.request import Request, Wanted
from tests.service.requests import contract
from tests.service.test_request import ARRAYS


def answer(*wanted: Wanted, identity: str | None = None, **outputs: np.ndarray) -> Any:
    """The parts of a response: its JSON, and the bytes behind it."""
    tensors = tuple(Tensor(name, array.dtype.name, None) for name, array in outputs.items())
    of = contract(Tensor("x", "float32", None), outputs=tensors)
    made = encoded(Request({}, wanted, identity), outputs, of, "net", "1")
    end = len(made.body) if made.json_bytes is None else made.json_bytes
    return json.loads(made.body[:end]), made.body[end:]


@given(ARRAYS, st.booleans())
def test_an_array_comes_back_whole(array: np.ndarray, binary: bool) -> None:
    head, blob = answer(Wanted("y", binary), y=array)
    (entry,) = head["outputs"]
    assert entry["shape"] == list(array.shape)
    assert DTYPES[entry["datatype"]] == array.dtype.name
    if binary:
        assert entry["parameters"]["binary_data_size"] == len(blob)
        found = np.frombuffer(blob, array.dtype)
    else:
        assert not blob
        found = np.array(entry["data"], array.dtype)
    np.testing.assert_array_equal(found.reshape(array.shape), array)


def test_only_what_is_asked_for_is_said_in_its_order() -> None:
    a, b = np.arange(4, dtype=np.int16).reshape(2, 2), np.ones(3, np.float16)
    head, blob = answer(Wanted("b", True), Wanted("a"), identity="7", a=a, b=b, c=b)
    assert head["model_name"] == "net"
    assert head["model_version"] == "1"
    assert head["id"] == "7"
    assert [entry["name"] for entry in head["outputs"]] == ["b", "a"]
    assert head["outputs"][1]["data"] == [0, 1, 2, 3]
    assert blob == b.tobytes()
    assert "id" not in answer(Wanted("a"), a=a)[0]


def test_rows_of_a_shared_array_are_its_own_bytes() -> None:
    whole = np.arange(12, dtype=np.float32).reshape(4, 3)
    _, blob = answer(Wanted("y", True), Wanted("z", True), y=whole[1:3], z=whole.T)
    assert blob == whole[1:3].tobytes() + np.ascontiguousarray(whole.T).tobytes()


def test_json_does_not_say_nan() -> None:
    array = np.array([1, np.inf], np.float32)
    with pytest.raises(Unsupported, match="`y` holds NaN or infinity") as caught:
        answer(Wanted("y"), y=array)
    assert b"binary_data" in refusal(caught.value)
    assert answer(Wanted("y", True), y=array)[1] == array.tobytes()


def test_the_best_classes_are_rows_of_value_and_index() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [3, 1, 3]], np.float32)
    (entry,) = answer(Wanted("y", classes=2), y=scores)[0]["outputs"]
    assert entry == {
        "name": "y", "datatype": "BYTES", "shape": [2, 2],
        "data": ["0.700000:1", "0.200000:2", "3.000000:0", "3.000000:2"],
    }  # fmt: skip
    head, blob = answer(Wanted("y", True, 5), y=scores[0])
    assert head["outputs"][0]["shape"] == [3]
    assert blob[:14] == b"\x0a\x00\x00\x000.700000:1"
    assert head["outputs"][0]["parameters"]["binary_data_size"] == len(blob) == 42
    assert answer(Wanted("y", classes=2), y=scores[:0])[0]["outputs"][0]["data"] == []


def test_a_refusal_is_one_member_with_its_hint() -> None:
    said = json.loads(refusal(BadRequest("wrong", hint="right")))
    assert said == {"error": "wrong (right)"}
