"""Two processes that share each batch learn what one alone does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed

from edgedl.benchmark.metrics import metric_of
from edgedl.train.checkpoint import read
from edgedl.train.fit import fit
from edgedl.train.processes import Processes
from tests.train.small import convolutional, images, same, settings
from tests.train.together import PLAN

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="needs gloo"
)
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", "-m", "tests.train.together", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr

    network = convolutional(dropout=0, norm=False)
    alone = fit(
        network, images(900), images(77, seed=1), settings(**PLAN), folder=tmp_path / "alone",
        score=metric_of("top1"),
    )  # fmt: skip
    ours, _ = read(alone.weights)
    for parts in (1, 3):
        theirs, document = read(tmp_path / f"parts{parts}" / "best.safetensors")
        for name, one in ours.items():
            torch.testing.assert_close(one, theirs[name], rtol=1e-4, atol=1e-6)
        assert document["score"] == pytest.approx(alone.best, abs=1 / 77 + 1e-9)
        told = [(tmp_path / f"score{parts}-{rank}").read_text() for rank in (0, 1)]
        figures = [text.replace("seconds", "\n").splitlines()[0] for text in told]
        assert figures[0] == figures[1]
        last = read(tmp_path / f"parts{parts}" / "last.safetensors")[1]["history"][-1]
        assert last["loss"] == pytest.approx(alone.history[-1].loss, rel=1e-4)
        assert last["validation_loss"] == pytest.approx(alone.history[-1].validation_loss, rel=1e-4)

    whole, stopped = (read(tmp_path / name / "last.safetensors") for name in ("whole", "stopped"))
    assert same(whole[0], stopped[0])
    assert {"random.0", "random.1"} <= set(whole[0])
    for rank in (0, 1):
        assert "a batch of 1 for 2 processes" in (tmp_path / f"error-{rank}").read_text()


def test_parts_are_neighbours_and_all_of_it() -> None:
    rows = np.arange(7)
    parts = [Processes(rank, 3, torch.device("cpu")).part(rows).tolist() for rank in range(3)]
    assert parts == [[0, 1], [2, 3, 4], [5, 6]]
