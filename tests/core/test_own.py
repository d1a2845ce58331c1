"""A user's own code: where it is looked for, and when it is another."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgedl.core.own import own_module, placed, source_digest


def test_a_file_is_looked_for_from_the_folder_on(tmp_path: Path) -> None:
    (tmp_path / "here.py").touch()
    assert placed("gone.py:f", tmp_path) == f"{tmp_path / 'gone.py'}:f"
    assert placed("here:f", tmp_path) == f"{tmp_path / 'here.py'}:f"
    assert placed("/else/where.py:f", tmp_path) == "/else/where.py:f"
    for spec in ("package.module:f", "mlp", ":f"):
        assert placed(spec, tmp_path) == spec


def test_a_file_is_a_module_that_dataclasses_find(tmp_path: Path) -> None:
    file = tmp_path / "shaped.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Shape:\n    width: int = 3\n"
    )
    module = own_module(str(file))
    assert module.Shape().width == 3
    assert sys.modules[module.__name__] is module
    file.write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        own_module(str(file))
    assert module.__name__ not in sys.modules


def test_the_digest_is_of_a_file_and_of_what_it_imports_beside_it(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "digested_deep.py").write_text("B = 1\n")
    (tmp_path / "digested_beside.py").write_text("from inner.digested_deep import B\n")
    (tmp_path / "apart.py").write_text("C = 1\n")
    file = tmp_path / "own.py"
    file.write_text("import numpy, digested_beside\ndef f(): ...\n")
    first = source_digest(f"{file}:f")
    (tmp_path / "apart.py").write_text("C = 2\n")
    assert source_digest(f"{file}:f") == first
    (tmp_path / "inner" / "digested_deep.py").write_text("B = 2\n")
    second = source_digest(f"{file}:f")
    assert second != first
    file.write_text(file.read_text() + "# more\n")
    assert source_digest(f"{file}:f") not in (first, second)


def test_a_module_that_names_no_real_file_is_no_part_of_the_users_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    odd = ModuleType("digested_odd")
    odd.__file__ = "_odd.py"
    monkeypatch.setitem(sys.modules, "digested_odd", odd)
    Path("own.py").write_text("def f(): ...\n")
    assert source_digest("own.py:f")
