"""A user's own code, `module:callable` or `file.py:callable`: where it lies, and what it says."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from edgedl.core.errors import BadOption, EdgeError

FOREIGN = ("site-packages", "dist-packages")
OURS = ("edgedl", "__main__")
ROOT = Path(__file__).resolve().parents[1]


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
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)


def own_callable(spec: str, kind: str, form: str) -> Callable[..., Any]:
    """What the user's `module:callable` names.

    Args:
        kind: what it is to be, as `loss`, for errors.
        form: how one is named and called, as a hint.

    Raises:
        BadOption: there is no such file, module or callable, or it cannot be loaded.
    """
    name, _, function = spec.rpartition(":")
    if not name or not function:
        raise BadOption(f"`{spec}` names no {kind}", hint=form)
    path = Path(name if name.endswith(".py") else f"{name}.py")
    try:
        module = own_module(name)
    except EdgeError:
        raise
    except ModuleNotFoundError as error:
        if error.name == name and name.endswith(".py"):
            raise BadOption(f"no file `{name}` with a {kind}", hint=form) from None
        if error.name is not None and name.split(".")[0] == error.name.split(".")[0]:
            message = f"no module `{name}`, and no file `{path}` here"
            raise BadOption(message, hint=form) from None
        hint = f"pip install {error.name}"
        raise BadOption(f"`{name}` cannot be loaded ({error})", hint=hint) from error
    except Exception as error:
        hint = f"`python {path}` shows it, too"
        message = f"`{name}` cannot be loaded ({reason_of(error, spec)})"
        raise BadOption(message, hint=hint) from error
    found = getattr(module, function, None)
    if found is None:
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        hint = f"there: {', '.join(names) or 'nothing that can be called'}"
        raise BadOption(f"`{name}` has no `{function}`", hint=hint)
    if not callable(found):
        raise BadOption(f"`{spec}` cannot be called", hint=form)
    return found  # type: ignore[no-any-return]


def shown(spec: str) -> str:
    """A callable as people read it, without the folder that it lies in."""
    name, colon, function = spec.rpartition(":")
    return f"{Path(name).name}{colon}{function}" if name.endswith(".py") else spec


def file_of(spec: str) -> Path | None:
    """The file of a callable whose module is loaded, or that lies here; None where it has none."""
    name = spec.rpartition(":")[0]
    path = Path(name if name.endswith(".py") else f"{name}.py")
    if path.is_file():
        return path
    known = getattr(sys.modules.get(name), "__file__", None)
    return Path(known) if known else None


def raised_at(error: BaseException, spec: str) -> traceback.FrameSummary | None:
    """The last line that raised an exception in the file of the user's callable, or in one beside
    it; None where it came from elsewhere."""
    path = file_of(spec)
    if path is None:
        return None
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [one for one in frames if _is_theirs(Path(one.filename), path.resolve().parent)]
    return theirs[-1] if theirs else None


def reason_of(error: BaseException, spec: str = "") -> str:
    """What an exception says, and the line that raised it: the last one of the user's callable,
    where it came from there."""
    first = str(error).strip().split("\n")[0]
    said = f"{type(error).__name__}: {first}" if first else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) or not frames:
        return said
    last = (raised_at(error, spec) if spec else None) or frames[-1]
    return f"{said} ({Path(last.filename).name}:{last.lineno})"


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


def _is_theirs(file: Path, folder: Path) -> bool:
    return _lies_in(file, folder) and not file.resolve().is_relative_to(ROOT)


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
