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
from pathlib import Path
from typing import Any

import peer_aimet
import peer_nncf
from peer_task import Feed, Task, batched, feeds, given_inputs, modern

FEW = 32  # for the calibrators of onnxruntime that keep every tensor of every sample


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
    data = feeds(task, [(value.name, batched(value)) for value in given_inputs(proto)])[:most]

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
    "nncf-performance": lambda task: peer_nncf.of_openvino(task, "PERFORMANCE"),
    "nncf-mixed": lambda task: peer_nncf.of_openvino(task, "MIXED"),
    "nncf-transformer": lambda task: peer_nncf.of_openvino(task, "PERFORMANCE", transformer=True),
    "nncf-onnx": lambda task: peer_nncf.of_onnx(task, "PERFORMANCE"),
    "nncf-onnx-mixed": lambda task: peer_nncf.of_onnx(task, "MIXED"),
    "nncf-accuracy": peer_nncf.accuracy,
    "aimet-cle": lambda task: peer_aimet.equalized(task, rounded=False),
    "aimet-cle-adaround": lambda task: peer_aimet.equalized(task, rounded=True),
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
