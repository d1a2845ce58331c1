"""Samples per second of `fit` against the plainest loop written by hand, and against Lightning.

    python benchmarks/fit.py [--samples 4096] [--rounds 5] [--epochs 2] [--device auto]

The same network, first weights, samples in memory, optimizer and batch. In each round every arm
trains once, in an order that turns, so that what else the machine does meets all of them. `loop` is
what the training loop alone takes; `whole` is the call, for `fit` with its digests, validation and
checkpoints, which the plain loop does not have. Lightning is measured where it is installed. Writes
`benchmarks/results/fit.json` and `fit.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedl.benchmark.machine import this_machine
from edgedl.core.registry import installed, version
from edgedl.core.samples import Samples, from_arrays
from edgedl.report.table import markdown
from edgedl.train.fit import fit
from edgedl.train.settings import Constant, Fit, Sgd

RESULTS = Path(__file__).resolve().parent / "results"
BATCH, RATE, MOMENTUM = 128, 0.02, 0.9
CLASSES = 10
Took = tuple[float, float]


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.around = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.around(x))


def network_of(width: int = 16) -> nn.Module:
    """ResNet-8, as for CIFAR-10 in MLPerf Tiny."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        Block(width, width, 1),
        Block(width, 2 * width, 2),
        Block(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, CLASSES),
    )


def samples_of(count: int) -> Samples:
    random = np.random.default_rng(0)
    images = random.normal(size=(count, 3, 32, 32)).astype(np.float32)
    return from_arrays({"x": images, "labels": random.integers(0, CLASSES, count)})


def by_hand(samples: Samples, epochs: int, device: torch.device) -> Took:
    """As a tutorial writes it."""
    start = perf_counter()
    network = network_of().to(device).train()
    x = torch.from_numpy(samples.source.arrays["x"]).to(device)  # type: ignore[attr-defined]
    y = torch.from_numpy(samples.labels).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM)
    settle(device)
    began = perf_counter()
    for _ in range(epochs):
        order = torch.randperm(len(x), device=device)
        for i in range(0, len(x) - BATCH + 1, BATCH):
            rows = order[i : i + BATCH]
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
    settle(device)
    return perf_counter() - began, perf_counter() - start


def by_fit(samples: Samples, epochs: int, device: torch.device) -> Took:
    start = perf_counter()
    settings = Fit(
        epochs=epochs,
        batch=BATCH,
        optimizer=Sgd(lr=RATE, momentum=MOMENTUM),
        schedule=Constant(),
    )
    unseen = samples.take(range(BATCH))
    with tempfile.TemporaryDirectory() as folder:
        found = fit(
            network_of(), samples, unseen, settings, folder=Path(folder), device=str(device)
        )
    return sum(epoch.seconds for epoch in found.history), perf_counter() - start


def by_lightning(samples: Samples, epochs: int, device: torch.device) -> Took:
    """With all switched off that a user may switch off."""
    import lightning
    from torch.utils.data import DataLoader, TensorDataset

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network_of()
            self.took = 0.0

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            return functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=RATE, momentum=MOMENTUM)

        def on_train_epoch_start(self) -> None:
            settle(device)
            self.began = perf_counter()

        def on_train_epoch_end(self) -> None:
            settle(device)
            self.took += perf_counter() - self.began

    start = perf_counter()
    x = torch.from_numpy(samples.source.arrays["x"])  # type: ignore[attr-defined]
    loader = DataLoader(
        TensorDataset(x, torch.from_numpy(samples.labels)), BATCH, shuffle=True, drop_last=True
    )
    module = Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning.Trainer(
            accelerator=device.type if device.type == "cpu" else "gpu",
            devices=1,
            max_epochs=epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, loader)
    return module.took, perf_counter() - start


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


Arm = Callable[[Samples, int, torch.device], Took]


def measure(arguments: argparse.Namespace, device: torch.device) -> dict[str, list[Took]]:
    """Seconds of each arm in each round; a first round of one epoch warms up."""
    arms: dict[str, Arm] = {"by hand": by_hand, "fit": by_fit}
    if installed("lightning"):
        arms["Lightning"] = by_lightning
    samples = samples_of(arguments.samples)
    few = samples.take(range(4 * BATCH))
    for run in arms.values():
        run(few if run is by_fit else samples_of(4 * BATCH), 1, device)
    took: dict[str, list[Took]] = {name: [] for name in arms}
    for number in range(arguments.rounds):
        names = list(arms)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            took[name].append(arms[name](samples, arguments.epochs, device))
            print(f"round {number + 1}: {name} {took[name][-1][0]:.2f} s", flush=True)
    return took


def rows_of(took: dict[str, list[Took]], learned: int) -> list[dict[str, Any]]:
    """Samples per second, and their ratio to the plain loop's in the same round."""
    rows = []
    for name, all_rounds in took.items():
        row: dict[str, Any] = {"arm": name}
        for i, what in enumerate(("loop", "whole")):
            speeds = [learned / one[i] for one in all_rounds]
            ratios = sorted(
                plain[i] / one[i] for plain, one in zip(took["by hand"], all_rounds, strict=True)
            )
            row[what] = {
                "samples_per_second": statistics.median(speeds),
                "ratio": statistics.median(ratios),
                "least": ratios[0],
                "most": ratios[-1],
            }
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = [["", "loop, samples/s", "ratio [least, most]", "whole, samples/s", "ratio"]]
    for row in rows:
        cells = [row["arm"]]
        for what in ("loop", "whole"):
            one = row[what]
            cells.append(f"{one['samples_per_second']:.0f}")
            cells.append(f"{one['ratio']:.3f} [{one['least']:.3f}, {one['most']:.3f}]")
        lines.append(cells)
    return markdown(lines, right=range(1, 5))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    name = arguments.device
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    took = measure(arguments, device)
    learned = arguments.epochs * (arguments.samples // BATCH) * BATCH
    rows = rows_of(took, learned)
    document = {
        "machine": this_machine().to_json(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "lightning")},
        "batch": BATCH,
        **{key: getattr(arguments, key) for key in ("samples", "rounds", "epochs")},
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fit.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "fit.md").write_text(table(rows) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
