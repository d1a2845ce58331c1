"""Processes that divide a network's weights learn what those do that each hold all of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import distributed, nn

from edgedl.core.errors import Unsupported
from edgedl.line.trained import deciding
from edgedl.train.checkpoint import load_weights, read
from edgedl.train.fit import fit
from edgedl.train.networks.vit import vit
from edgedl.train.processes import Processes
from edgedl.train.shapes import TensorShape
from edgedl.train.sharded import blocks_of, divided, divides
from tests.train.apart import CHANCY, WAYS, made, run
from tests.train.small import same, settings

ROOT = Path(__file__).parents[2]
TWO = Processes(0, 2, torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes did, and this one alone before and after."""
    if not (distributed.is_available() and distributed.is_gloo_available()):
        pytest.skip("needs gloo")
    pytest.importorskip("torch.distributed.fsdp", reason="needs FSDP")
    place = tmp_path_factory.mktemp("divided")
    run("text", place / "taken", "weights", CHANCY, last=12)
    assert read(place / "taken" / "last.safetensors")[1]["step"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", "-m", "tests.train.apart", str(place)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert read(place / "left" / "last.safetensors")[1]["step"] == 16
    run("text", place / "left", "weights", CHANCY)
    run("text", place / "alone", "samples", CHANCY)
    return place


@pytest.mark.parametrize("way", WAYS)
def test_divided_weights_learn_what_whole_ones_do(folder: Path, way: str) -> None:
    near = {"text_bf16": 1e-3, "text_float16": 1e-4}.get(way, 1e-5)
    told = {
        (divide, rank): json.loads((folder / f"{way}-{divide}" / f"told-{rank}.json").read_text())
        for divide in ("samples", "weights")
        for rank in (0, 1)
    }
    assert told["weights", 0] == told["weights", 1]
    theirs, ours = (told[divide, 0][0] for divide in ("samples", "weights"))
    assert len(ours) == 2
    for epoch, wanted in zip(ours, theirs, strict=True):
        assert epoch == pytest.approx(wanted, rel=near)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["best", "last"])
def test_the_files_are_those_of_whole_weights(folder: Path, way: str, name: str) -> None:
    (theirs, said), (ours, document) = (
        read(folder / f"{way}-{divide}" / f"{name}.safetensors")
        for divide in ("samples", "weights")
    )
    shapes = [{n: (t.dtype, t.shape) for n, t in one.items()} for one in (theirs, ours)]
    assert shapes[0] == shapes[1]
    assert document.keys() == said.keys()
    assert document.get("identity") == said.get("identity")
    if name == "best":
        network = made(WAYS[way][0], seed=3)[0]
        load_weights(network, folder / f"{way}-weights" / "best.safetensors")


def test_weights_are_near_those_of_whole_ones(folder: Path) -> None:
    for way in ("mlp", "images", "taught"):
        theirs, ours = (
            read(folder / f"{way}-{divide}" / "best.safetensors")[0]
            for divide in ("samples", "weights")
        )
        for name, one in theirs.items():
            torch.testing.assert_close(ours[name], one, rtol=1e-4, atol=1e-5)


def test_each_process_holds_its_part(folder: Path) -> None:
    held = [json.loads((folder / f"held-{rank}.json").read_text()) for rank in (0, 1)]
    (ours, whole), (others, _) = held
    assert ours + others == whole
    assert abs(ours - others) < 0.05 * whole


def test_killed_in_an_epoch_it_goes_on_as_if_it_had_not_been(folder: Path) -> None:
    whole, stopped = (read(folder / name / "last.safetensors") for name in ("whole", "stopped"))
    assert {"optimizer.0.exp_avg", "average.head.weight", "random.1"} <= set(whole[0])
    assert same(whole[0], stopped[0])
    best = [read(folder / name / "best.safetensors")[0] for name in ("whole", "stopped")]
    assert same(*best)


@pytest.mark.parametrize("name", ["left", "taken"])
def test_it_goes_on_with_another_number_of_processes(folder: Path, name: str) -> None:
    wanted, _ = json.loads((folder / "alone" / "told-0.json").read_text())
    found, _ = json.loads((folder / name / "told-0.json").read_text())
    for epoch, one in zip(found, wanted, strict=True):
        assert epoch == pytest.approx(one, rel=1e-5)


def test_what_cannot_be_divided_is_said(folder: Path) -> None:
    for rank in (0, 1):
        reads, scalar, layers = json.loads((folder / f"said-{rank}.json").read_text())
        assert "reads a block's weights without calling the block" in reads
        assert "scalar parameters" in scalar
        assert "layers cannot be looked into" in layers


def test_a_torch_without_it_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.distributed.fsdp", ModuleType("without"))
    with pytest.raises(Unsupported, match="cannot divide weights") as caught:
        divided(nn.Linear(2, 2), TWO)
    assert "divide: samples" in str(caught.value.hint)


def test_one_alone_divides_nothing(tmp_path: Path) -> None:
    plan = settings(divide="weights")
    assert divides(plan, TWO)
    assert not divides(settings(), TWO)
    assert not divides(plan, Processes(0, 1, torch.device("cpu")))
    found = []
    for divide in ("samples", "weights"):
        network, *samples = made("images")
        fit(network, *samples, settings(divide=divide, epochs=1), folder=tmp_path / divide)
        found.append(read(tmp_path / divide / "last.safetensors"))
    assert same(found[0][0], found[1][0])
    assert found[0][1]["identity"] == found[1][1]["identity"]
    assert "divide" not in found[0][1]["identity"]["settings"]
    assert deciding(plan) == deciding(settings())


def test_blocks_are_what_lists_hold() -> None:
    network = vit({"x": TensorShape((3, 16, 16))}, 4, patch=4, width=48, heads=3, depth=3)
    assert blocks_of(network) == list(network.blocks)  # type: ignore[arg-type]

    wide = [nn.Linear(128, 128) for _ in range(4)]
    stages = nn.Sequential(nn.Sequential(*wide[:2]), nn.ReLU(), nn.Sequential(*wide[2:]))
    assert blocks_of(stages) == wide
    assert blocks_of(nn.Sequential(nn.Linear(99, 99), nn.Linear(99, 99))) == []


def test_blocks_that_share_weights_go_with_the_rest() -> None:
    first, second, third = (nn.Linear(128, 128) for _ in range(3))
    second.weight = first.weight
    assert blocks_of(nn.Sequential(first, second, third)) == [third]
    assert blocks_of(nn.Sequential(third, third)) == []
