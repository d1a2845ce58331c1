"""From the bytes of a request to arrays, with nothing believed: JSON, and the binary extension.

The Open Inference Protocol, version 2, and its binary tensor data extension, as KServe and Triton
publish them. Bytes in, values out; whatever does not fit raises `BadRequest`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from edgedl.core.errors import BadRequest, TooLarge, nearest
from edgedl.service.contract import DTYPES, MOST_AXES, NO_ARRAYS, Contract, Slot
from edgedl.service.values import from_json

MOST_SHOWN = 80
MOST_HEADER_DIGITS = 18
MOST_JSON_BYTES = 16_000_000  # as Python's objects it may take 25 times as much
NOT_OFFERED = {
    "shared_memory_region": "shared memory",
    "sequence_id": "sequences whose state is kept here",
}


@dataclass(frozen=True)
class Wanted:
    """One output that is asked for: in binary or as JSON, and its `classes` best ones where that
    is not 0."""

    name: str
    binary: bool = False
    classes: int = 0


@dataclass(frozen=True)
class Request:
    """What is to be run, and what to say afterwards.

    Attributes:
        inputs: an array for every input, in the model's types and in shapes that it takes.
        outputs: what is asked for, in the order in which it is asked.
        id: echoed; None where there was none.
        timeout_s: from the parameter `timeout`, microseconds on the wire; None where absent.
    """

    inputs: Mapping[str, np.ndarray]
    outputs: tuple[Wanted, ...]
    id: str | None = None
    timeout_s: float | None = None


@dataclass
class _Blobs:
    """The bytes behind the JSON, taken tensor by tensor."""

    data: memoryview
    at: int = field(default=0)

    def take(self, size: int, name: str) -> memoryview:
        if self.at + size > len(self.data):
            _refuse(
                f"the binary data ends {self.at + size - len(self.data)} bytes too early for input"
                f" `{shown(name)}`"
            )
        taken = self.data[self.at : self.at + size]
        self.at += size
        return taken


def shown(value: object) -> str:
    """What the client wrote, short enough for a message."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    whole = value if isinstance(value, str) else json.dumps(value)
    return whole if len(whole) <= MOST_SHOWN else whole[:MOST_SHOWN] + "..."


def _refuse(message: str, hint: str | None = None) -> NoReturn:
    raise BadRequest(message, hint=hint)


def header_bytes(value: bytes | None) -> int | None:
    """The number in `Inference-Header-Content-Length`; None where the header is absent.

    Raises:
        BadRequest: it is no count.
    """
    if value is None:
        return None
    text = value.strip()
    if not text.isdigit() or len(text) > MOST_HEADER_DIGITS:
        _refuse("`Inference-Header-Content-Length` is not a count of bytes")
    return int(text)


def parse(body: memoryview, json_bytes: int | None, contract: Contract) -> Request:
    """The request in `body`, whose first `json_bytes` are JSON; all of it where that is None.

    Arrays of binary tensors are views of `body`.

    Raises:
        BadRequest: it is not one that the protocol and the model take. TooLarge: its JSON is.
    """
    if json_bytes is not None and json_bytes > len(body):
        _refuse(
            f"`Inference-Header-Content-Length` is {json_bytes}, the body has {len(body)} bytes"
        )
    end = len(body) if json_bytes is None else json_bytes
    if end > MOST_JSON_BYTES:
        raise TooLarge(
            f"{end} bytes of JSON are too many, {MOST_JSON_BYTES} are taken",
            hint="send tensors as binary data, which may be larger",
        )
    document = _document(bytes(body[:end]))
    parameters = _object(document, "parameters", "the request")
    _offered(parameters, "the request")
    blobs = _Blobs(body[end:])
    inputs = _inputs(document, contract, blobs)
    if blobs.at != len(blobs.data):
        _refuse(f"{len(blobs.data) - blobs.at} bytes stand behind the last tensor")
    return Request(
        inputs,
        _outputs(document, contract, _flag(parameters, "binary_data_output", False)),
        _id(document),
        _timeout_s(parameters),
    )


def _document(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        _refuse("the JSON is nested too deep")
    except UnicodeDecodeError:
        _refuse("the JSON is not UTF-8")
    except json.JSONDecodeError as error:
        _refuse(f"the body is not JSON: {shown(error.msg.lower())} at byte {error.pos}")
    except ValueError as error:
        _refuse(f"the body is not JSON: {shown(str(error))}")
    if not isinstance(document, dict):
        _refuse("the request is not a JSON object", '{"inputs": [...]}')
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"`{name}` is no JSON number; send the tensor as binary data")


