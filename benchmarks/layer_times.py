"""Prices of layers against whole networks: latency foretold from single layers, and as measured.

    python benchmarks/layer_times.py make [--cache layer_times]
    python benchmarks/layer_times.py time ENGINE [--cache layer_times]

`make` builds three networks at full width and at half, exports them, and puts them into int8 as
`edgedl compress` does by its rules. `time` prices every layer of theirs, times the whole networks,
all on one thread, and looks for steps in what a convolution of 32 channels costs when one of its
widths grows by one. Rows are kept by engine in `benchmarks/results/layer_times.json`, and
`layer_times.md` is made of them.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from edgedl.backends import backend
from edgedl.benchmark.machine import this_machine
from edgedl.benchmark.rounds import run_rounds
from edgedl.core.layers import LayerShape
from edgedl.core.samples import from_arrays
from edgedl.passes.calibrate import calibrate
from edgedl.passes.graph import open_model
from edgedl.passes.layer_shapes import layer_shapes
from edgedl.report.table import markdown
from edgedl.runtime import engine
from edgedl.search.candidates import int8_candidate, tensors_to_watch
from edgedl.search.layer_grid import Grid
from edgedl.search.layer_times import LayerTimes
from edgedl.search.prepared import Prepared
from edgedl.search.ready import prepare

RESULTS = Path(__file__).resolve().parent / "results"
ENGINES = ("onnxruntime", "openvino")
# By name: the input, what sets the width, and its two values.
NETWORKS: Mapping[str, tuple[str, tuple[int, ...], str, float, float]] = {
    "ResNet-18, 28x28": ("resnet18", (1, 28, 28), "width", 32, 16),
    "MobileNetV2, 28x28": ("mobilenetv2", (1, 28, 28), "alpha", 0.35, 0.175),
    "DS-CNN, 10x49": ("ds_cnn", (10, 49), "width", 64, 32),
}
STEPS = range(16, 49)
SECONDS = 24.0


def make(cache: Path) -> None:
    """The six networks in float and in int8 for each engine, and their layers."""
    import torch

    from edgedl.export import export
    from edgedl.train.networks import build
    from edgedl.train.shapes import TensorShape

    cache.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number, (name, shape, setting, *widths) in enumerate(NETWORKS.values()):
        for half, width in enumerate(widths):
            torch.manual_seed(0)
            network = build(name, {"x": TensorShape(shape)}, 10, {setting: width})
            given = rng.random((8, *shape), np.float32)
            file = cache / f"{number}-{half}.onnx"
            export(network, [{"x": given[:1]}], file)
            clean = prepare(open_model(file), {"x": (1, *shape)})
            samples = from_arrays({"x": given}).bind(clean.signature)
            layers = [asdict(one) for one in layer_shapes(clean).values()]
            (cache / f"{number}-{half}.json").write_text(json.dumps(layers))
            for built in map(backend, ENGINES):
                watched = tensors_to_watch(clean, [built.scheme])
                ready = Prepared(clean, calibrate(clean, watched, samples))
                int8 = int8_candidate(built, ready, "minmax", label="int8").model
                (cache / f"{number}-{half}-{built.engine}.onnx").write_bytes(int8.path.read_bytes())
                for more in int8.files[1:]:
                    (cache / more.name).write_bytes(more.read_bytes())


def read_layers(path: Path) -> list[LayerShape]:
    """What `make` wrote."""
    rows = json.loads(path.read_text())
    plain = [{k: tuple(v) if isinstance(v, list) else v for k, v in r.items()} for r in rows]
    return [LayerShape(**row) for row in plain]


def conv(inputs: int, outputs: int) -> LayerShape:
    return LayerShape("conv", inputs, outputs, (14, 14), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))


def measure(name: str, cache: Path) -> dict[str, Any]:
    """The rows of one engine."""
    settings = backend(name).settings("int8")
    sessions, feeds = {}, {}
    for number, (_, shape, *_) in enumerate(NETWORKS.values()):
        for half in (0, 1):
            file = cache / f"{number}-{half}-{name}.onnx"
            sessions[number, half] = engine(name).open_model(file, settings=settings, threads=1)
            feeds[number] = {"x": np.random.default_rng(1).random((1, *shape), np.float32)}
    times, began = LayerTimes(name), perf_counter()
    whole = [
        [times.price(read_layers(cache / f"{number}-{half}.json")) for half in (0, 1)]
        for number in range(len(NETWORKS))
    ]
    spent, stands = perf_counter() - began, times.stands_timed
    rows = []
    for number, label in enumerate(NETWORKS):
        pair = {str(half): sessions[number, half] for half in (0, 1)}
        found = run_rounds(pair, [feeds[number]], seconds=SECONDS / 3, least_rounds=20)
        macs = [
            sum(s.macs for s in read_layers(cache / f"{number}-{half}.json")) for half in (0, 1)
        ]
        rows.append(
            {
                "network": label,
                "layers": len(whole[number][0]),
                "macs": macs,
                "priced_us": [sum(one) for one in whole[number]],
                "measured_us": [float(np.median(found.medians_ns(h))) / 1000 for h in ("0", "1")],
            }
        )
    steps = {
        "outputs": times.price([conv(32, w) for w in STEPS]),
        "inputs": times.price([conv(w, 32) for w in STEPS]),
    }
    return {
        "engine": name,
        "version": engine(name).version,
        "machine": this_machine().to_json(),
        "stands": stands,
        "seconds": spent,
        "said": times.said,
        "load": os.getloadavg()[0],
        "networks": rows,
        "steps": steps,
    }


def ratios(row: Mapping[str, Any]) -> dict[str, float]:
    """How many times faster the half is: by products, by the layers alone, with what was measured
    beside the full network's layers, and as measured."""
    (full, half), (whole, part) = row["priced_us"], row["measured_us"]
    rest = max(0.0, whole - full)
    return {
        "macs": row["macs"][0] / row["macs"][1],
        "layers": full / half,
        "with_rest": (full + rest) / (half + rest),
        "measured": whole / part,
    }


