"""The settings that a payload may bring to an engine.

A closed list: none of them loads code, names a file, or takes memory without bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgedl.core.engines import LISTED
from edgedl.core.errors import Unsupported
from edgedl.core.registry import how_to_upgrade
from edgedl.runtime.limits import LIMITS

Check = Callable[[Any], bool]
MOST_NAMES = 4096
MOST_GRAPHS, MOST_DEVICES = 1024, 64


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _is_names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MOST_NAMES
        and all(isinstance(one, str) and len(one) <= LIMITS.name_chars for one in value)
    )


def _is_document(value: Any) -> bool:
    return isinstance(value, dict)


def _one_of(*words: str) -> Check:
    return lambda value: isinstance(value, str) and value in words


def _up_to(most: int) -> Check:
    return lambda value: type(value) is int and 0 <= value <= most


TENSORRT: Mapping[str, Check] = {
    "build": _is_document,  # which `edgedl.runtime.tensorrt.settings` takes apart, as strictly
    "graphs": _up_to(MOST_GRAPHS),
    "device": _up_to(MOST_DEVICES),
    "streamed_bytes": lambda value: value is None or _up_to(1 << 48)(value),
}
ONNXRUNTIME_GPU: Mapping[str, Check] = {  # which `edgedl.runtime.ort.settings` takes apart
    "device": _up_to(MOST_DEVICES),
    "graph": _is_switch,
    "tf32": lambda value: value is None or _is_switch(value),
    "conv_search": lambda v: v is None or _one_of("exhaustive", "heuristic", "default")(v),
    "channels_last": _is_switch,
    "memory_bytes": lambda value: value is None or _up_to(1 << 48)(value),
    "build": _is_document,
}
# By engine. One of ours without a line takes none; of engines that are not ours, nothing is known.
KNOWN: Mapping[str, Mapping[str, Check]] = {
    "onnxruntime": {
        "memory_pattern": _is_switch,
        "reuse_outputs": _is_switch,
        "unfused": _is_names,
    },
    "openvino": {"precision": _one_of("f32", "bf16", "f16"), "other_kernels": _is_names},
    "onnxruntime-cuda": ONNXRUNTIME_GPU,
    "onnxruntime-tensorrt": ONNXRUNTIME_GPU,
    "tensorrt": TENSORRT,
    "tensorrt_rtx": TENSORRT,
}


def refuse_unknown(engine: str, settings: Mapping[str, Any]) -> None:
    """Pass a payload's settings that its engine's file knows.

    Raises:
        Unsupported: one is not known here, or its value is none that it may have.
    """
    known = KNOWN.get(engine, {} if engine in LISTED else None)
    if known is None:
        return
    for name, value in settings.items():
        if name not in known:
            raise Unsupported(
                f"it brings the setting {name[:80]!r}, which is not known here",
                hint=f"{how_to_upgrade()}, or make it again with `edgedl compress`",
            )
        if not known[name](value):
            raise Unsupported(
                f"its setting `{name}` has a value that is not known here",
                hint="make it again with `edgedl compress`",
            )
