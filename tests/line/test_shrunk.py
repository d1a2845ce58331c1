"""Steps behind training: each trained, judged on the target, kept, undone or left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from edgedl.core.errors import BadValue, EdgeError
from edgedl.core.progress import silent
from edgedl.line.begin import begun, network_of
from edgedl.line.make import make
from edgedl.line.shrunk import _undone, check_steps, judged_by
from edgedl.recipe import read_recipe
from edgedl.report.made import Made, Shrink, shrink_cells

REST = "compress: {target: onnxruntime}\nbench: {seconds: 0.5}\n"
# What is judged and shipped in float is not searched for ways to compute it in int8.
FLOAT = REST.replace("{target", "{precision: float32, target")
TRAIN = "train: {epochs: 2, batch: 16, optimizer: {name: adam, lr: 0.01}}\n"


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)


def recipe(
    folder: Path,
    name: str,
    text: str,
    network: str = "{name: mlp, hidden: [64, 48]}",
    rest: str = REST,
) -> Path:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    x = 4 * rng.standard_normal((3, 6))[labels] + rng.standard_normal((400, 6))
    np.savez(folder / "blobs.npz", x=x.astype(np.float32), labels=labels)
    path = folder / name
    path.write_text(f"data: {{arrays: blobs.npz}}\nnetwork: {network}\n{TRAIN}{text}{rest}")
    return path


def kept(found: Made) -> list[str]:
    return [stage.name for stage in found.stages if stage.kept]


def test_steps_are_taken_judged_and_kept(tmp_path: Path) -> None:
    recipe(tmp_path, "large.yaml", "", network="{name: mlp, hidden: [128, 128]}")
    path = recipe(
        tmp_path,
        "small.yaml",
        "distil: {teacher: large.yaml, weight: 0.5}\n"
        "shrink: [{name: prune, macs: 0.5, epochs: 1, rounds: 2}, {name: low_rank, energy: 1},"
        " distil]\n",
        rest=FLOAT,
    )
    found = make(path)
    assert [row.step for row in found.shrink] == ["train", "prune", "low_rank", "distil"]
    first, pruned, factored, taught = found.shrink
    assert pruned.parameters < first.parameters
    assert pruned.speedup is not None
    assert (pruned.undone is None) == (pruned.speedup["verdict"] == "faster")
    assert factored.undone is not None
    assert "no layer pays" in factored.undone
    assert taught.undone is None
    assert taught.parameters == (first if pruned.undone else pruned).parameters
    assert taught.figure is not None
    assert taught.figure >= 0.95
    assert "teacher" in [stage.name for stage in found.stages]
    assert "low_rank (undone)" in found.text()
    again = make(path)
    names = [stage.name for stage in again.stages if stage.name not in ("data", "bench")]
    assert kept(again) == names
    assert [row.to_json() for row in again.shrink] == [row.to_json() for row in found.shrink]


class Stopped(Exception):
    pass


def test_a_run_that_was_killed_in_a_step_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(
        tmp_path,
        "a.yaml",
        "shrink: [{name: sparsity, share: 0.5, epochs: 2, rounds: 2}]\n",
        rest=FLOAT,
    )
    whole = make(path, until="export", output="whole.onnx")
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "other"))
    for last in (3, 40, 55):
        calls = 0

        def stop(message: str, done: int, total: int, last: int = last) -> None:
            nonlocal calls
            calls += message.startswith("epoch")
            if calls > last:
                raise Stopped

        with pytest.raises(Stopped):
            make(path, until="export", output="b.onnx", progress=stop)
    again = make(path, until="export", output="parts.onnx")
    assert [row.parameters for row in again.shrink] == [row.parameters for row in whole.shrink]
    assert (tmp_path / "parts.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()


def test_what_steps_need_of_one_another_is_told_with_its_line(tmp_path: Path) -> None:
    def told(text: str, name: str = "a.yaml") -> tuple[str, str | None]:
        with pytest.raises(BadValue) as caught:
            make(recipe(tmp_path, name, text))
        return caught.value.message, caught.value.where

    here = f"{tmp_path / 'a.yaml'}:4"
    assert told("shrink: [distil]\n") == ("nobody is named who teaches", here)
    message, where = told("distil: {teacher: itself}\n")
    assert ("nothing does" in message, where) == (True, here)
    message, where = told("distil: {teacher: gone.yaml}\n")
    assert (message.split(":")[-1], where) == (" no such file", here)
    assert told("shrink: [{name: prune, mac: 0.5}]\n")[1] == here
    message, where = told("distil: {teacher: a.yaml}\n")
    assert (message, where) == ("recipes teach one another: a.yaml -> a.yaml", here)
    message, _ = told("shrink: [{name: quantise}]\n")
    assert "quantise" in message


def test_what_cannot_be_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    def told(text: str, network: str = "{name: mlp, hidden: [64, 48]}") -> tuple[str, str | None]:
        trained = []

        def progress(message: str, done: int, total: int) -> None:
            trained.append(message.startswith("epoch"))

        with pytest.raises(EdgeError) as caught:
            make(recipe(tmp_path, "a.yaml", text, network), progress=progress)
        assert not any(trained)
        assert caught.value.hint
        return caught.value.message, caught.value.where

    here = f"{tmp_path / 'a.yaml'}:4"
    message, where = told("shrink: [{name: prune, macs: 0.5, keep: [tail]}]\n")
    assert (message, where) == ("`keep` names `tail`, and the network has no such layer", here)
    message, where = told("shrink: [{name: prune, macs: 0.01, least: 40}]\n")
    assert ("the cheapest widths" in message, where) == (True, here)
    message, where = told("shrink: [{name: cluster, keep: ['*']}]\n")
    assert ("no layer with weights is left" in message, where) == (True, here)
    message, where = told("shrink: [cluster, {name: prune, macs: 0.5}]\n")
    assert ("train the palettes away" in message, where) == (True, here)
    message, where = told("shrink: [low_rank, {name: prune, macs: 0.5, keep: [tail]}]\n")
    assert (message, where) == ("`keep` names `tail`, and the network has no such layer", here)
    other = recipe(tmp_path, "other.yaml", "")
    data = np.load(tmp_path / "blobs.npz")
    np.savez(tmp_path / "four.npz", x=data["x"], labels=np.arange(400) % 4)
    other.write_text(other.read_text().replace("blobs", "four"))
    message, where = told("distil: {teacher: other.yaml}\n")
    assert ("the teacher's" in message, where) == (True, here)


def test_a_share_of_time_that_cannot_be_had_is_left_out(tmp_path: Path) -> None:
    step = "{name: prune, latency: 0.001, round_to: 32, least: 32, epochs: 1}"
    path = recipe(tmp_path, "a.yaml", f"shrink: [{step}]\n", rest=FLOAT)
    found = make(path, until="export", output="a.onnx")
    trained, left = found.shrink
    assert left.parameters == trained.parameters
    assert left.undone is not None
    assert "are allowed (a larger share (0." in left.undone
    assert any("step 1, `prune`, was left out: the cheapest" in doubt for doubt in found.doubts)
    assert (tmp_path / "a.onnx").exists()
    # nothing is lost where nothing was trained: it is an error at once
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 0"))
    with pytest.raises(EdgeError, match="are allowed") as caught:
        make(path, until="export", output="b.onnx")
    assert caught.value.where == f"{path}:4"
    assert "a larger share (0." in str(caught.value.hint)


def test_what_compress_is_asked_for_decides_anew_only_what_has_a_price(tmp_path: Path) -> None:
    def tuned(text: str, precision: str) -> list[bool]:
        path = recipe(tmp_path, "a.yaml", text)
        path.write_text(path.read_text().replace("{target:", f"{{precision: {precision}, target:"))
        found = make(path, until="export", output="a.onnx")
        return [stage.kept for stage in found.stages if stage.name == "shrink"]

    cut = "shrink: [{name: prune, macs: 0.5, epochs: 1}]\n"
    assert tuned(cut, "float32") == [False]
    assert tuned(cut, "weights") == [True]


def test_steps_behind_low_rank_may_name_layers_that_it_makes(tmp_path: Path) -> None:
    step = "{name: prune, macs: 0.8, keep: ['*.narrow']}"
    path = recipe(tmp_path, "a.yaml", f"shrink: [low_rank, {step}]\n")
    line = begun(read_recipe(path), silent)
    check_steps(line, network_of(line), None)


def test_without_compress_steps_are_judged_in_float(tmp_path: Path) -> None:
    path = recipe(tmp_path, "a.yaml", "shrink: [{name: prune, macs: 0.5, epochs: 1}]\n")
    assert judged_by(begun(read_recipe(path), silent)).precision == "int8"
    path.write_text(path.read_text().replace("{target: onnxruntime}", "null"))
    assert judged_by(begun(read_recipe(path), silent)).precision == "float32"


def state(bytes_: int) -> Any:
    class Of:
        told: ClassVar = {"engine": "onnxruntime", "bytes": bytes_}

    return Of()


def test_a_step_is_undone_where_its_promise_did_not_come_true() -> None:
    slower = {"ratio": 0.98, "low": 0.9, "high": 1.1, "verdict": "inconclusive"}
    faster = {"ratio": 1.5, "low": 1.4, "high": 1.6, "verdict": "faster"}
    assert _undone("speed", state(9), state(9), faster) is None
    assert _undone("speed", state(9), state(9), slower) == (
        "no faster on onnxruntime: 0.98x [0.90, 1.10]"
    )
    slightly = {"ratio": 1.03, "low": 1.01, "high": 1.05, "noise": 0.04, "verdict": "inconclusive"}
    assert _undone("speed", state(9), state(9), slightly) == (
        "no faster on onnxruntime beyond the noise of 4%: 1.03x [1.01, 1.05]"
    )
    assert _undone("bytes", state(1000), state(1000), faster) == "no smaller: 1,000 to 1,000 bytes"
    assert _undone("bytes", state(1000), state(999), slower) is None
    assert _undone("accuracy", state(9), state(99), slower) is None


def test_ratios_of_steps_are_chained_and_what_was_undone_leaves_none() -> None:
    def row(step: str, ratio: float | None, undone: str | None = None) -> Shrink:
        speedup = None if ratio is None else {"ratio": ratio, "low": 1, "high": 2}
        return Shrink(step, 100, "top1", 0.9, 0.9, {}, "openvino", "int8", 100, 400, 1.0, 3.0,
                      speedup, undone)  # fmt: skip

    cells = shrink_cells([row("train", None), row("prune", 2.0), row("low_rank", 0.5, "no faster"),
                          row("distil", 1.0)])  # fmt: skip
    assert [one[-2] for one in cells] == ["3.00x", "6.00x", "3.00x", "6.00x"]
