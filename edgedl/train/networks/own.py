"""A user's own network: `module:callable`, importable or a file."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedl.core.errors import BadValue, EdgeError
from edgedl.core.own import own_module

FORM = "module:callable or file.py:callable, with def callable(inputs, outputs, *, width=16): ..."


def own_network(spec: str) -> Callable[..., Any]:
    """The user's callable, which makes a network of (inputs, outputs, *, settings).

    Raises:
        BadValue: there is no such file, module or callable, it cannot be loaded, or it takes fewer
            than two arguments.
    """
    module_name, _, name = spec.rpartition(":")
    if not module_name or not name:
        raise BadValue(f"`{spec}` names no network", keys=("name",), hint=FORM)
    module = _module(module_name)
    try:
        factory = getattr(module, name)
    except AttributeError:
        found = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        hint = f"callables there: {', '.join(found) or 'none'}"
        message = f"`{module_name}` has no `{name}`"
        raise BadValue(message, keys=("name",), hint=hint) from None
    try:
        inspect.signature(factory).bind_partial({}, 0)
    except (TypeError, ValueError):
        message = f"`{spec}` cannot be called with inputs and outputs"
        raise BadValue(message, keys=("name",), hint=FORM) from None
    made: Callable[..., Any] = factory
    return made


def reason_of(error: BaseException) -> str:
    """What an exception says, and the line that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    first = str(error).strip().split("\n")[0]
    said = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return f"{said} ({Path(last.filename).name}:{last.lineno})"


def _module(name: str) -> Any:
    path = Path(name if name.endswith(".py") else f"{name}.py")
    try:
        return own_module(name)
    except EdgeError:
        raise
    except ModuleNotFoundError as error:
        if error.name == name and name.endswith(".py"):
            message = f"no file `{name}` with a network"
            raise BadValue(message, keys=("name",), hint=FORM) from None
        if error.name is not None and name.split(".")[0] == error.name.split(".")[0]:
            message = f"no module `{name}`, and no file `{path}` here"
            raise BadValue(message, keys=("name",), hint=FORM) from None
        message = f"`{name}` cannot be loaded ({error})"
        raise BadValue(message, keys=("name",), hint=f"pip install {error.name}") from error
    except Exception as error:
        message = f"`{name}` cannot be loaded ({reason_of(error)})"
        raise BadValue(message, keys=("name",), hint=f"`python {path}` shows it, too") from error
