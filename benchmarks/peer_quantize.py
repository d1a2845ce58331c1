"""Quantize a model with a peer's own tool, run by a Python that has that peer installed.

    python peer_quantize.py SETTING MODEL.onnx SAMPLES.npz OUT [NAME=1x3x224x224 ...] [--count N]

Writes OUT, an .onnx or an .xml file, and prints one JSON line: the seconds it took, its peak
memory, and what had to be done to the model before the tool took it. SETTING is one of those in
`peer_settings.py` that make a file. Calibration takes the first N samples, by default 128 or half
of them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

CALIBRATION = 128
FEW = 32  # for the calibrators of onnxruntime that keep every tensor of every sample
OLDEST_OPSET, RAISED_OPSET = 13, 17  # scales by channel need 13

Feed = dict[str, np.ndarray]


@dataclass
class Task:
    """What a tool is given, and what was noted on the way."""

    model: Path
    samples: Path
    out: Path
    shapes: Mapping[str, list[int]]
    count: int | None = None
    notes: list[str] = field(default_factory=list)

    def beside(self, word: str) -> Path:
        return self.out.with_name(f"{self.out.stem}.{word}.onnx")


def feeds(task: Task, inputs: list[tuple[str, bool]]) -> list[Feed]:
    """The first samples by input name; True keeps the leading axis."""
    with np.load(task.samples, allow_pickle=False) as arrays:
        held = {name: arrays[name] for name, _ in inputs}
    total = len(next(iter(held.values())))
    count = min(task.count or min(CALIBRATION, max(1, total // 2)), total)
    return [
        {n: np.array(held[n][i : i + 1] if keep else held[n][i]) for n, keep in inputs}
        for i in range(count)
    ]


def given_inputs(proto: Any) -> list[Any]:
    weights = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in weights]


def fixed(model: Path, shapes: Mapping[str, list[int]]) -> Any:
    """The ONNX model with the dimensions of its inputs set, and nothing else changed."""
    import onnx

    proto = onnx.load(model)
    for value in given_inputs(proto):
        sizes = shapes.get(value.name, ())
        for axis, size in zip(value.type.tensor_type.shape.dim, sizes, strict=False):
            axis.dim_value = size
    return proto


def modern(task: Task) -> Any:
    """The fixed model in an opset that knows scales by channel, where it can be had."""
    import onnx
    import onnxruntime

    proto = fixed(task.model, task.shapes)
    opset = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    if opset >= OLDEST_OPSET:
        return proto
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        raised = onnx.version_converter.convert_version(proto, RAISED_OPSET)
        onnxruntime.InferenceSession(
            raised.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        task.notes.append(f"opset {opset} could not be raised: {str(error).splitlines()[0][:120]}")
        return proto
    task.notes.append(f"opset raised from {opset} to {RAISED_OPSET}")
    return raised


def _batched(value: Any) -> bool:
    axes = value.type.tensor_type.shape.dim
    return bool(axes) and (not axes[0].HasField("dim_value") or axes[0].dim_value == 1)


def _preprocessed(task: Task) -> Path:
    """The model after `quant_pre_process`, as far as that takes it."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain, ready = task.beside("fixed"), task.beside("ready")
    onnx.save(modern(task), plain)
    reason = ""
    for options in ({}, {"skip_symbolic_shape": True}):
        try:
            quant_pre_process(str(plain), str(ready), **options)
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else "failed"
            continue
        if options:
            task.notes.append(f"without symbolic shapes: {reason}")
        return ready
    task.notes.append(f"not pre-processed: {reason}")
    return plain


