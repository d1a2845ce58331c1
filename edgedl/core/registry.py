"""Names to code: a table of `module:attribute` strings, imported on first use."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

from edgedl.core.errors import BadOption, Missing, nearest

EXTRAS = {
    "onnx": "build",
    "onnx_ir": "build",
    "onnxscript": "build",
    "yaml": "build",
    "ml_dtypes": "build",
    "PIL": "images",
    "tokenizers": "text",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt_rtx": "tensorrt-rtx",
    "torch": "train",
    "safetensors": "train",
    "matplotlib": "plot",
    "cryptography": "sign",
    "starlette": "serve",
    "uvicorn": "serve",
}


def installed(module: str) -> bool:
    """Whether a top-level module can be imported, found out without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def missing(error: ModuleNotFoundError, purpose: str) -> Missing:
    """Turn a missing module into advice."""
    module = (error.name or "").split(".")[0]
    extra = EXTRAS.get(module)
    install = f"edgedl[{extra}]" if extra else module
    return Missing(
        f"{purpose} needs the Python package `{module}`, which is not installed",
        hint=f"pip install '{install}'",
    )


def load(path: str, purpose: str) -> Any:
    """The object at `module:attribute`.

    Raises:
        Missing: a module that it needs is not installed, or is none of the device's part of edgedl.
    """
    module_name, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "edgedl":
            if installed("edgedl.cli"):
                raise
            raise Missing(
                f"{purpose} needs `{error.name}`, and here is the device's part of edgedl alone",
                hint="pip install edgedl",
            ) from error
        raise missing(error, purpose) from error


def resolve(table: Mapping[str, str], name: str, *, kind: str, group: str | None = None) -> Any:
    """The object that `name` stands for in `table`, or in the entry points of `group`.

    Raises:
        BadOption: nobody knows the name; the hint says the nearest one.
        Missing: the name is known, but a module that it needs is not installed.
    """
    if name in table:
        return load(table[name], f"{kind} `{name}`")
    from importlib import metadata

    found = metadata.entry_points(group=group) if group else ()
    for entry in found:
        if entry.name == name:
            return load(entry.value, f"{kind} `{name}`")
    known = [*table, *(entry.name for entry in found)]
    raise BadOption(f"unknown {kind} `{name}`", hint=nearest(name, known))
