"""Faults planted in good models, and what `edgedl diagnose` says of them.

    python benchmarks/faults.py [MODEL ...] [--cache DIR] [--samples 48]

Eight faults in each of three networks with real weights, in int8 for onnxruntime by edgedl's rules,
and these and further networks as they are, in int8 by several kinds of ranges. Those of the latter
whose answers are float's are the healthy pairs: the same class in 98 of 100, or a cosine of 0.999.
A fault is named right where the first cause has its name. Rows of other models stay. Writes
`benchmarks/results/faults.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from zoo import fetch

import edgedl
from edgedl.core.model import Model
from edgedl.core.samples import from_arrays
from edgedl.core.target import PROCESSORS
from edgedl.inputs import load_model
from edgedl.passes.correct import CorrectBias, channel_means
from edgedl.passes.graph import open_model, rewrite
from edgedl.passes.place import Place
from edgedl.passes.plan import Plan, Quantizer
from edgedl.passes.quantize import Quantize
from edgedl.report.table import markdown
from edgedl.search.ready import prepare

RESULTS = Path(__file__).resolve().parent / "results"
MODELS = ("mobilenetv2", "efficientnet-lite0", "blazeface")
SOUND = ("magika", "ppocr-rec", "minilm", "basic-pitch", "silero-vad")
LOUD = 40.0
Arrays = dict[str, np.ndarray]


@dataclass
class Good:
    """A float model, cleaned, and its samples: what calibrates, and what it is judged on."""

    name: str
    path: Path
    model: Model
    seen: Arrays
    unseen: Arrays
    folder: Path

    @property
    def input(self) -> str:
        return self.model.signature.inputs[0].name

    def changed(self, net: onnx.ModelProto, name: str) -> Good:
        """The same with another graph in the place of the float model."""
        path = self.folder / f"{name}.onnx"
        path.write_bytes(net.SerializeToString())
        return replace(self, path=path, model=prepare(open_model(path), {}))

    def planned(self, seen: Arrays | None = None, method: str = "percentile") -> Plan:
        samples = from_arrays(self.seen if seen is None else seen).bind(self.model.signature)
        return Quantize(samples, method=method).plan(self.model)

    def coded(self, plan: Plan, *, corrected: bool = True) -> Path:
        steps: list[Any] = [Place(plan)]
        if corrected:
            samples = from_arrays(self.seen).bind(self.model.signature)
            steps.insert(0, CorrectBias(plan, channel_means(self.model, plan, samples)))
        return rewrite(self.model, *steps).path


@dataclass(frozen=True)
class Planted:
    """A pair of models, what it is judged on, and the names that are right."""

    fault: str
    names: tuple[str, ...]
    path: Path
    coded: Path
    data: Arrays
    machine: Mapping[str, Any] | None = None


def pairs(net: onnx.ModelProto) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Convolutions whose result only another one reads, by way of a ReLU at most, no group in
    either; those with the most channels first."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in net.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in net.graph.output}
    weights = {tensor.name: tensor for tensor in net.graph.initializer}
    found = []
    for node in net.graph.node:
        last, behind = node.output[0], readers.get(node.output[0], [])
        if node.op_type != "Conv" or node.input[1] not in weights:
            continue
        if len(behind) == 1 and behind[0].op_type == "Relu" and last not in outputs:
            behind = readers.get(behind[0].output[0], [])
        if len(behind) != 1 or behind[0].op_type != "Conv" or behind[0].input[1] not in weights:
            continue
        if weights[behind[0].input[1]].dims[1] == weights[node.input[1]].dims[0]:
            found.append((node, behind[0]))
    return sorted(found, key=lambda p: -weights[p[0].input[1]].dims[0])


def scaled(net: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """The same function, one channel between two convolutions louder by a factor."""
    made = onnx.ModelProto()
    made.CopyFrom(net)
    one, two = pairs(made)[0]
    tensors = {tensor.name: tensor for tensor in made.graph.initializer}

    def change(name: str, edit: Callable[[np.ndarray], None]) -> None:
        array = numpy_helper.to_array(tensors[name]).copy()
        edit(array)
        tensors[name].CopyFrom(numpy_helper.from_array(array, name))

    # The quietest channel: another would hide what is planted behind what it says itself.
    weight = numpy_helper.to_array(tensors[one.input[1]])
    channel = int(np.argsort(np.abs(weight).reshape(len(weight), -1).max(axis=1))[len(weight) // 2])

    def louder(array: np.ndarray) -> None:
        array[channel] *= factor

    def softer(array: np.ndarray) -> None:
        array[:, channel] /= factor

    for name in one.input[1:3]:
        change(name, louder)
    change(two.input[1], softer)
    return made


def faults(good: Good) -> Iterator[Planted]:
    """Each of the eight, planted alone."""
    net = onnx.load(good.model.path)
    plan = good.planned()
    yield Planted(
        "one channel louder than the others", ("outlier_channel",),
        (loud := good.changed(scaled(net, LOUD), "loud")).path,
        loud.coded(loud.planned(method="minmax")), good.unseen,
    )  # fmt: skip
    wild = good.changed(scaled(net, 4 * LOUD), "wild")
    tensors = wild.planned(method="minmax")
    tensors = replace(tensors, weights={n: (at, None) for n, (at, _) in tensors.weights.items()})
    yield Planted(
        "one scale for weights of wild sizes",
        ("per_tensor_weights", "batch_norm", "outlier_channel"),
        wild.path, wild.coded(tensors, corrected=False), good.unseen,
    )  # fmt: skip
    dim = {**good.seen, good.input: (good.seen[good.input] * 0.15).astype(np.float32)}
    yield Planted(
        "calibrated on samples of a sixth of the contrast", ("calibration",), good.path,
        good.coded(good.planned(dim), corrected=False), good.unseen,
    )  # fmt: skip
    middle = list(plan.activations)[len(plan.activations) // 3]
    yield Planted(
        "a range that clips", ("clipped_range",), good.path,
        good.coded(_with_scale(plan, middle, 0.08)), good.unseen,
    )  # fmt: skip
    yield Planted(
        "a range far too wide", ("wide_range", "stretched_range"), good.path,
        good.coded(_with_scale(plan, middle, 60)), good.unseen,
    )  # fmt: skip
    for name, words, change in (
        ("preprocessing", "colours in the other order", _flipped),
        ("preprocessing", "values 255 times as large", lambda x: x * np.float32(255)),
    ):
        data = {**good.unseen, good.input: np.ascontiguousarray(change(good.unseen[good.input]))}
        yield Planted(words, (name,), good.path, good.coded(plan), data)
    yield Planted(
        "8-bit weights on a processor without VNNI", ("saturation",), good.path,
        good.coded(plan), good.unseen, PROCESSORS["x86-avx2"].machine(),
    )  # fmt: skip


def _flipped(x: np.ndarray) -> np.ndarray:
    return np.flip(x, 1 if x.shape[1] == 3 else x.ndim - 1)


def _with_scale(plan: Plan, tensor: str, factor: float) -> Plan:
    old = plan.activations[tensor]
    lower = old.zero_point * old.scale * factor
    zero = old.zero_point if old.zero_point in (0, 128) else round(lower / (old.scale * factor))
    new = Quantizer(old.dtype, old.scale * factor, int(zero))
    return replace(plan, activations={**plan.activations, tensor: new})


def healthy(good: Good) -> Iterator[Planted]:
    """Models as they are, in int8 by edgedl's rules."""
    for method in ("percentile", "mse", "minmax"):
        plan = good.planned(method=method)
        if plan.activations:
            yield Planted(f"none, ranges by {method}", (), good.path, good.coded(plan), good.unseen)


