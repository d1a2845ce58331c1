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
    "pyarrow": "tables",
    "cryptography": "sign",
    "starlette": "serve",
    "uvicorn": "serve",
}


_VERSIONS: dict[str, str] = {}
WHOLE, DEVICE = "edgedl", "edgedl-runtime"  # distributions of the package `edgedl`


def distribution() -> str:
    """What this is installed as: the whole of edgedl, or the device's part, which exclude one
    another."""
    return WHOLE if installed("edgedl.cli") else DEVICE


def how_to_install(extra: str) -> str:
    """The command that adds an extra to what is installed."""
    return f"pip install '{distribution()}[{extra}]'"


def how_to_upgrade() -> str:
    """The command that brings what is installed up to date."""
    return f"pip install --upgrade {distribution()}"


def whole_instead() -> str:
    """The commands that put the whole of edgedl in place of the device's part."""
    return f"pip uninstall {DEVICE}, then pip install {WHOLE}, which holds both"


def installed(module: str) -> bool:
    """Whether a top-level module can be imported, found out without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def version(package: str) -> str | None:
    """The installed version of a distribution, or None; read once, since a process goes on with
    what it has loaded."""
    from importlib import metadata

    if package not in _VERSIONS:
        try:
            _VERSIONS[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            return None
    return _VERSIONS[package]


def missing(error: ModuleNotFoundError, purpose: str) -> Missing:
    """Turn a missing module into advice."""
    module = (error.name or "").split(".")[0]
    extra = EXTRAS.get(module)
    return Missing(
        f"{purpose} needs the Python package `{module}`, which is not installed",
        hint=how_to_install(extra) if extra else f"pip install '{module}'",
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
                hint=whole_instead(),
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
