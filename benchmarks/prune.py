"""Pruning by measured latency beside pruning by multiplications, at equal latency.

    python benchmarks/prune.py [RECIPE] [--engines onnxruntime openvino] [--share 0.5] [--epochs 5]

The recipe's trained network is cut twice for each engine: to a share of the summed time of its
layers, and to such a share of its multiplications that the layers that are left take as long, by
the same table of layers timed on that engine in int8. Scores, training behind the cut, seeds and
samples are the same. Both are compressed to int8, scored on all test samples, and timed beside one
another and beside the uncut network. Writes `benchmarks/results/prune.md` and `prune.json`.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgedl.benchmark.machine import this_machine
from edgedl.core.progress import silent
from edgedl.line.begin import Line, begun, network_of
from edgedl.line.form import form_of
from edgedl.line.shipped import compressed, exported
from edgedl.line.trained import trained
from edgedl.recipe import Compress, read_recipe
from edgedl.report.table import markdown
from edgedl.search.layer_times import LayerTimes
from edgedl.train.fit import fit
from edgedl.train.shrink.cutting import cut, tried
from edgedl.train.shrink.ground import drawn, ground_of
from edgedl.train.shrink.groups import Structure, groups_of
from edgedl.train.shrink.prune import BATCH, SAMPLES, _worst
from edgedl.train.shrink.refit import refit
from edgedl.train.shrink.scores import scores_of
from edgedl.train.shrink.widths import Prices, best_widths, macs, shapes_of
from edgedl.verbs import bench

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
HALVINGS = 12


def by_macs(structure: Structure, scores: Any, price: Prices, budget: float) -> Any:
    """The widths of most score for their multiplications whose layers take the budget."""
    whole = float(sum(macs(shapes_of(structure, {}))))
    low, high = 0.02, 1.0
    found = None
    for _ in range(HALVINGS):
        share = (low + high) / 2
        kept = best_widths(structure, scores, Prices(macs), share * whole, least=4).kept
        if float(sum(price(shapes_of(structure, kept)))) <= budget:
            low, found = share, kept
        else:
            high = share
    if found is None:
        raise SystemExit(
            "error: no widths by multiplications take so little time\nhint: --share 0.7"
        )
    return found


def learned(line: Line, network: Any, folder: Path, epochs: int, rate: float) -> None:
    settings = line.settings
    settings = replace(
        settings,
        epochs=epochs,
        optimizer=replace(settings.optimizer, lr=rate * settings.optimizer.lr),
    )
    fit(network, line.dataset.train, line.dataset.validation, settings, folder=folder,
        seed=line.recipe.seed, score=line.metric(None))  # fmt: skip


def run(name: str, engine: str, share: float, epochs: int, rate: float) -> list[dict[str, Any]]:
    line = begun(read_recipe(ROOT / "recipes" / f"{name}.yaml"), silent)
    whole = network_of(line)
    key, _ = trained(line, whole, None)
    asked = Compress(target=engine)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        ground = ground_of(whole, line.dataset.train, line.settings, seed=line.recipe.seed)
        batches = drawn(whole, ground, SAMPLES, BATCH)
        structure = groups_of(whole, batches[0].inputs)
        scores = scores_of(whole, structure, "taylor", batches=batches, loss=ground.loss)
        times = LayerTimes(engine, "int8", 1, most_seconds=240)
        price = Prices(times.price)
        before = float(sum(price(shapes_of(structure, {}))))
        widths = {
            "latency": best_widths(structure, scores, price, share * before, least=4).kept,
            "macs": by_macs(structure, scores, price, share * before),
        }
        found: dict[str, Any] = {"uncut": whole}
        for by, kept in widths.items():
            network = copy.deepcopy(whole)
            gone = {g.name: _worst(scores[g.name], g.unit, g.size - kept[g.name])
                    for g in structure.groups if kept[g.name] < g.size}  # fmt: skip
            solved = refit(whole, tried(whole, structure, gone), batches, seed=ground.seed)
            cut(network, structure, gone)
            network.load_state_dict(solved, strict=False)
            torch.manual_seed(0)
            learned(line, network, Path(scratch) / by, epochs, rate)
            found[by] = network
        bundles = []
        for by, network in found.items():
            form = form_of(line, network)
            model = exported(
                line, form, f"{key} {engine} {by} {share} {epochs} {rate} {times.stands_timed}"
            )
            folder = compressed(line, form, model, asked)
            told = json.loads((folder / "told.json").read_text())
            kept = widths.get(by, {})
            rows.append({
                "engine": engine, "by": by, "float": told["accuracy"]["figure"]["baseline"],
                "ships": told["accuracy"]["figure"]["result"], "precision": told["precision"],
                "macs": float(sum(macs(shapes_of(structure, kept)))),
                "layers_us": float(sum(price(shapes_of(structure, kept)))),
                "bytes": told["bytes"], "said": list(times.said),
            })  # fmt: skip
            bundles.append(folder / "bundle.edl")
        timed = bench(bundles, seconds=12.0).to_json()
        for row, one in zip(rows, timed["rows"], strict=True):
            row["p50_ms"] = one["latency_ms"]["p50"]
        for row, other in zip(rows[1:], bundles[1:], strict=True):
            pair = next(p for p in timed["pairs"]
                        if {p["a"], p["b"]} == {str(bundles[0]), str(other)})  # fmt: skip
            row["faster"] = {k: pair[k] for k in ("ratio", "low", "high", "verdict")}
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", default="fashion_mnist")
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=0.25, help="of the recipe's learning rate")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    kept = given.results / "prune.json"
    found = json.loads(kept.read_text())["rows"] if kept.exists() else []
    for engine in given.engines:
        rows = run(given.recipe, engine, given.share, given.epochs, given.rate)
        found = [
            row for row in found
            if (row["recipe"], row["engine"], row["share"]) != (given.recipe, engine, given.share)
        ]  # fmt: skip
        about = {"recipe": given.recipe, "share": given.share, "epochs": given.epochs}
        found += [{**about, **row} for row in rows]
        kept.write_text(
            json.dumps({"machine": this_machine().to_json(), "rows": found}, indent=1) + "\n"
        )
    head = ["recipe", "engine", "cut by", "products", "float32", "ships", "p50", "faster", "bytes"]
    table = markdown([head, *([
        f"`{row['recipe']}`", row["engine"],
        "uncut" if row["by"] == "uncut" else f"{row['by']}, {row['share']}",
        f"{row['macs'] / 1e6:.2f} M", f"{row['float']:.4f}", f"{row['ships']:.4f}",
        f"{row['p50_ms']:.4f} ms",
        "" if "faster" not in row else
        f"{row['faster']['ratio']:.2f}x [{row['faster']['low']:.2f}, {row['faster']['high']:.2f}]",
        f"{row['bytes'] / 1e3:.0f} kB",
    ] for row in found)])  # fmt: skip
    (given.results / "prune.md").write_text(table + "\n")
    print(table)
    return 0


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    sys.exit(main())
