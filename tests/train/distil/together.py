"""What each of two processes does, under torchrun: `-m tests.train.distil.together FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from edgedl.train.distil.teacher import module_teacher
from edgedl.train.fit import fit
from tests.train.distil.taught import CHANCES, Watching, large, told
from tests.train.small import convolutional, images, settings

PLAN = {"batch": 32, "optimizer": {"name": "sgd", "lr": 0.1}}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    samples = images(199), images(45, seed=1)
    for name, more, chances in (
        ("plain", {"views": 1}, []),
        ("chance", {"views": 2}, CHANCES),
        ("layers", {"features": {"student": "2"}, "attention": {"student": "2"}}, CHANCES),
    ):
        guide = Watching(told(**more), module_teacher(large()), folder / "answers")
        plan = settings(**PLAN, epochs=3, augment=chances)
        network = convolutional(dropout=0, norm=False)
        fit(network, *samples, plan, folder=folder / name, guide=guide)
        assert len(guide.seen) == (0 if name == "layers" else 18)
        assert all(error < 1e-5 for _, error in guide.seen), name


if __name__ == "__main__":
    main(Path(sys.argv[1]))
