"""Metrics by name: to add one, write a function that makes a `Metric`, a line here, and a test."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import field, make_dataclass, replace
from typing import Any, get_type_hints

from edgedl.benchmark.metrics.classes import (
    auc,
    average_precision,
    binary,
    f1,
    top,
    top1,
    top5,
)
from edgedl.benchmark.metrics.detection import detection
from edgedl.benchmark.metrics.embeddings import cosine, recall, recall_at_1, similarity
from edgedl.benchmark.metrics.maps import pixel_accuracy, segmentation
from edgedl.benchmark.metrics.metric import Metric
from edgedl.benchmark.metrics.own import own_metric
from edgedl.benchmark.metrics.sequences import ctc, tagging, wer
from edgedl.benchmark.metrics.values import anomaly, mae, mse, reconstruction, relative, rmse
from edgedl.core.errors import BadOption, BadValue, nearest
from edgedl.core.fields import from_plain
from edgedl.runtime.process.boxes import Boxes

METRICS: Mapping[str, Callable[..., Metric]] = {
    "top1": top1,
    "top5": top5,
    "top": top,
    "binary": binary,
    "f1": f1,
    "auc": auc,
    "average_precision": average_precision,
    "detection": detection,
    "segmentation": segmentation,
    "pixel_accuracy": pixel_accuracy,
    "ctc": ctc,
    "wer": wer,
    "tagging": tagging,
    "cosine": cosine,
    "recall@1": recall_at_1,
    "recall": recall,
    "spearman": similarity,
    "mse": mse,
    "rmse": rmse,
    "mae": mae,
    "relative": relative,
    "reconstruction": reconstruction,
    "anomaly": anomaly,
}

# What others call our metrics.
OTHER_NAMES = {
    "accuracy": "top1", "acc": "top1", "top5": "top:k=5", "roc_auc": "auc", "auroc": "auc",
    "ap": "average_precision", "map": "detection", "iou": "segmentation", "miou": "segmentation",
    "wer": "ctc:unit=word", "mean_squared_error": "mse", "mean_absolute_error": "mae",
}  # fmt: skip


def metric_of(spec: str, boxes: Boxes | None = None) -> Metric:
    """The metric of this name and settings, as in `ctc:unit=word,space=3`, or the user's own.

    Args:
        spec: a name of `METRICS`, its settings behind a colon; else `module:callable`.
        boxes: how the outputs hold boxes, where the post-processing says it.

    Raises:
        BadOption: there is no such metric or setting.
    """
    name, _, text = spec.partition(":")
    if name not in METRICS:
        if text:
            return own_metric(spec)
        meant = OTHER_NAMES.get(name.lower())
        hint = f"it is called `{meant}` here" if meant else nearest(name, METRICS)
        hint = f"{hint}; or your own, as module:function"
        raise BadOption(f"unknown metric `{spec}`", hint=hint)
    make = METRICS[name]
    try:
        settings = _settings(make, text)
        if "boxes" in inspect.signature(make).parameters:
            settings["boxes"] = boxes
        metric = replace(make(**settings), name=spec, key=f"{spec} {settings}")
    except BadValue as error:
        hint = error.hint or f"settings are written {name}:key=value,key=value"
        raise BadOption(f"metric `{name}`: {error.message}", hint=hint) from error
    twin = metric.without_labels
    return metric if twin is None else replace(metric, without_labels=replace(twin, name=spec))


def _settings(make: Callable[..., Metric], text: str) -> dict[str, Any]:
    """Keyword arguments out of `key=value,key=value`; values without a key belong to the last."""
    hints = get_type_hints(make)
    fields = [
        (name, hints[name], field(default=parameter.default))
        for name, parameter in inspect.signature(make).parameters.items()
        if name != "boxes"
    ]
    plain: dict[str, Any] = {}
    key = ""
    for part in text.split(",") if text else ():
        left, equals, right = part.partition("=")
        if equals and left.strip() in plain:
            raise BadValue(f"`{left.strip()}` is given twice", hint="leave one of them out")
        if equals:
            key = left.strip()
            plain[key] = _plain(right)
        elif not key:
            raise BadValue(f"`{part}` is no setting", hint=f"key=value: {_known(fields)}")
        else:
            known = plain[key] if isinstance(plain[key], list) else [plain[key]]
            plain[key] = [*known, _plain(part)]
    read: Any = from_plain(make_dataclass("Settings", fields, frozen=True), plain)
    return {name: getattr(read, name) for name in plain}


def _known(fields: list[tuple[str, Any, Any]]) -> str:
    return ", ".join(name for name, *_ in fields) or "it has none"


def _plain(text: str) -> Any:
    text = text.strip()
    if re.fullmatch(r"[-+]?\d{1,18}", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return {"true": True, "false": False}.get(text.lower(), text)