def said(planted: Planted) -> dict[str, Any]:
    """What is diagnosed."""
    began = time.perf_counter()
    found = edgedl.diagnose(
        planted.path, planted.coded, planted.data, target="onnxruntime", machine=planted.machine
    )
    causes = [cause.name for cause in found.causes]
    if planted.names:
        right = bool(causes) and causes[0] in planted.names
    else:
        right = found.status != "faults"
    top1, cosine = found.agreement.top1, found.agreement.cosine
    return {
        "fault": planted.fault,
        "faithful": found.agreement.is_faithful,
        "agreement": cosine if top1 is None else top1,
        "status": found.status,
        "causes": causes,
        "first": found.causes[0].sentence if causes else "",
        "right": right,
        "seconds": time.perf_counter() - began,
    }


def load(name: str, cache: Path, count: int, folder: Path) -> Good:
    entry = fetch(name, cache)
    with np.load(entry.samples, allow_pickle=False) as arrays:
        whole = {key: arrays[key] for key in arrays.files}
    order = np.random.default_rng(0).permutation(len(next(iter(whole.values()))))
    count = min(count, len(order) // 3)
    seen = {key: array[order[: 2 * count]] for key, array in whole.items()}
    unseen = {key: array[order[2 * count : 3 * count]] for key, array in whole.items()}
    model = prepare(load_model(entry.model), {})
    return Good(name, entry.model, model, seen, unseen, folder)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=[*MODELS, *SOUND])
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "edgedl" / "zoo")
    parser.add_argument("--samples", type=int, default=40, help="that a pair is judged on")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    kept = given.results / "faults.json"
    rows = json.loads(kept.read_text()) if kept.exists() else []
    rows = [row for row in rows if row["model"] not in given.names]
    for name in given.names:
        with tempfile.TemporaryDirectory() as folder:
            good = load(name, given.cache, given.samples, Path(folder))
            for planted in chain(faults(good) if name in MODELS else (), healthy(good)):
                row = {"model": name, "planted": bool(planted.names), **said(planted)}
                rows.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
    table = [["model", "planted", "agreement", "found", "first cause", "right", "seconds"]]
    table += [
        [
            row["model"], row["fault"], f"{row['agreement']:.4f}", row["status"],
            f"`{row['causes'][0]}`: {row['first']}" if row["causes"] else "",
            ("yes" if row["right"] else "no") if row["planted"] or row["faithful"] else "",
            f"{row['seconds']:.0f}",
        ]
        for row in rows
    ]  # fmt: skip
    with_fault = [row for row in rows if row["planted"]]
    without = [row for row in rows if not row["planted"] and row["faithful"]]
    words = (
        f"{sum(r['right'] for r in with_fault)} of {len(with_fault)} planted faults have the first"
        f" cause's name; {sum(r['right'] for r in without)} of {len(without)} pairs without one,"
        " whose answers are float's, are said to have none.\n\n"
    )
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "faults.md").write_text(words + markdown(table, right=(2, 6)) + "\n")
    kept.write_text(json.dumps(rows, indent=1) + "\n")
    print(words.strip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