def document(engines: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables."""
    head = ["network", "engine", "layers", "priced", "measured", "half: priced", "measured"]
    head += ["times fewer products", "faster: layers alone", "and the rest kept", "as measured"]
    lines = [head]
    for found in engines.values():
        for row in found["networks"]:
            pair = zip(row["priced_us"], row["measured_us"], strict=True)
            lines.append(
                [
                    row["network"], found["engine"], str(row["layers"]),
                    *(f"{us:.0f} us" for both in pair for us in both),
                    *(f"{ratio:.2f}x" for ratio in ratios(row).values()),
                ]
            )  # fmt: skip
    text = markdown(lines, right=tuple(range(2, 11)))
    for found in engines.values():
        text += (
            f"\n\n{found['engine']} {found['version']}: {found['stands']} small models timed in"
            f" {found['seconds']:.0f} s, while {found['load']:.0f} processes wanted the"
            f" {found['machine']['usable_cores']} cores. {' '.join(found['said'])}"
        ).rstrip()
    lines = [["3x3 convolution of 14x14", "engine", *(str(w) for w in STEPS)]]
    for found in engines.values():
        for side, wide in (
            ("outputs", "32 inputs, by outputs"),
            ("inputs", "32 outputs, by inputs"),
        ):
            prices = [f"{us:.1f}" for us in found["steps"][side]]
            lines.append([f"{wide}, us", found["engine"], *prices])
    text += "\n\n" + markdown(lines, right=tuple(range(2, 2 + len(STEPS)))) + "\n"
    for found in engines.values():
        text += "\n" + missed(found) + "\n"
    return text


def missed(found: Mapping[str, Any]) -> str:
    """What a grid would have made of the widths between its points."""
    worst, mean = {}, {}
    for side, shapes in (
        ("outputs", [conv(32, w) for w in STEPS]),
        ("inputs", [conv(w, 32) for w in STEPS]),
    ):
        exact = dict(zip(shapes, found["steps"][side], strict=True))
        grid = Grid.around(shapes)
        away = [abs(grid.between(s, exact.__getitem__) / us - 1) for s, us in exact.items()]
        worst[side], mean[side] = max(away), sum(away) / len(away)
    return (
        f"{found['engine']}: between the points of a grid prices are off by"
        f" {100 * mean['outputs']:.0f} % along outputs ({100 * worst['outputs']:.0f} % at most) and"
        f" {100 * mean['inputs']:.0f} % along inputs ({100 * worst['inputs']:.0f} %)."
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("make", "time"))
    parser.add_argument("engine", nargs="?", choices=ENGINES)
    parser.add_argument("--cache", type=Path, default=Path("layer_times"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.what == "make":
        make(given.cache)
        return 0
    path = given.results / "layer_times.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    for name in [given.engine] if given.engine else ENGINES:
        rows[name] = measure(name, given.cache)
        path.write_text(json.dumps(rows, indent=1) + "\n")
        (given.results / "layer_times.md").write_text(document(rows))
    print(document(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
