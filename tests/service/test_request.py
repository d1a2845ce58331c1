"""What is said is what is read, and whatever else comes is refused in words."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgedl.core.errors import BadRequest, TooLarge, Unsupported
from edgedl.core.model import Signature, Tensor
from edgedl.service.contract import DTYPES, Contract
from edgedl.service.request import MOST_JSON_BYTES, header_bytes, parse
from tests.service.requests import contract, written

X = Tensor("x", "float32", ("batch", 3))
FEED = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, max_side=4)
ARRAYS = st.sampled_from(sorted(DTYPES.values())).flatmap(
    lambda name: hnp.arrays(name, SHAPES, elements=hnp.from_dtype(
        np.dtype(name), allow_nan=False, allow_infinity=False, allow_subnormal=False))
)  # fmt: skip
STRANGE = (None, True, -1, 0.5, 10**30, "", "strange", "FP64", "BYTES", "BF16", [], [1], [[]],
           [None], {}, {"a": 1}, [{}], [{"name": "x"}], [2, 3], [2, True], [2.0, 3])  # fmt: skip


def read(body: bytes, json_bytes: int | None, of: Contract) -> Any:
    return parse(memoryview(bytearray(body)), json_bytes, of)


def refused(document: Any, of: Contract | None = None, body: bytes = b"") -> str:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(BadRequest) as caught:
        read(text + body, len(text) if body else None, of or contract(X))
    return str(caught.value)


def asked(**changes: Any) -> dict[str, Any]:
    entry = {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [0.0] * 6, **changes}
    return {"inputs": [{key: value for key, value in entry.items() if value != "absent"}]}


@given(ARRAYS, st.booleans(), st.booleans(), st.text(max_size=8))
def test_what_is_written_is_read(
    array: np.ndarray, binary: bool, flat: bool, identity: str
) -> None:
    of = contract(Tensor("x", array.dtype.name, None))
    body, json_bytes = written({"x": array}, binary=binary, id=identity)
    if not binary and (flat or not array.ndim):
        document = json.loads(body)
        document["inputs"][0]["data"] = array.reshape(-1).tolist()
        body = json.dumps(document).encode()
    request = read(body, json_bytes, of)
    assert request.id == identity
    assert request.inputs["x"].dtype == array.dtype
    assert request.inputs["x"].shape == array.shape
    np.testing.assert_array_equal(request.inputs["x"], array)


def test_binary_tensors_are_views_of_the_body() -> None:
    body, json_bytes = written({**FEED, "z": FEED["x"] + 1})
    whole = bytearray(body)
    request = parse(memoryview(whole), json_bytes, contract(X, Tensor("z", "float32", (2, 3))))
    whole[-4:] = np.float32(7).tobytes()
    assert request.inputs["z"][1, 2] == 7
    assert request.inputs["x"][1, 2] == 5


@given(st.binary(max_size=200), st.none() | st.integers(0, 250))
@example(b"\xff\xfe{\x00}\x00", None)
@example(b"[" * 100_000, None)
@example(b'{"inputs":' * 5_000, None)
@example(b"9" * 5_000, None)
@example(b'{"id": ' + b"[" * 900 + b"]" * 900 + b"}", None)
def test_any_bytes_are_read_or_refused(body: bytes, json_bytes: int | None) -> None:
    with pytest.raises(BadRequest):
        read(body, json_bytes, contract(X))


@given(st.data())
def test_a_request_with_a_byte_changed_is_read_or_refused(data: st.DataObject) -> None:
    binary = data.draw(st.booleans())
    body, json_bytes = written(
        FEED, binary=binary, id="a", parameters={"timeout": 5000},
        outputs=[{"name": "y", "parameters": {"binary_data": True, "classification": 1}}],
    )  # fmt: skip
    changed = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        request = read(bytes(changed), json_bytes, contract(X))
    except BadRequest as error:
        assert str(error)
        return
    assert request.inputs["x"].shape == (2, 3)
    assert request.inputs["x"].dtype == np.float32


@given(
    st.sampled_from(["inputs", "outputs", "parameters", "id", "name", "datatype", "shape", "data",
                     "tensor", "binary_data_size", "timeout"]),
    st.sampled_from(STRANGE),
)  # fmt: skip
def test_strange_values_are_read_or_refused(key: str, value: Any) -> None:
    document = asked()
    entry = document["inputs"][0]
    if key in ("name", "datatype", "shape", "data"):
        entry[key] = value
    elif key == "tensor":
        entry["parameters"] = value
    elif key == "binary_data_size":
        entry["parameters"] = {key: value}
    elif key == "timeout":
        document["parameters"] = {key: value}
    else:
        document[key] = value
    try:
        read(json.dumps(document).encode(), None, contract(X))
    except BadRequest as error:
        assert 0 < len(str(error)) < 400


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "not a JSON object"),
        (b'{"inputs": [NaN]}', "`NaN` is no JSON number"),
        ({}, "no tensor for input `x`"),
        ({"inputs": {}}, "`inputs` is not a list of objects"),
        ({"inputs": [{}]}, "has no name"),
        ({"inputs": [asked()["inputs"][0]] * 2}, "`x` stands in `inputs` twice"),
        (asked(name="z"), "`z` is not an input"),
        (asked(name="z" * 10**6), "is not an input"),
        (asked(datatype="FP64"), "input `x` is FP64, the model takes FP32"),
        (asked(datatype="BF16"), "input `x` is BF16, the model takes FP32"),
        (asked(datatype="BYTES", data=["a"] * 6), "input `x` is BYTES, the model takes FP32"),
        (asked(datatype="fp32"), 'the datatype of input `x` is fp32'),
        (asked(shape=[2, 4]), "has shape [2, 4], the model takes FP32 of shape [?, 3]"),
        (asked(shape=[0, 3], data=[]), "has shape [0, 3]"),
        (asked(shape=[-2, -3]), "holds -2"),
        (asked(shape=[10**12, 3]), "neither a flat list"),
        (asked(shape="2x3"), "is not a list of sizes"),
        (asked(data="absent"), "input `x` has no data"),
        (asked(data=[0.0] * 5), "neither a flat list of 6 values nor nested as [2, 3]"),
        (asked(data=[[0, 0, 0], [0, 0]]), "neither a flat list"),
        (asked(data=[[0, 0, 0], [0, 0, None]]), "holds null, FP32 takes numbers"),
        (asked(data=[0, 1, 2, 3, 4, "5"]), "holds text"),
        (asked(data=[0, 1, 2, 3, 4, True]), "holds booleans"),
        (asked(data=[0, 1, 2, 3, 4, 1e39]), "holds a number that FP32 cannot"),
        (asked(data=[0, 1, 2, 3, 4, 10**400]), "holds a number that FP32 cannot"),
        (asked(parameters={"binary_data_size": 24}), "both `data` and `binary_data_size`"),
        (asked(parameters={"shared_memory_region": "a"}), "shared memory are not offered"),
        ({**asked(), "parameters": {"sequence_id": 3}}, "are not offered"),
        ({**asked(), "parameters": {"timeout": -1}}, "not a count of microseconds"),
        ({**asked(), "parameters": {"binary_data_output": 1}}, "not true or false"),
        ({**asked(), "id": 7}, "`id` is 7, not a string"),
        ({**asked(), "outputs": [{"name": "z"}]}, "`z` is not an output"),
        ({**asked(), "outputs": [{"name": "y"}] * 2}, "stands in `outputs` twice"),
        ({**asked(), "outputs": [{"name": "y", "parameters": {"classification": -1}}]},
         "not a count"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(document: Any, words: str) -> None:
    said = refused(document)
    assert words in said
    assert len(said) < 400


@pytest.mark.parametrize(
    ("size", "body", "words"),
    [
        (24, b"0" * 23, "ends 1 bytes too early"),
        (24, b"0" * 25, "1 bytes stand behind the last tensor"),
        (20, b"0" * 20, "takes 24 bytes, not 20"),
        (-24, b"0" * 24, "takes 24 bytes, not -24"),
        ("24", b"0" * 24, "takes 24 bytes, not 24"),
    ],
)
def test_binary_data_has_the_shapes_length(size: Any, body: bytes, words: str) -> None:
    document = asked(data="absent", parameters={"binary_data_size": size})
    assert words in refused(document, body=body)


def test_whole_numbers_stay_within_their_type() -> None:
    for dtype, bad in (("uint8", 256), ("uint8", -1), ("int64", 2**63), ("int8", 1.0)):
        of = contract(Tensor("x", dtype, (1,)))
        document = asked(datatype=dtype.upper(), shape=[1], data=[bad])
        assert "data" in refused(document, of)
    of = contract(Tensor("x", "uint64", (1,)))
    body = json.dumps(asked(datatype="UINT64", shape=[1], data=[2**64 - 1])).encode()
    assert read(body, None, of).inputs["x"][0] == 2**64 - 1


def test_booleans_are_zero_or_one() -> None:
    of = contract(Tensor("x", "bool", (2,)))
    entry = asked(datatype="BOOL", shape=[2], data="absent", parameters={"binary_data_size": 2})
    assert "bytes other than 0 and 1" in refused(entry, of, b"\x01\x02")
    text = json.dumps(entry).encode()
    assert read(text + b"\x01\x00", len(text), of).inputs["x"].tolist() == [True, False]


def test_not_finite_is_refused_where_asked() -> None:
    feed = {"x": np.array([[0, np.nan, 1]], np.float32)}
    body, json_bytes = written(feed)
    assert np.isnan(read(body, json_bytes, contract(X)).inputs["x"][0, 1])
    with pytest.raises(BadRequest, match="`x` holds NaN or infinity"):
        read(body, json_bytes, contract(X, finite=True))


def test_axes_of_one_name_have_one_size() -> None:
    of = contract(X, Tensor("mask", "float32", ("batch",)))
    body, json_bytes = written({**FEED, "mask": np.ones(3, np.float32)})
    with pytest.raises(BadRequest, match="`batch` is 2 in `x` and 3 in `mask`"):
        read(body, json_bytes, of)


def test_json_has_a_bound_of_its_own() -> None:
    with pytest.raises(TooLarge, match="bytes of JSON are too many") as caught:
        read(b" " * (MOST_JSON_BYTES + 1), None, contract(X))
    assert "binary" in str(caught.value.hint)


def test_outputs_are_as_asked() -> None:
    of = contract(X, outputs=(Tensor("a", "float32", (1,)), Tensor("b", "float32", (1,))))
    body, json_bytes = written(FEED, parameters={"binary_data_output": True})
    every = read(body, json_bytes, of).outputs
    assert [(w.name, w.binary) for w in every] == [("a", True), ("b", True)]
    outputs = [
        {"name": "b"}, {"name": "a", "parameters": {"binary_data": True, "classification": 3}},
    ]  # fmt: skip
    body, json_bytes = written(FEED, outputs=outputs, parameters={"timeout": 1500})
    request = read(body, json_bytes, of)
    assert [(w.name, w.binary, w.classes) for w in request.outputs] == [
        ("b", False, 0), ("a", True, 3),
    ]  # fmt: skip
    assert request.timeout_s == 0.0015


def test_the_header_is_a_count() -> None:
    assert header_bytes(None) is None
    assert header_bytes(b" 12 ") == 12
    for bad in (b"", b"-1", b"1e3", b"0x10", b"1" * 30, "²".encode()):
        with pytest.raises(BadRequest, match="not a count"):
            header_bytes(bad)
    with pytest.raises(BadRequest, match="is 99, the body has 2 bytes"):
        read(b"{}", 99, contract(X))


def test_types_without_a_word_are_refused_on_opening() -> None:
    signature = Signature((Tensor("x", "complex64", (1,)),), ())
    with pytest.raises(Unsupported, match="`x` is complex64"):
        Contract.of(signature)
