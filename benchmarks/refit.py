"""What solving the weights that stay brings back of a network that was cut, without training.

    python benchmarks/refit.py [NAMES ...] [--shares 0.8 0.65 0.5] [--cache DIR]

Each model of the zoo is brought back from its ONNX file, cut to shares of its multiplications by
the scores `activation` on 32 samples, and solved on the first half of its samples; how many of the
other half are answered as the uncut network does is told for the cut network and for the solved
one. Nothing is timed but by the way. Writes `benchmarks/results/refit.json` and `refit.md`.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from zoo import CACHE, fetch

from edgedl.benchmark.machine import this_machine
from edgedl.core.samples import open_npz
from edgedl.report.table import markdown
from edgedl.train.augment import Batch
from edgedl.train.networks.onnx import onnx
from edgedl.train.shapes import TensorShape
from edgedl.train.shrink.cutting import apply_cut, proved, tried
from edgedl.train.shrink.groups import groups_of
from edgedl.train.shrink.prune import _worst
from edgedl.train.shrink.refit import MOST_VALUES, refit
from edgedl.train.shrink.scores import scores_of
from edgedl.train.shrink.widths import Prices, best_widths, macs, shapes_of

RESULTS = Path(__file__).parent / "results"
NAMES = ("mobilenetv2", "efficientnet-lite0")
SHARES = (0.8, 0.65, 0.5)
SCORED, BATCH = 32, 32


@torch.no_grad()
def classes(network: nn.Module, inputs: Tensor) -> Tensor:
    """The class that each sample is taken for."""
    found = []
    for some in inputs.split(BATCH):
        answers = network(some)
        first = answers if isinstance(answers, Tensor) else answers[0]
        found.append(first.flatten(1).argmax(1))
    return torch.cat(found)


def rows(name: str, shares: list[float], cache: Path) -> list[dict[str, Any]]:
    entry = fetch(name, cache)
    samples = open_npz(entry.samples)
    [key] = samples.source.arrays  # type: ignore[attr-defined]
    inputs = torch.from_numpy(samples.source.arrays[key].copy())  # type: ignore[attr-defined]
    shape = TensorShape(tuple(inputs.shape[1:]), "float32")
    network = onnx({key: shape}, None, file=str(entry.model)).eval()
    half = len(inputs) // 2
    learned, held = inputs[:half], inputs[half:]
    wanted = classes(network, held)
    structure = proved(network, groups_of(network, (learned[:2],)))
    scored = [Batch((learned[:SCORED],), torch.zeros(SCORED))]
    scores = scores_of(network, structure, "activation", batches=scored)
    price = Prices(macs)
    before = float(sum(price(shapes_of(structure, {}))))
    found = []
    for share in shares:
        kept = best_widths(structure, scores, price, before * share, step=None, least=4).kept
        gone = {
            one.name: _worst(scores[one.name], one.unit, one.size - kept[one.name])
            for one in structure.groups
            if kept[one.name] < one.size
        }
        plan = tried(network, structure, gone)
        cut = copy.deepcopy(network)
        apply_cut(cut, plan)
        agreed = float((classes(cut, held) == wanted).float().mean())
        start = perf_counter()
        made = refit(network, plan, [Batch((learned,), torch.zeros(half))])
        seconds = perf_counter() - start
        cut.load_state_dict(made, strict=False)
        solved = float((classes(cut, held) == wanted).float().mean())
        left = float(sum(price(shapes_of(structure, kept)))) / before
        found.append({
            "model": name, "samples": min(half, MOST_VALUES // inputs[0].numel()),
            "macs": left, "cut": agreed, "solved": solved,
            "layers": sum(one.endswith("weight") for one in made), "seconds": seconds,
        })  # fmt: skip
        print(found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--cache", type=Path, default=CACHE)
    given = parser.parse_args()
    torch.manual_seed(0)
    every = [row for name in given.names for row in rows(name, list(given.shares), given.cache)]
    lines = [["network", "multiplications", "cut", "cut and solved", "from samples", "layers"]]
    lines += [
        [
            one["model"], f"{one['macs']:.0%}", f"{one['cut']:.3f}", f"{one['solved']:.3f}",
            str(one["samples"]), str(one["layers"]),
        ]
        for one in every
    ]  # fmt: skip
    document = {"machine": this_machine().to_json(), "torch": torch.__version__, "rows": every}
    (RESULTS / "refit.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "refit.md").write_text(markdown(lines, right=(1, 2, 3, 4, 5)) + "\n")
    print(markdown(lines, right=(1, 2, 3, 4, 5)))


if __name__ == "__main__":
    main()