def static(task: Task, most: int | None = None, **options: Any) -> None:
    """onnxruntime's `quantize_static`, with these of its options."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    ready = _preprocessed(task)
    proto = onnx.load(ready, load_external_data=False)
    data = feeds(task, [(value.name, _batched(value)) for value in given_inputs(proto)])[:most]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest: Iterator[Feed] = iter(data)

        def get_next(self) -> Feed | None:
            return next(self.rest, None)

    quantize_static(str(ready), str(task.out), Reader(), **options)


def u8s8(task: Task, most: int | None = None, **options: Any) -> None:
    from onnxruntime.quantization import QuantType

    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    static(task, most, **({"per_channel": True} | types | options))


def s8s8(task: Task) -> None:
    from onnxruntime.quantization import QuantType

    types = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
    symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True}
    static(task, per_channel=True, extra_options=symmetric, **types)


def histogram(task: Task, method: str) -> None:
    from onnxruntime.quantization import CalibrationMethod

    u8s8(task, FEW, calibrate_method=CalibrationMethod[method])


def qoperator(task: Task) -> None:
    from onnxruntime.quantization import QuantFormat

    u8s8(task, quant_format=QuantFormat.QOperator)


def dynamic(task: Task) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(_preprocessed(task)), str(task.out))


def nncf_options(preset: str, transformer: bool, count: int) -> dict[str, Any]:
    import nncf

    options: dict[str, Any] = {"preset": nncf.QuantizationPreset[preset], "subset_size": count}
    return options | ({"model_type": nncf.ModelType.TRANSFORMER} if transformer else {})


def nncf_openvino(task: Task, preset: str, transformer: bool = False) -> None:
    import nncf
    import openvino

    graph = openvino.Core().read_model(str(task.model))
    if task.shapes:
        graph.reshape({name: list(sizes) for name, sizes in task.shapes.items()})
    with np.load(task.samples, allow_pickle=False) as arrays:
        names = set(arrays.files)
    inputs = []
    for port in graph.inputs:
        axes = list(port.partial_shape)
        known = next((name for name in port.get_names() if name in names), port.any_name)
        inputs.append((known, bool(axes) and (axes[0].is_dynamic or axes[0].get_length() == 1)))
    data = feeds(task, inputs)
    options = nncf_options(preset, transformer, len(data))
    made = nncf.quantize(graph, nncf.Dataset(data, lambda feed: feed), **options)
    openvino.save_model(made, str(task.out))


def nncf_onnx(task: Task, preset: str) -> None:
    import nncf
    import onnx

    proto = modern(task)
    data = feeds(task, [(value.name, _batched(value)) for value in given_inputs(proto)])
    options = nncf_options(preset, False, len(data))
    onnx.save(nncf.quantize(proto, nncf.Dataset(data, lambda feed: feed), **options), task.out)


MAKERS: Mapping[str, Callable[[Task], None]] = {
    "ort-default": static,
    "ort-u8s8-tensor": lambda task: u8s8(task, per_channel=False),
    "ort-u8s8": u8s8,
    "ort-s8s8": s8s8,
    "ort-reduced": lambda task: u8s8(task, reduce_range=True),
    "ort-percentile": lambda task: histogram(task, "Percentile"),
    "ort-entropy": lambda task: histogram(task, "Entropy"),
    "ort-qoperator": qoperator,
    "ort-dynamic": dynamic,
    "nncf-performance": lambda task: nncf_openvino(task, "PERFORMANCE"),
    "nncf-mixed": lambda task: nncf_openvino(task, "MIXED"),
    "nncf-transformer": lambda task: nncf_openvino(task, "PERFORMANCE", transformer=True),
    "nncf-onnx": lambda task: nncf_onnx(task, "PERFORMANCE"),
    "nncf-onnx-mixed": lambda task: nncf_onnx(task, "MIXED"),
}


def parse_shapes(texts: list[str]) -> dict[str, list[int]]:
    pairs = (text.rpartition("=") for text in texts)
    return {name: [int(size) for size in sizes.split("x")] for name, _, sizes in pairs}


def peak_rss_bytes() -> int | None:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM:")), None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("setting", choices=MAKERS)
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("shapes", nargs="*", default=[])
    parser.add_argument("--count", type=int)
    given = parser.parse_args()
    shapes = parse_shapes(given.shapes)
    model, samples, out = (path.resolve() for path in (given.model, given.samples, given.out))
    task = Task(model, samples, out, shapes, given.count)
    out.parent.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    # The tools leave files behind in the folder that they run in.
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        MAKERS[given.setting](task)
        os.chdir(out.parent)
    seconds = time.perf_counter() - begun
    said = {"seconds": seconds, "peak_rss_bytes": peak_rss_bytes(), "notes": task.notes}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
