"""Build for onnxruntime: the payload is the ONNX file itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from edgedl.backends.as_onnx import AsOnnx
from edgedl.core.target import ONNXRUNTIME, ONNXRUNTIME_SIGNED


class OrtBackend(AsOnnx):
    """onnxruntime on the processor."""

    def variants(
        self, settings: Mapping[str, Any], kinds: Collection[str]
    ) -> Mapping[str, Mapping[str, Any]]:
        """Without a fusion whose kernel, in 1.31, takes several times what it replaces."""
        if "SkipLayerNormalization" not in kinds or settings.get("unfused"):
            return {}
        return {"norms unfused": {**settings, "unfused": ["SkipLayerNormFusion"]}}


BACKEND = OrtBackend("onnxruntime", ONNXRUNTIME, schemes=(ONNXRUNTIME_SIGNED,))