def _object(holder: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    found = holder.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        _refuse(f"`{key}` of {where} is not an object")
    return found


def _array(holder: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of objects, each with a name of its own."""
    found = holder.get(key)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        _refuse(f"`{key}` is not a list of objects")
    seen: set[str] = set()
    for entry in found:
        name = entry.get("name")
        if not isinstance(name, str):
            _refuse(f"an entry of `{key}` has no name")
        if name in seen:
            _refuse(f"`{shown(name)}` stands in `{key}` twice")
        seen.add(name)
    return found


def _flag(parameters: Mapping[str, Any], key: str, otherwise: bool) -> bool:
    found = parameters.get(key, otherwise)
    if not isinstance(found, bool):
        _refuse(f"the parameter `{key}` is {shown(found)}, not true or false")
    return found


def _offered(parameters: Mapping[str, Any], where: str) -> None:
    for key, what in NOT_OFFERED.items():
        if parameters.get(key) not in (None, 0, ""):
            _refuse(f"`{key}` of {where}: {what} are not offered", "send the tensors' data itself")


def _id(document: Mapping[str, Any]) -> str | None:
    found = document.get("id")
    if found is not None and not isinstance(found, str):
        _refuse(f"`id` is {shown(found)}, not a string")
    return found


def _timeout_s(parameters: Mapping[str, Any]) -> float | None:
    found = parameters.get("timeout")
    if found is None or found == 0:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or not 0 < found < 2**63:
        _refuse(f"the parameter `timeout` is {shown(found)}, not a count of microseconds")
    return found / 1e6


def _inputs(
    document: Mapping[str, Any], contract: Contract, blobs: _Blobs
) -> dict[str, np.ndarray]:
    entries = _array(document, "inputs")
    found: dict[str, np.ndarray] = {}
    sizes: dict[str, tuple[int, str]] = {}
    for entry in entries:
        slot = contract.inputs.get(entry["name"])
        if slot is None:
            name = shown(entry["name"])
            _refuse(f"`{name}` is not an input", nearest(name, contract.inputs))
        array = _tensor(entry, slot, blobs)
        _alike(slot, array.shape, sizes)
        if contract.finite and slot.dtype.kind == "f" and not np.isfinite(array).all():
            _refuse(f"input `{slot.name}` holds NaN or infinity, which are refused here")
        found[slot.name] = array
    absent = [f"`{name}`" for name in contract.inputs if name not in found]
    if absent:
        _refuse(f"no tensor for input {', '.join(absent)}", "give every input by name")
    return found


def _alike(slot: Slot, shape: tuple[int, ...], sizes: dict[str, tuple[int, str]]) -> None:
    """Axes of one name must be of one size, as the ONNX specification says."""
    for axis, size in zip(slot.shape or (), shape, strict=False):
        if isinstance(axis, str):
            known, whose = sizes.setdefault(axis, (size, slot.name))
            if known != size:
                _refuse(f"the axis `{axis}` is {known} in `{whose}` and {size} in `{slot.name}`")


def _tensor(entry: Mapping[str, Any], slot: Slot, blobs: _Blobs) -> np.ndarray:
    name = f"input `{slot.name}`"
    _datatype(entry.get("datatype"), slot)
    shape = _shape(entry.get("shape"), slot)
    parameters = _object(entry, "parameters", name)
    _offered(parameters, name)
    count = math.prod(shape)
    size = parameters.get("binary_data_size")
    if size is None:
        if "data" not in entry:
            _refuse(f"{name} has no data", "`data`, or the parameter `binary_data_size`")
        return from_json(entry["data"], slot, shape)
    if "data" in entry:
        _refuse(f"{name} has both `data` and `binary_data_size`")
    wanted = count * slot.dtype.itemsize
    if isinstance(size, bool) or not isinstance(size, int) or size != wanted:
        _refuse(f"{name} of shape {list(shape)} takes {wanted} bytes, not {shown(size)}")
    data = blobs.take(size, slot.name)
    if slot.datatype == "BOOL" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        _refuse(f"{name} is BOOL and holds bytes other than 0 and 1")
    return np.frombuffer(data, slot.dtype).reshape(shape)


def _datatype(given: object, slot: Slot) -> None:
    if given == slot.datatype:
        return
    if not isinstance(given, str) or given not in (*DTYPES, *NO_ARRAYS):
        _refuse(
            f"the datatype of input `{slot.name}` is {shown(given)}",
            f"the model takes {slot.datatype}",
        )
    _refuse(
        f"input `{slot.name}` is {given}, the model takes {slot.datatype}",
        "text is not taken: send what the model was trained on" if given == "BYTES" else None,
    )


def _shape(given: object, slot: Slot) -> tuple[int, ...]:
    if not isinstance(given, list) or len(given) > MOST_AXES:
        _refuse(f"the shape of input `{slot.name}` is not a list of sizes")
    for size in given:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 2**63:
            _refuse(f"the shape of input `{slot.name}` holds {shown(size)}")
    wanted = slot.shape
    fits = wanted is None or (
        len(given) == len(wanted)
        and all(
            size == axis if isinstance(axis, int) else size > 0
            for size, axis in zip(given, wanted, strict=True)
        )
    )
    if not fits:
        _refuse(f"input `{slot.name}` has shape {shown(str(given))}, the model takes {slot}")
    return tuple(given)


def _outputs(document: Mapping[str, Any], contract: Contract, binary: bool) -> tuple[Wanted, ...]:
    entries = _array(document, "outputs")
    if not entries:
        return tuple(Wanted(name, binary) for name in contract.outputs)
    found = []
    for entry in entries:
        name = entry["name"]
        if name not in contract.outputs:
            name = shown(name)
            _refuse(f"`{name}` is not an output", nearest(name, contract.outputs))
        parameters = _object(entry, "parameters", f"output `{name}`")
        _offered(parameters, f"output `{name}`")
        classes = parameters.get("classification", 0)
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 0:
            _refuse(f"`classification` of output `{name}` is {shown(classes)}, not a count")
        if classes and contract.outputs[name].datatype == "BOOL":
            _refuse(f"output `{name}` is BOOL, which has no best classes")
        found.append(Wanted(name, _flag(parameters, "binary_data", binary), classes))
    return tuple(found)
