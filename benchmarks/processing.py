"""What pre- and post-processing add to a network's latency: pictures to MobileNetV2, in int8.

    python benchmarks/processing.py [--calls 3000] [--model MODEL.onnx --samples S.npz]

The network is compressed to int8 for each engine, with the pre-processing of ImageNet (mean and
deviation, NCHW) and the five best classes behind it. Then three calls alternate, in an order that
turns, on one session of one thread: the session's own `run` on a feed that is ready, `answer` on a
picture, and the pre-processing alone. A row's figure is the median over rounds of what `answer`
takes beyond `run`, over the median `run`. The bar is 5 % for a picture of the network's size;
pictures that must be resized are told for what they are. Writes
`benchmarks/results/processing.json` and `processing.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from medians import median_interval
from zoo import CACHE, fetch

import edgedl
from edgedl.benchmark.machine import this_machine
from edgedl.report.table import markdown
from edgedl.runtime import ENGINES, installed_engines
from edgedl.runtime.answering import Answering
from edgedl.runtime.process import Processing, image
from edgedl.runtime.process.image import Image, Resize
from edgedl.runtime.process.scores import TopK
from edgedl.runtime.session import Session

RESULTS = Path(__file__).parent / "results"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BOUND = 0.05
WARM_CALLS = 50
Camera = tuple[int, int]


def cases(side: int) -> list[tuple[str, Processing, Camera, dict[str, Any]]]:
    """What is fed: its name, the processing, the camera's height and width, and more."""

    def before(**more: Any) -> Processing:
        picture = Image(scale=1 / 255, mean=MEAN, std=STD, **more)
        return Processing(picture, TopK(activation="softmax"))

    exactly = before(resize=Resize(exactly=(side, side)))
    usual = before(resize=Resize(shorter=round(side * 256 / 224)), crop=(side, side))
    return [
        ("the network's size", exactly, (side, side), {"bar": True}),
        ("the network's size, channels as cameras give them (BGR)", exactly, (side, side),
         {"bar": True, "color": "bgr"}),
        ("640 x 480, cropped from the middle", before(crop=(side, side)), (480, 640), {}),
        ("640 x 480, resized by Pillow", exactly, (480, 640), {}),
        ("640 x 480, resized by numpy", exactly, (480, 640), {"pillow": False}),
        ("640 x 480, shorter side and crop, Pillow", usual, (480, 640), {}),
        ("640 x 480, shorter side and crop, numpy", usual, (480, 640), {"pillow": False}),
        ("1920 x 1080, resized by Pillow", exactly, (1080, 1920), {}),
        ("1920 x 1080, resized by numpy", exactly, (1080, 1920), {"pillow": False}),
    ]  # fmt: skip


def compressed(model: Path, samples: Path, engine: str, folder: Path, shapes: list[str]) -> Path:
    bundle = folder / f"{engine}.edl"
    command = [sys.executable, "-m", "edgedl", "compress", str(model), "--int8"]
    command += ["--samples", str(samples), "--target", engine, "-o", str(bundle)]
    for shape in shapes:
        command += ["--shape", shape]
    subprocess.run([*command, "--seconds", "1"], check=True, capture_output=True)
    return bundle


def paired(session: Session, model: Answering, picture: np.ndarray, calls: int) -> np.ndarray:
    """Nanoseconds of `run`, `answer` and the pre-processing alone: float64 of shape [calls, 3]."""
    feed = model.processing.before(picture)
    prepare: Callable[[], Any] = lambda: model._feed(model._contents(picture))  # noqa: E731
    ways: list[Callable[[], Any]] = [
        lambda: session.run(feed), lambda: model.answer(picture), prepare,
    ]  # fmt: skip
    for way in ways * WARM_CALLS:
        way()
    times = np.empty((calls, len(ways)))
    for i in range(calls):
        for j in range(len(ways)):
            which = (i + j) % len(ways)
            start = perf_counter_ns()
            ways[which]()
            times[i, which] = perf_counter_ns() - start
    return times


def measured(bundle: Path, calls: int) -> list[dict[str, Any]]:
    rows = []
    with edgedl.open(bundle, threads=1) as session:
        shape = session.signature.inputs[0].shape
        assert shape is not None
        side = int(shape[2] or 0)
        rng = np.random.default_rng(0)
        for name, processing, size, more in cases(side):
            picture = rng.integers(0, 256, (*size, 3), np.uint8)
            image.has_pillow = lambda more=more: more.get("pillow", True)  # type: ignore[assignment]
            model = Answering(session, processing, color=more.get("color"))
            times = paired(session, model, picture, calls)
            alone = float(np.median(times[:, 0]))
            share, low, high = (
                value / alone for value in median_interval(times[:, 1] - times[:, 0])
            )
            rows.append({
                "case": name, "run_us": alone / 1e3, "share": share, "low": low, "high": high,
                "answer_us": float(np.median(times[:, 1])) / 1e3,
                "prepare_us": float(np.median(times[:, 2])) / 1e3, "bar": more.get("bar", False),
            })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="mobilenetv2", help="of the zoo, or an ONNX file")
    parser.add_argument("--samples", type=Path, help="for an ONNX file")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--calls", type=int, default=3000)
    given = parser.parse_args()
    if given.samples is None:
        entry = fetch(given.model, given.cache)
        model, samples = entry.model, entry.samples
        shapes = [f"{name}={shape}" for name, shape in entry.shapes.items()]
    else:
        model, samples, shapes = Path(given.model), given.samples, []
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for engine in ENGINES:
            if engine in installed_engines():
                bundle = compressed(model, samples, engine, Path(folder), shapes)
                found[engine] = measured(bundle, given.calls)
    lines = [
        ["engine", "picture", "run", "answer", "preparing alone", "adds", "95 %", "bar of 5 %"]
    ]
    for engine, rows in found.items():
        for row in rows:
            kept = "kept" if row["high"] < BOUND else "broken"
            lines.append([
                engine, row["case"], f"{row['run_us']:.0f} us", f"{row['answer_us']:.0f} us",
                f"{row['prepare_us']:.0f} us", f"{row['share']:.1%}",
                f"{row['low']:.1%} to {row['high']:.1%}", kept if row["bar"] else "",
            ])  # fmt: skip
    document = {"model": given.model, "calls": given.calls, "machine": this_machine().to_json(),
                "engines": found}  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "processing.json").write_text(json.dumps(document, indent=1) + "\n")
    text = markdown(lines, right=(2, 3, 4, 5, 6))
    (RESULTS / "processing.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
