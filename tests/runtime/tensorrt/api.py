"""Which names of TensorRT a piece of code touches, and which versions lack them."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# What code calls TensorRT's module, and objects of its classes.
MODULES = frozenset({"trt", "_trt", "library"})
RECEIVERS: Mapping[str, tuple[str, ...]] = {
    "builder": ("Builder",),
    "cache": ("ITimingCache", "IRuntimeCache"),
    "config": ("IBuilderConfig", "IRuntimeConfig"),
    "context": ("IExecutionContext",),
    "engine": ("ICudaEngine",),
    "inspector": ("EngineInspector",),
    "network": ("INetworkDefinition",),
    "parser": ("OnnxParser",),
    "runtime": ("Runtime",),
}


@dataclass(frozen=True)
class Use:
    """One place: the file and line, the class ("" of the module, "*" of any), and the name."""

    where: str
    owners: tuple[str, ...]
    name: str


@cache
def surfaces() -> tuple[tuple[str, ...], dict[str, dict[str, str]]]:
    """The versions, and of each class its names with a digit a version, as the wheels have them."""
    document: dict[str, Any] = json.loads((Path(__file__).parent / "api.json").read_text())
    return tuple(document["versions"]), document["names"]


def lacking(use: Use) -> list[str]:
    """The versions in which a name is nowhere that it is looked for."""
    versions, names = surfaces()
    owners = [one for one in names if one] if use.owners == ("*",) else list(use.owners)
    digits = [names[one][use.name] for one in owners if use.name in names.get(one, {})]
    return [v for i, v in enumerate(versions) if not any(one[i] == "1" for one in digits)]


def known_somewhere(name: str) -> bool:
    """Whether any class of any version has such an attribute."""
    return any(name in own for owner, own in surfaces()[1].items() if owner)


def uses(text: str, where: str) -> Iterator[Use]:
    """Everything of TensorRT that a module's code touches."""
    tree = ast.parse(text)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        place = f"{where}:{node.lineno}"
        chain = _after_module(node)
        if chain is not None:
            yield Use(place, (".".join(chain[:-1]),), chain[-1])
        elif id(node) not in inner or not _starts_at_module(node):
            owners = RECEIVERS.get(_last(node.value))
            if owners is not None:
                yield Use(place, owners, node.attr)
            elif known_somewhere(node.attr):
                yield Use(place, ("*",), node.attr)


def guarded(text: str) -> set[str]:
    """Names that a module's code asks for with `hasattr` or `getattr`."""
    return {
        node.args[1].value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("hasattr", "getattr")
        and len(node.args) > 1
        and isinstance(node.args[1], ast.Constant)
        and isinstance(node.args[1].value, str)
    }


def _last(node: ast.expr) -> str:
    """The last word of what an attribute is taken of, without the underscore of private ones."""
    if isinstance(node, ast.Attribute):
        return node.attr.lstrip("_")
    return node.id.lstrip("_") if isinstance(node, ast.Name) else ""


def _after_module(node: ast.expr) -> list[str] | None:
    """The words behind the module in `trt.BuilderFlag.FP16`; None where it is no such chain, or
    goes on beyond two of them (an enumeration's member has attributes of Python's)."""
    words: list[str] = []
    while isinstance(node, ast.Attribute):
        if node.attr in MODULES:
            break
        words.insert(0, node.attr)
        node = node.value
    is_module = isinstance(node, (ast.Name, ast.Attribute)) and _name(node) in MODULES
    return words if is_module and 1 <= len(words) <= 2 else None


def _starts_at_module(node: ast.Attribute) -> bool:
    return _after_module(node) is not None


def _name(node: ast.Name | ast.Attribute) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id
