"""Every name of TensorRT that the code touches is in 10.3, 10.13, 10.16, 11.4 and RTX, or guarded.

`api.json` holds the names that the published bindings offer (benchmarks/tensorrt_api.py).
"""

from __future__ import annotations

import ast
import importlib
import io
from pathlib import Path
from typing import Any

import pytest

import edgedl
from edgedl.core.registry import installed
from edgedl.runtime.tensorrt.profiles import DTYPES
from tests.runtime.tensorrt.api import Use, guarded, lacking, surfaces, uses

ROOT = Path(edgedl.__file__).parent
FILES = sorted(
    path
    for path in [*(ROOT / "runtime" / "tensorrt").glob("*.py"), ROOT / "backends" / "tensorrt.py"]
    if path.exists()
)
PYTHONS = frozenset(
    name
    for kind in (type, str, bytes, dict, list, set, Path, io.TextIOWrapper, io.BufferedReader)
    for name in dir(kind)
)
# Guarded by asking for another name, which is missing wherever the first one is.
COMPANIONS = {
    "tiling_optimization_level": "TilingOptimizationLevel",
    "set_execution_context_allocation_strategy": "create_runtime_config",
    "set_runtime_cache": "create_runtime_cache",
    "deserialize": "create_runtime_cache",
    "set_compute_capability": "num_compute_capabilities",
}


def ours(text: str) -> set[str]:
    """Functions and classes that a module defines itself, and names of its objects' own."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)}


OURS = set().union(*(ours(path.read_text()) for path in FILES))


def test_the_versions_are_those_that_are_promised() -> None:
    numbers = [version.split("==")[1] for version in surfaces()[0]]
    assert [".".join(number.split(".")[:2]) for number in numbers] == [
        "10.3", "10.13", "10.16", "11.4", "1.7",
    ]  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_name_is_there_or_guarded(path: Path) -> None:
    text = path.read_text()
    asked = guarded(text)
    for use in uses(text, path.name):
        of_anything = use.owners == ("*",)
        if use.name in asked or use.name.startswith("__"):
            continue
        if of_anything and use.name in OURS | PYTHONS:
            continue
        if f'"{COMPANIONS.get(use.name)}"' in text:
            continue
        absent = lacking(use)
        assert not absent, (
            f"{use.where}: `{use.name}` of {use.owners} is not in {', '.join(absent)}"
        )


def test_the_code_touches_what_it_needs() -> None:
    """That the collection finds anything at all, in each of its three ways."""
    found = {use.name: use for path in FILES for use in uses(path.read_text(), path.name)}
    assert found["Runtime"].owners == ("",)
    assert found["STRONGLY_TYPED"].owners == ("NetworkDefinitionCreationFlag",)
    assert found["execute_async_v3"].owners == ("IExecutionContext",)
    assert found["get_tensor_profile_shape"].owners == ("ICudaEngine",)
    assert len(found) > 40


@pytest.mark.parametrize(
    ("code", "name", "absent"),
    [
        ("config.set_flag(trt.BuilderFlag.FP16)", "FP16", ["11.4", "1.7"]),
        ("self._trt.IInt8EntropyCalibrator2()", "IInt8EntropyCalibrator2", ["11.4", "1.7"]),
        ("x = self.library.LoggerX", "LoggerX", ["10.3", "10.13", "10.16", "11.4", "1.7"]),
        ("engine.create_runtime_config()", "create_runtime_config", ["10.3"]),
        ("self._context.execute_async_v2(1)", "execute_async_v2",
         ["10.3", "10.13", "10.16", "11.4", "1.7"]),
        ("thing.tiling_optimization_level = 1", "tiling_optimization_level", ["10.3"]),
        ("found.parser.supports_model(m)", "supports_model", ["11.4", "1.7"]),
    ],
)  # fmt: skip
def test_names_that_a_version_lacks_are_found(code: str, name: str, absent: list[str]) -> None:
    (use,) = [one for one in uses(code, "a.py") if one.name == name]
    missing = [".".join(one.split("==")[1].split(".")[:2]) for one in lacking(use)]
    assert missing == absent
    assert name in guarded(f"if hasattr(thing, '{name}'):\n    {code}")
    assert name not in guarded(code)


@pytest.mark.parametrize(("name", "companion"), COMPANIONS.items())
def test_where_a_name_is_missing_so_is_the_one_that_is_asked_for(name: str, companion: str) -> None:
    owner = ("",) if companion[0].isupper() else ("*",)
    assert set(lacking(Use("", ("*",), name))) <= set(lacking(Use("", owner, companion)))


def test_types_of_arrays_are_in_every_version() -> None:
    for name in DTYPES:
        assert not lacking(Use("profiles.py", ("DataType",), name))


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_bindings_that_are_installed_have_the_names_written_down(name: str) -> None:
    if not installed(name):
        pytest.skip(f"{name} is not installed")
    module: Any = importlib.import_module(name)
    versions, names = surfaces()
    fitting = [i for i, one in enumerate(versions) if one.endswith(f"=={module.__version__}")]
    if not fitting:
        pytest.skip(f"{name} {module.__version__} is none of the versions written down")
    for owner, own in names.items():
        there = {n for n, digits in own.items() if digits[fitting[0]] == "1"}
        thing = module
        for part in owner.split(".") if owner and there else ():
            thing = getattr(thing, part)
        for one in there:
            assert hasattr(thing, one), f"{owner}.{one}"
