"""What a bundle may bring to an engine."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edgedl.core.errors import Unsupported
from edgedl.runtime import ENGINES
from edgedl.runtime.ort.settings import Running
from edgedl.runtime.settings import KNOWN, ONNXRUNTIME_GPU, refuse_unknown


def test_lists_are_of_engines() -> None:
    assert set(KNOWN) <= set(ENGINES)
    assert set(ONNXRUNTIME_GPU) == {field.name for field in dataclasses.fields(Running)}


def test_an_engine_without_a_list_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(KNOWN, "openvino")  # type: ignore[arg-type]
    refuse_unknown("openvino", {})
    with pytest.raises(Unsupported, match="'precision'"):
        refuse_unknown("openvino", {"precision": "f32"})


@pytest.mark.parametrize(
    ("engine", "settings"),
    [
        ("onnxruntime", {"optimized_model_filepath": "/etc/passwd"}),
        ("onnxruntime", {"memory_pattern": "yes"}),
        ("openvino", {"CACHE_DIR": "/tmp"}),
        ("openvino", {"precision": "f8"}),
        ("onnxruntime-tensorrt", {"trt_extra_plugin_lib_paths": "evil.so"}),
        ("onnxruntime-cuda", {"device": 1 << 40}),
        ("tensorrt", {"plugins": ["evil.so"]}),
    ],
)
def test_nothing_else_reaches_an_engine(engine: str, settings: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="not known here"):
        refuse_unknown(engine, settings)


def test_what_is_known_passes() -> None:
    refuse_unknown("openvino", {"precision": "bf16", "other_kernels": ["conv1"]})
    refuse_unknown("onnxruntime-cuda", {"tf32": None, "device": 0, "graph": True})
