"""What each of two processes does, under torchrun: `-m tests.train.together FOLDER`."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import torch

from edgedl.benchmark.metrics import metric_of
from edgedl.core.errors import BadValue
from edgedl.train.fit import fit
from tests.train.small import convolutional, images, settings

PLAN = {"batch": 64, "optimizer": {"name": "sgd", "lr": 0.1}, "checkpoint_seconds": 3.0}


class Stopped(Exception):
    pass


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    train, judged_by = images(900), images(77, seed=1)
    first = os.environ["RANK"] == "0"
    for parts in (1, 3):
        # unlike first weights: they learn from those of the first process
        network = convolutional(1 if first else 2, dropout=0, norm=False)
        plan = settings(**PLAN, accumulate=parts)
        place = folder / f"parts{parts}"
        found = fit(network, train, judged_by, plan, folder=place, score=metric_of("top1"))
        (folder / f"score{parts}-{os.environ['RANK']}").write_text(repr(found.history))

    chancy = settings(**PLAN, ema=0.9, augment="flip")

    def looked_at(last: int) -> float:
        now = next(ticks)
        if now == last:
            raise Stopped
        return float(now)

    for name, stops in (("whole", ()), ("stopped", (25, 30))):
        for last in (*stops, -1):
            ticks = itertools.count()
            try:
                fit(
                    convolutional(), train, judged_by, chancy, folder=folder / name,
                    clock=lambda: looked_at(last),  # noqa: B023
                )  # fmt: skip
            except Stopped:
                continue
    try:
        fit(convolutional(), train, judged_by, settings(batch=1), folder=folder / "one")
    except BadValue as error:
        (folder / f"error-{os.environ['RANK']}").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
