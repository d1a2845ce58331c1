"""Names to code, and what is said where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import edgedl
from edgedl.core.errors import BadOption, EdgeError, Missing
from edgedl.core.registry import installed, load, resolve, version
from edgedl.core.target import TARGETS, target_of
from edgedl.runtime import ENGINES

TABLE = {"pi": "math:pi", "absent": "surely_absent_package.part:thing"}


def test_a_name_of_the_table() -> None:
    assert resolve(TABLE, "pi", kind="number") == pytest.approx(3.14159, abs=1e-5)


def test_an_unknown_name() -> None:
    with pytest.raises(BadOption, match="unknown number `pie`") as caught:
        resolve(TABLE, "pie", kind="number", group="edgedl.test.none")
    assert caught.value.hint == "did you mean `pi`? known: absent, pi"


def test_a_missing_module_becomes_advice() -> None:
    with pytest.raises(
        Missing, match="number `absent` needs the Python package `surely_absent_package`"
    ) as caught:
        resolve(TABLE, "absent", kind="number")
    assert caught.value.hint == "pip install 'surely_absent_package'"


@pytest.mark.parametrize(
    ("module", "extra"),
    [("torch", "train"), ("openvino", "openvino"), ("onnx", "build"), ("yaml", "build")],
)
def test_a_missing_module_of_ours_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, extra: str
) -> None:
    (tmp_path / "needs_it.py").write_text(f"import {module}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "needs_it", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Missing) as caught:
        load("needs_it:thing", "training")
    assert caught.value.hint == f"pip install 'edgedl[{extra}]'"


def test_a_missing_module_inside_edgedl_is_our_bug() -> None:
    with pytest.raises(ModuleNotFoundError):
        load("edgedl.nowhere:thing", "nothing")


def test_third_parties_add_names_by_entry_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    info = tmp_path / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[edgedl.test]\ntheirs = stranger_code:answer\npi = stranger_code:answer\n"
    )
    (tmp_path / "stranger_code.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve(TABLE, "theirs", kind="number", group="edgedl.test") == 42
    assert resolve(TABLE, "pi", kind="number", group="edgedl.test") != 42
    with pytest.raises(BadOption) as caught:
        resolve(TABLE, "their", kind="number", group="edgedl.test")
    assert "did you mean `theirs`?" in (caught.value.hint or "")


def test_installed_and_version() -> None:
    assert installed("numpy")
    assert not installed("surely_absent_package")
    assert version("numpy")
    assert version("surely-absent-package") is None


def test_public_names_are_loaded_on_first_use() -> None:
    assert edgedl.EdgeError is EdgeError
    assert callable(edgedl.open)
    assert {"open", "check", "compress", "__version__"} <= set(dir(edgedl))
    with pytest.raises(AttributeError, match="`opne`"):
        edgedl.opne  # noqa: B018


def test_targets() -> None:
    assert target_of("cpu").engines
    for target in TARGETS.values():
        assert set(target.engines) <= set(ENGINES)
    with pytest.raises(BadOption, match="`openvin`") as caught:
        target_of("openvin")
    assert "did you mean `openvino`?" in (caught.value.hint or "")
