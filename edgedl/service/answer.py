"""From a model's answers to the bytes of a response: JSON, and the binary extension."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedl.core.errors import EdgeError, Unsupported
from edgedl.service.contract import Contract
from edgedl.service.request import Request, Wanted

BYTES_PREFIX = 4


@dataclass(frozen=True)
class Answer:
    """A response's body; `json_bytes` of it are JSON where binary tensors follow, else None."""

    body: bytes
    json_bytes: int | None


def encoded(
    request: Request,
    outputs: Mapping[str, np.ndarray],
    contract: Contract,
    model: str,
    version: str,
) -> Answer:
    """What the client asked for of `outputs`.

    Raises:
        Unsupported: a value is NaN or infinite, which JSON cannot say.
    """
    head: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        head["id"] = request.id
    blobs: list[Any] = []
    head["outputs"] = [
        _tensor(want, outputs[want.name], contract, blobs) for want in request.outputs
    ]
    text = json.dumps(head, allow_nan=False, separators=(",", ":")).encode()
    if not any(want.binary for want in request.outputs):
        return Answer(text, None)
    return Answer(b"".join((text, *blobs)), len(text))


def _tensor(
    want: Wanted, array: np.ndarray, contract: Contract, blobs: list[Any]
) -> dict[str, Any]:
    """An output's entry; a binary one's bytes go to `blobs`, uncopied where they lie in order."""
    slot = contract.outputs[want.name]
    if want.classes:
        return _classes(want, array, blobs)
    entry = {"name": want.name, "datatype": slot.datatype, "shape": list(array.shape)}
    if want.binary:
        plain = np.ascontiguousarray(array, slot.dtype).reshape(-1).view(np.uint8)
        blobs.append(plain.data)
        return {**entry, "parameters": {"binary_data_size": plain.nbytes}}
    if slot.dtype.kind == "f" and not np.isfinite(array).all():
        raise Unsupported(
            f"output `{want.name}` holds NaN or infinity, which JSON cannot say",
            hint='ask for it with the parameter "binary_data": true',
        )
    return {**entry, "data": array.reshape(-1).tolist()}


def _classes(want: Wanted, array: np.ndarray, blobs: list[Any]) -> dict[str, Any]:
    """Triton's classification extension: a row of `value:index` a sample, the highest first."""
    rows = array.reshape(
        array.shape[0] if array.ndim > 1 else 1,
        math.prod(array.shape[1:]) if array.ndim > 1 else array.size,
    )
    count = min(want.classes, rows.shape[1])
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    texts = [
        f"{row[index]:f}:{index}" for row, best in zip(rows, order, strict=True) for index in best
    ]
    shape = [rows.shape[0], count] if array.ndim > 1 else [count]
    entry = {"name": want.name, "datatype": "BYTES", "shape": shape}
    if not want.binary:
        return {**entry, "data": texts}
    data = b"".join(len(t).to_bytes(BYTES_PREFIX, "little") + t.encode() for t in texts)
    blobs.append(data)
    return {**entry, "parameters": {"binary_data_size": len(data)}}


def refusal(error: EdgeError) -> bytes:
    """An error as the protocol says it, with its hint."""
    text = str(error) if error.hint is None else f"{error} ({error.hint})"
    return json.dumps({"error": text}).encode()
