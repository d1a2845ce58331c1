"""A user's own code, `module:callable` or `file.py:callable`: where it lies, and what it says."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

FOREIGN = ("site-packages", "dist-packages")
OURS = ("edgedl", "__main__")


def placed(spec: str, folder: Path) -> str:
    """The same callable, its file looked for from a folder on; a module that is no file there stays
    as it is."""
    name, colon, function = spec.rpartition(":")
    if not colon or not name:
        return spec
    path = folder / (name if name.endswith(".py") else f"{name}.py")
    return f"{path}:{function}" if name.endswith(".py") or path.is_file() else spec


def own_module(name: str) -> ModuleType:
    """A module by its name, or the file `name` or `name.py`, which finds what lies beside it.

    Raises:
        Exception: whatever its own code raises; ModuleNotFoundError where there is none.
    """
    path = Path(name if name.endswith(".py") else f"{name}.py")
    if path.is_file():
        return _file(path)
    if name.endswith(".py"):
        raise ModuleNotFoundError(f"no file `{name}`", name=name)
    return importlib.import_module(name)


def source_digest(spec: str) -> str:
    """SHA-256 of the code behind a callable: its file, and those in its folder that it imports.

    Raises:
        Exception: as `own_module`.
    """
    found = own_module(spec.rpartition(":")[0])
    files = {Path(found.__file__)} if found.__file__ else set()
    for folder in [file.resolve().parent for file in files]:
        if folder.name not in FOREIGN:
            files |= {file for file in _loaded() if _lies_in(file, folder)}
    digest = hashlib.sha256()
    for content in sorted({file.resolve(): file.read_bytes() for file in files}.values()):
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _loaded() -> list[Path]:
    """The files of all modules but ours and the program that calls us."""
    named = [(n, getattr(m, "__file__", None)) for n, m in list(sys.modules.items())]
    return [
        Path(file)
        for name, file in named
        if file is not None and file.endswith(".py") and name.split(".")[0] not in OURS
    ]


def _lies_in(file: Path, folder: Path) -> bool:
    found = file.resolve()
    # torch names its `_ops.py` as if it lay in the working folder
    if not found.is_relative_to(folder) or not found.is_file():
        return False
    return not any(part in FOREIGN for part in found.relative_to(folder).parts)


def _file(path: Path) -> ModuleType:
    """A file as a module, known by a name of its own while the process lives: dataclasses and
    `torch.compile` look their module up."""
    name = f"edgedl_own_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(folder)
    return module
