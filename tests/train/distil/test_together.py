"""Two processes that share each batch are taught as one alone is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

from edgedl.train.checkpoint import read
from edgedl.train.distil.guide import Guide
from edgedl.train.distil.teacher import module_teacher
from edgedl.train.fit import fit
from tests.train.distil.taught import large, told
from tests.train.distil.together import PLAN
from tests.train.small import convolutional, images, settings

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="needs gloo"
)
def test_two_processes_are_taught_as_one_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", "-m", "tests.train.distil.together", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    # one file a process, for all samples and for each of two views
    assert len(list((tmp_path / "answers").glob("*.npy"))) == 6

    network = convolutional(dropout=0, norm=False)
    guide = Guide(told(views=1), module_teacher(large()), tmp_path / "alone")
    alone = fit(network, images(199), images(45, seed=1), settings(**PLAN, epochs=3),
                folder=tmp_path / "run", guide=guide)  # fmt: skip
    ours, theirs = (read(path / "best.safetensors")[0]
                    for path in (alone.weights.parent, tmp_path / "plain"))  # fmt: skip
    for name, one in ours.items():
        torch.testing.assert_close(one, theirs[name], rtol=1e-4, atol=1e-6)
    adapter = read(tmp_path / "layers" / "last.safetensors")[0]["adapters.0.weight"]
    assert adapter.shape == (16, 8)
