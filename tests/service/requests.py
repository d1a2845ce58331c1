"""Requests as a client writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgedl.core.model import Signature, Tensor
from edgedl.service.contract import DATATYPES, Contract


def tensor(name: str, array: np.ndarray, *, binary: bool) -> dict[str, Any]:
    """A tensor's entry; its data, too, where it is not binary."""
    entry = {"name": name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.name]}
    if binary:
        return {**entry, "parameters": {"binary_data_size": array.nbytes}}
    return {**entry, "data": array.tolist()}


def written(
    feed: Mapping[str, np.ndarray], *, binary: bool = True, **more: Any
) -> tuple[bytes, int | None]:
    """A request's body, and the length of its JSON where binary data follows."""
    document = {
        "inputs": [tensor(name, array, binary=binary) for name, array in feed.items()],
        **more,
    }
    text = json.dumps(document).encode()
    if not binary:
        return text, None
    return b"".join([text, *(array.tobytes() for array in feed.values())]), len(text)


def contract(*inputs: Tensor, outputs: tuple[Tensor, ...] = (), finite: bool = False) -> Contract:
    """A contract of these tensors; `y`, a row of two numbers, is the output where none is given."""
    made = outputs or (Tensor("y", "float32", (None, 2)),)
    return Contract.of(Signature(inputs, made), finite=finite)
