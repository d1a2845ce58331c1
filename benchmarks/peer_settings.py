"""The settings of peers that the suite is run through, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

F32, BF16 = "f32", "bf16"
DEFAULT = "ort-default"

# Goes up whenever what `peer_quantize.py` makes of a setting changes: kept files are made anew.
REVISION = 1


@dataclass(frozen=True)
class Setting:
    """One way in which a peer is used.

    Attributes:
        packages: whose versions make the file what it is; none where the float model itself runs.
        suffix: of the file that is made.
        engines: what runs it, and which precisions its float operators are then given.
        about: the setting in the peer's own words.
    """

    packages: tuple[str, ...]
    suffix: str
    engines: Mapping[str, tuple[str, ...]]
    about: str

    @property
    def is_made(self) -> bool:
        return bool(self.packages)


_ORT = ("onnxruntime", "onnx")
_NNCF = ("nncf", "openvino")
_AIMET = ("aimet-onnx", "onnxruntime", "onnx", "torch")
_ON_ORT = {"onnxruntime": (F32,)}
_ON_OPENVINO = {"openvino": (F32, BF16)}
_ON_BOTH = {**_ON_ORT, **_ON_OPENVINO}

SETTINGS: Mapping[str, Setting] = {
    "float32": Setting(
        (), ".onnx", {"onnxruntime": (F32,), "openvino": (F32,)}, "the model as it was given"
    ),
    "bf16": Setting((), ".onnx", {"openvino": (BF16,)}, "the model as it was given, hint bf16"),
    DEFAULT: Setting(
        _ORT, ".onnx", _ON_ORT, "quantize_static(model, out, reader) after quant_pre_process"
    ),
    "ort-u8s8-tensor": Setting(
        _ORT, ".onnx", _ON_ORT, "activation_type=QUInt8, as its documentation says for x86"
    ),
    "ort-u8s8": Setting(_ORT, ".onnx", _ON_BOTH, "activation_type=QUInt8, per_channel"),
    "ort-s8s8": Setting(
        _ORT, ".onnx", _ON_BOTH, "QInt8 twice, ActivationSymmetric, WeightSymmetric, per_channel"
    ),
    "ort-reduced": Setting(_ORT, ".onnx", _ON_ORT, "as ort-u8s8, with reduce_range"),
    "ort-percentile": Setting(_ORT, ".onnx", _ON_ORT, "as ort-u8s8, Percentile, 32 samples"),
    "ort-entropy": Setting(_ORT, ".onnx", _ON_ORT, "as ort-u8s8, Entropy, 32 samples"),
    "ort-qoperator": Setting(_ORT, ".onnx", _ON_ORT, "as ort-u8s8, QuantFormat.QOperator"),
    "ort-dynamic": Setting(_ORT, ".onnx", _ON_ORT, "quantize_dynamic(model, out)"),
    "nncf-performance": Setting(_NNCF, ".xml", _ON_OPENVINO, "nncf.quantize, preset PERFORMANCE"),
    "nncf-mixed": Setting(_NNCF, ".xml", _ON_OPENVINO, "nncf.quantize, preset MIXED"),
    "nncf-transformer": Setting(
        _NNCF, ".xml", _ON_OPENVINO, "preset PERFORMANCE, model_type TRANSFORMER"
    ),
    "nncf-onnx": Setting(
        (*_NNCF, "onnx"), ".onnx", _ON_BOTH, "nncf.quantize of the ONNX model, PERFORMANCE"
    ),
    "nncf-onnx-mixed": Setting(
        (*_NNCF, "onnx"), ".onnx", _ON_BOTH, "nncf.quantize of the ONNX model, MIXED"
    ),
    "nncf-accuracy": Setting(
        _NNCF,
        ".xml",
        _ON_OPENVINO,
        "nncf.quantize_with_accuracy_control, PERFORMANCE, max_drop 0.01 on the calibration"
        " samples, 32 of them to rank; model_type TRANSFORMER where there is attention",
    ),
    "aimet-cle": Setting(
        _AIMET,
        ".onnx",
        _ON_BOTH,
        "equalize_model, QuantizationSimModel of scheme tf_enhanced, to_onnx_qdq",
    ),
    "aimet-cle-adaround": Setting(
        _AIMET, ".onnx", _ON_BOTH, "as aimet-cle, apply_adaround, 100 steps on 16 samples"
    ),
}
