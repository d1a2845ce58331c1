"""A user's own metric: `module:callable`, importable or a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edgedl.benchmark.metrics.metric import Answers, Metric, Rows, numbers
from edgedl.core.errors import EdgeError, MetricFailed
from edgedl.core.own import file_of, own_callable, reason_of

FORM = "--metric FILE.py:function, or --metric module:function"


def own_metric(spec: str) -> Metric:
    """The metric that a callable of the user's makes.

    It is called with one sample's outputs by name, arrays in the shapes that the model gives, and
    its label, an element of `labels` along axis 0; it gives a number, of which the mean is the
    figure. Attributes of the callable say otherwise: `whole = True`, that it is called
    once with a list of outputs and a list of labels; `lower_is_better = True`; and
    `against_float = True`, that where there are no labels it takes the float model's outputs for
    them.

    Raises:
        BadOption: there is no such file, module or callable, or it cannot be loaded.
    """
    function = own_callable(spec, "metric", FORM)
    metric = replace(
        _metric(spec, spec.rpartition(":")[2], function), key=f"{spec} {_digest(spec)}"
    )
    if not getattr(function, "against_float", False):
        return metric
    return replace(metric, without_labels=metric)


def _metric(name: str, figure: str, function: Callable[..., Any]) -> Metric:
    perfect = 0.0 if getattr(function, "lower_is_better", False) else None
    if not getattr(function, "whole", False):

        def collect(answers: Answers, label: Any) -> float:
            return _called(function, name, dict(answers), label)

        return Metric(name, figure, collect, each=numbers, perfect=perfect)

    def whole(rows: Rows) -> float:
        return _called(
            function, name, [answers for answers, _ in rows], [label for _, label in rows]
        )

    def keep(answers: Answers, label: Any) -> tuple[dict[str, Any], Any]:
        return dict(answers), label

    return Metric(name, figure, keep, whole=whole, perfect=perfect)


def _called(function: Callable[..., Any], spec: str, outputs: Any, label: Any) -> float:
    try:
        found = function(outputs, label)
    except EdgeError:
        raise
    except Exception as error:
        first = next(iter(outputs), {}) if isinstance(outputs, list) else outputs
        named = ", ".join(f"`{name}` {array.shape}" for name, array in first.items())
        raise MetricFailed(
            reason_of(error, spec),
            hint=f"the metric itself raised this; mend it, or leave that sample out. Outputs are"
            f" {named}",
        ) from error
    try:
        return float(found)
    except (TypeError, ValueError):
        raise MetricFailed(
            f"it gave {type(found).__name__}, not a number", hint="return a float"
        ) from None


def _digest(spec: str) -> str:
    """What tells two versions of the user's code apart, so that an old figure is not taken for a
    new one's."""
    source = file_of(spec)
    content = source.read_bytes() if source else b""
    return hashlib.sha256(content).hexdigest()[:12]
