"""A user's own metric: `module:callable`, importable or a file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgedl.benchmark.metrics.metric import Answers, Metric, Rows, numbers
from edgedl.core.errors import BadOption, EdgeError, MetricFailed

FORM = "--metric FILE.py:function, or --metric module:function"


def own_metric(spec: str) -> Metric:
    """The metric that a callable of the user's makes.

    It is called with one sample's outputs by name and its label, and gives a number, of which the
    mean is the figure. Attributes of the callable say otherwise: `whole = True`, that it is called
    once with a list of outputs and a list of labels; `lower_is_better = True`; and
    `against_float = True`, that where there are no labels it takes the float model's outputs for
    them.

    Raises:
        BadOption: there is no such file, module or callable, or it cannot be loaded.
    """
    module_name, _, name = spec.rpartition(":")
    module = _module(module_name)
    try:
        function = getattr(module, name)
    except AttributeError:
        found = ", ".join(n for n, v in vars(module).items() if inspect.isfunction(v)) or "none"
        raise BadOption(
            f"`{module_name}` has no `{name}`", hint=f"functions there: {found}"
        ) from None
    if not callable(function):
        raise BadOption(f"`{spec}` cannot be called", hint="def metric(outputs, label): ...")
    metric = replace(_metric(spec, name, function), key=f"{spec} {_digest(module)}")
    if not getattr(function, "against_float", False):
        return metric
    return replace(metric, without_labels=metric)


def _metric(name: str, figure: str, function: Callable[..., Any]) -> Metric:
    perfect = 0.0 if getattr(function, "lower_is_better", False) else None
    if not getattr(function, "whole", False):

        def collect(answers: Answers, label: Any) -> float:
            return _called(function, dict(answers), label)

        return Metric(name, figure, collect, each=numbers, perfect=perfect)

    def whole(rows: Rows) -> float:
        return _called(function, [answers for answers, _ in rows], [label for _, label in rows])

    def keep(answers: Answers, label: Any) -> tuple[dict[str, Any], Any]:
        return dict(answers), label

    return Metric(name, figure, keep, whole=whole, perfect=perfect)


def _called(function: Callable[..., Any], outputs: Any, label: Any) -> float:
    try:
        found = function(outputs, label)
    except EdgeError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise MetricFailed(
            f"{reason} ({Path(last.filename).name}:{last.lineno})",
            hint="the metric itself raised this; mend it, or leave that sample out",
        ) from error
    try:
        return float(found)
    except (TypeError, ValueError):
        raise MetricFailed(
            f"it gave {type(found).__name__}, not a number", hint="return a float"
        ) from None


def _module(name: str) -> Any:
    path = Path(name if name.endswith(".py") else f"{name}.py")
    try:
        if path.is_file():
            return _file(path)
        if name.endswith(".py"):
            raise BadOption(f"no file `{name}` with a metric", hint=FORM)
        return importlib.import_module(name)
    except EdgeError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and name.split(".")[0] == error.name.split(".")[0]:
            raise BadOption(f"no module `{name}`, and no file `{path}` here", hint=FORM) from None
        raise BadOption(f"`{name}` cannot be loaded ({error})", hint="install it") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise BadOption(
            f"`{name}` cannot be loaded ({reason})", hint=f"`python {path}` shows it, too"
        ) from error


def _file(path: Path) -> Any:
    """A file as a module, which finds what lies beside it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


def _digest(module: Any) -> str:
    """What tells two versions of the user's code apart, so that an old figure is not taken for a
    new one's."""
    source = getattr(module, "__file__", None)
    content = Path(source).read_bytes() if source else b""
    return hashlib.sha256(content).hexdigest()[:12]
