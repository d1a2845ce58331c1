"""A run that was killed at any moment ends as one that was not, or says why it cannot go on."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgedl.core.errors import BadCheckpoint, Diverged, EdgeError
from edgedl.train.checkpoint import read
from edgedl.train.fit import fit
from edgedl.train.track import read_log
from tests.train.small import convolutional, images, same, settings, weights

ROOT = Path(__file__).parents[2]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_killed_twenty_times_it_ends_with_the_same_bits(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, "-m", "tests.train.killed", str(tmp_path), kind]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["status"] == 0
    places = [tuple(place) for place in told["places"]]
    assert len(places) == 20
    assert places == sorted(places)
    assert len({place for place in places if place[1]}) >= 3
    for name in ("best", "last"):
        ours, theirs = (read(tmp_path / who / f"{name}.safetensors") for who in ("killed", "whole"))
        assert same(ours[0], theirs[0])
        assert ours[1] == theirs[1]
    logs = [read_log(tmp_path / who / "log.jsonl") for who in ("killed", "whole")]
    assert logs[0] == logs[1]


class Stopped(Exception):
    """What stands for a kill where a process of its own would take long."""


def stopped_at(step: int, folder: Path, **given: Any) -> nn.Module:
    """A run with a checkpoint at each step that ends at one; the network after it."""
    network = convolutional()

    def progress(label: str, done: int, total: int) -> None:
        if label.startswith("epoch") and done == step:
            raise Stopped

    ticks = itertools.count()
    with pytest.raises(Stopped):
        fit(
            network, images(64), images(20, seed=1), settings(batch=8, checkpoint_seconds=0.5),
            folder=folder, progress=progress, clock=lambda: next(ticks), **given,
        )  # fmt: skip
    return network


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"settings": settings(batch=8, optimizer={"name": "adamw", "lr": 0.01})},
         "`settings.optimizer.lr` is 0.001 there, 0.01 here"),
        ({"settings": settings(batch=8, augment=["flip"])},
         "`settings.augment.1` is missing there"),
        ({"seed": 1}, "`seed` is 0 there, 1 here"),
        ({"train": images(64, seed=9)}, "`data.train` is"),
        ({"validation": images(20, seed=9)}, "`data.validation` is"),
        ({"network": convolutional(norm=False)}, "`network.1.weight` is .* there, missing here"),
        ({"network": convolutional(dropout=0.5)}, "`layers` is"),
        ({"network": nn.Sequential(nn.Flatten(), nn.Linear(128, 4))},
         r"`network.0.weight` is float32 \[8, 2, 3, 3\] there, missing here"),
    ],
)  # fmt: skip
def test_another_run_in_the_folder_is_named_and_left_alone(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    stopped_at(5, tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    arguments: dict[str, Any] = {
        "network": convolutional(),
        "train": images(64),
        "validation": images(20, seed=1),
        "settings": settings(batch=8),
    }
    with pytest.raises(BadCheckpoint, match=says) as caught:
        fit(**{**arguments, **change}, folder=tmp_path)
    assert f"rm -r '{tmp_path}'" in (caught.value.hint or "")
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_settings_that_change_no_weights_may_change(tmp_path: Path) -> None:
    stopped_at(5, tmp_path)
    network, whole = convolutional(), convolutional()
    plan = settings(batch=8, checkpoint_seconds=9, memory=0.1, threads=2)
    fit(network, images(64), images(20, seed=1), plan, folder=tmp_path)
    fit(whole, images(64), images(20, seed=1), plan, folder=tmp_path / "whole")
    assert same(weights(network), weights(whole))


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    stopped_at(5, tmp_path)
    path = tmp_path / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BadCheckpoint, match="not a sound safetensors file"):
        fit(convolutional(), images(64), images(20, seed=1), settings(batch=8), folder=tmp_path)


class Breaks(nn.Module):
    """Answers NaN from its n-th step of learning on."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.layer, self.left = nn.Linear(128, 4), step

    def forward(self, x: Tensor) -> Tensor:
        self.left -= self.training
        answer: Tensor = self.layer(x.flatten(1))
        return answer if self.left else answer * float("nan")


def test_a_loss_that_is_no_number_stops_and_says_where(tmp_path: Path) -> None:
    network = Breaks(11)
    with pytest.raises(Diverged, match="the loss is nan at epoch 2, step 3") as caught:
        fit(network, images(64), images(20), settings(batch=8), folder=tmp_path)
    assert "last good checkpoint" in str(caught.value)
    tensors, document = read(tmp_path / "last.safetensors")
    assert len(document["history"]) == 1
    assert all(torch.isfinite(one).all() for n, one in tensors.items() if n.startswith("network"))
    assert "clip" in (caught.value.hint or "")


def test_no_checkpoint_is_written_of_weights_that_are_no_numbers(tmp_path: Path) -> None:
    """The gradient of a root at 0 is infinite, and the loss of that step is not."""

    class Rooted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale.sqrt() * x.flatten(1)[:, :4]

    plan = settings(epochs=1, batch=64)
    with pytest.raises(Diverged, match="not finite at the end of epoch 1"):
        fit(Rooted(), images(64), images(20), plan, folder=tmp_path)
    assert not (tmp_path / "last.safetensors").exists()


def test_a_sample_that_is_no_number_is_named(tmp_path: Path) -> None:
    samples = images(64)
    samples.source.arrays["x"][17, 0, 0, 0] = np.nan  # type: ignore[attr-defined]
    with pytest.raises(Diverged, match="epoch 1, step") as caught:
        fit(convolutional(), samples, images(20), settings(batch=8), folder=tmp_path)
    assert "sample 17" in (caught.value.hint or "")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What dropout draws hangs on the number of threads, and the other process has one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


FULL = """
import resource, sys
from tests.train.small import *
from edgedl.core.errors import EdgeError
from edgedl.train.fit import fit
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    fit(convolutional(), images(64), images(20), settings(epochs=4), folder=Path(sys.argv[1]))
except EdgeError as error:
    print(error, "|", error.hint)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of file sizes")
def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path, one_thread: None) -> None:
    """No file may be larger than the checkpoint without the next epoch's line of history."""
    whole = tmp_path / "whole"
    fit(convolutional(), images(64), images(20), settings(epochs=4), folder=whole)
    size = (whole / "last.safetensors").stat().st_size - 100
    command = [sys.executable, "-c", FULL, str(tmp_path / "full"), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ONE_THREAD)
    assert "cannot be written" in done.stdout, done.stderr
    assert "it goes on from the last checkpoint" in done.stdout
    assert not list((tmp_path / "full").glob(".*"))
    assert 1 <= len(read(tmp_path / "full" / "last.safetensors")[1]["history"]) < 4
    fit(convolutional(), images(64), images(20), settings(epochs=4), folder=tmp_path / "full")
    ours, theirs = (read(one / "best.safetensors")[0] for one in (tmp_path / "full", whole))
    assert same(ours, theirs)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgeError, match="cannot be made"):
        fit(convolutional(), images(64), images(20), settings(), folder=tmp_path / "file" / "run")
