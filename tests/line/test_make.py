"""From a recipe to a bundle, and again: only what changed is made anew."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgedl
from edgedl.core.errors import BadValue, Diverged, EdgeError, Unsupported, WrongAnswers
from edgedl.line.foresee import foresee
from edgedl.line.make import make
from edgedl.runtime import any_engine

TRAIN = "train: {epochs: 3, batch: 16, optimizer: {name: adam, lr: 0.01}}\n"
REST = "compress: {target: onnxruntime}\nbench: {seconds: 0.5}\n"


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)


def blobs(folder: Path, classes: int = 3) -> Path:
    """Points around as many centres as there are classes, far apart."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 400)
    centres = 4 * rng.standard_normal((classes, 6))
    x = centres[labels] + rng.standard_normal((400, 6))
    path = folder / "blobs.npz"
    np.savez(path, x=x.astype(np.float32), labels=labels)
    return path


def recipe(folder: Path, train: str = TRAIN, rest: str = REST, network: str = "mlp") -> Path:
    blobs(folder)
    path = folder / "blobs.yaml"
    path.write_text(f"data: {{arrays: blobs.npz}}\nnetwork: {network}\n{train}{rest}")
    return path


def kept(found: edgedl.line.make.Made) -> list[str]:  # type: ignore[name-defined]
    return [stage.name for stage in found.stages if stage.kept]


def test_the_whole_line_and_then_nothing_anew(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    found = make(path)
    assert [stage.name for stage in found.stages] == [
        "data", "train", "export", "compress", "bench",
    ]  # fmt: skip
    assert kept(found) == []
    assert found.output == "blobs.edl"
    assert found.compressed is not None
    assert found.compressed["accuracy"]["metric"] == "top1"
    assert found.compressed["accuracy"]["baseline"] >= 0.95
    assert found.bench is not None
    assert len(found.bench["rows"]) == 2
    # chosen by the validation part, told on all of the test part
    assert found.compressed["accuracy"]["samples"] == 80
    assert not any("served for choosing" in doubt for doubt in found.compressed["doubts"])
    with edgedl.open("blobs.edl") as session, np.load("blobs.npz") as arrays:
        [made] = session.run({"x": arrays["x"][:1]}).values()
        assert made.shape == (1, 3)
        assert int(made.argmax()) == int(arrays["labels"][0])
    json.dumps(found.to_json())
    assert ".making-" not in found.text() + json.dumps(found.to_json())
    assert "top1 1" in found.text() or "top1 0.9" in found.text()

    forecast = foresee(path).stages[3]
    assert forecast.seconds == found.compressed["seconds"]
    again = make(path)
    assert kept(again) == ["train", "export", "compress"]
    assert again.weights == found.weights
    other = make(recipe(tmp_path, rest="compress: {target: onnxruntime, calibration: 40}\n"))
    assert kept(other) == ["train", "export"]
    assert kept(make(recipe(tmp_path, train=TRAIN.replace("3", "4")), until="export")) == []


def test_the_line_ends_where_it_is_told_to(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    trained = make(path, until="train")
    assert trained.output is None
    assert Path(trained.weights).is_file()
    model = make(path, until="export", output="a.onnx")
    assert kept(model) == ["train"]
    assert edgedl.inspect("a.onnx")["parameters"] > 0
    assert not (tmp_path / "blobs.edl").exists()
    last = make(recipe(tmp_path, rest="compress:\n"))
    assert last.output == "blobs.edl"[:-4] + ".onnx"


def test_weights_that_lie_beside_a_model_go_where_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgedl.export.MOST_INSIDE", 1000)
    (tmp_path / "out").mkdir()
    path = recipe(tmp_path, train=TRAIN.replace("epochs: 3", "epochs: 1"))
    make(path, until="export", output="out/m.onnx")
    assert len(list((tmp_path / "out").iterdir())) == 2
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    model = tmp_path / "out" / "m.onnx"
    with any_engine().open_model(model, settings={}, threads=1) as session:
        [made] = session.run({"x": np.ones((1, 6), np.float32)}).values()
    assert made.shape == (1, 3)


def test_a_network_that_cannot_be_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="unknown network `mpl`") as caught:
        make(recipe(tmp_path, network="mpl"))
    assert caught.value.where == f"{tmp_path / 'blobs.yaml'}:2"
    with pytest.raises(BadValue) as caught:
        make(recipe(tmp_path, network="{name: mlp, wdth: 3}"))
    assert caught.value.where == f"{tmp_path / 'blobs.yaml'}:2"


def test_data_and_metrics_that_are_not_there_are_told_before_training(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    (tmp_path / "blobs.npz").unlink()
    with pytest.raises(EdgeError, match=r"`blobs.npz`: no such file") as caught:
        make(path)
    assert caught.value.where == f"{path}:1"
    with pytest.raises(EdgeError, match="unknown metric"):
        make(recipe(tmp_path, train="train: {epochs: 1, metric: top7}\n"))
    with pytest.raises(EdgeError, match="is a folder"):
        make(recipe(tmp_path), output=tmp_path)


def test_what_training_refuses_is_foreseen_with_its_line(tmp_path: Path) -> None:
    path = recipe(tmp_path, train="train: {epochs: 1, augment: [flip]}\n")
    with pytest.raises(EdgeError, match="`flip` needs images") as caught:
        foresee(path, until="train")
    assert caught.value.where == f"{path}:3"


def test_what_it_would_take_is_told_and_nothing_is_trained(tmp_path: Path) -> None:
    found = foresee(recipe(tmp_path))
    assert [stage.name for stage in found.stages] == [
        "data", "train", "export", "compress", "bench",
    ]  # fmt: skip
    text = found.text()
    assert "3 epochs of" in text
    assert "runs on onnxruntime" in text
    assert not (tmp_path / "store" / "runs").exists()
    assert found.broken == ()
    # nothing was compressed in this store yet
    assert found.stages[3].seconds is None
    assert re.search(r"compress +unknown +nothing alike was compressed", text)


def test_a_streaming_network_ships_a_step_and_its_state(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 160)
    x = (rng.standard_normal((160, 3, 8)) + 2 * labels[:, None, None]).astype(np.float32)
    np.savez(tmp_path / "s.npz", x=x, labels=labels)
    path = tmp_path / "stream.yaml"
    path.write_text(
        "data: {arrays: s.npz}\nnetwork: {name: streaming_gru, hidden: 8, chunk: 2}\n"
        "train: {epochs: 4, batch: 16, optimizer: {name: adam, lr: 0.02}}\n" + REST
    )
    found = make(path)
    assert found.output is not None
    assert any("a few steps at a time" in doubt for doubt in found.doubts)
    with edgedl.open(found.output) as session:
        assert [tensor.name for tensor in session.signature.inputs] == ["x", "state"]
        stream, right = edgedl.Stream(session), 0
        for i in range(40):
            stream.reset()
            for first in range(0, 8, 2):
                made = stream.run({"x": x[i : i + 1, :, first : first + 2]})
            right += int(made["output"].argmax() == labels[i])
    assert right >= 36


def test_an_autoencoder_learns_its_input_though_there_are_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((300, 1)) * np.array([[1.0, 2.0, -1.0, 0.5, 1.5, -2.0]])
    odd = 2 * rng.standard_normal((60, 6))
    labels = np.array([0] * 300 + [1] * 60)
    np.savez(tmp_path / "a.npz", x=np.concatenate([normal, odd]).astype(np.float32), labels=labels)
    path = tmp_path / "odd.yaml"
    path.write_text(
        "data: {arrays: a.npz, task: reconstruction, normal: '0'}\n"
        "network: {name: autoencoder, hidden: [16], bottleneck: 2}\n"
        "train: {epochs: 30, batch: 16, optimizer: {name: adam, lr: 0.01}}\n"
        "compress: {target: onnxruntime}\nbench: {seconds: 0.3}\n"
    )
    found = make(path)
    assert found.history[-1]["validation_loss"] < 0.5 * found.history[0]["validation_loss"]
    assert found.compressed is not None
    assert found.compressed["accuracy"]["metric"] == "anomaly"
    assert found.compressed["accuracy"]["baseline"] > 0.9
    assert any("validation holds one class" in doubt for doubt in found.doubts)


def test_several_labels_that_each_may_apply_stay_zeros_and_ones(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
    np.savez(tmp_path / "m.npz", x=x, labels=(x[:, :3] > 0.8).astype(np.float32))
    path = tmp_path / "several.yaml"
    path.write_text(
        "data: {arrays: m.npz}\nnetwork: mlp\ntrain: {epochs: 20, batch: 16, loss: bce}\n"
    )
    found = make(path, until="export")
    told = [one.about.partition("binary:threshold=0 ")[2][:3] for one in found.stages[1:]]
    assert [one in ("0.9", "1 i", "1.0") for one in told] == [True, True], told


NET = """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn
from beside import WIDTH

@dataclass
class Shape:
    width: int = WIDTH

def net(inputs, outputs):
    return nn.Sequential(nn.Linear(6, Shape().width), nn.ReLU(), nn.Linear(Shape().width, outputs))
"""
LOSS = """
from torch.nn import functional
def each(outputs, labels):
    return SCALE * functional.cross_entropy(outputs, labels, reduction="none")
"""


def own_recipe(folder: Path, network: str = "net.py:net") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "net.py").write_text(NET)
    (folder / "beside.py").write_text("WIDTH = 8\n")
    (folder / "loss.py").write_text("SCALE = 1.0\n" + LOSS)
    train = TRAIN.replace("}\n", ", loss: 'loss.py:each'}\n").replace("epochs: 3", "epochs: 1")
    return recipe(folder, train=train, network=f"'{network}'")


def trained(path: Path) -> str:
    """The weights, by a process of its own: code is loaded once in each."""
    command = [sys.executable, "-m", "edgedl", "train", str(path), "--json"]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return str(json.loads(found.stdout.splitlines()[-1])["weights"])


@pytest.mark.parametrize("network", ["net.py:net", "net:net"])
def test_ones_own_code_lies_beside_the_recipe(tmp_path: Path, network: str) -> None:
    path = own_recipe(tmp_path / "project", network)
    first = make(path, until="train")
    assert kept(first) == []
    assert first.stages[-1].about.startswith("net.py:net, ")
    assert kept(make(path, until="train")) == ["train"]
    (tmp_path / "project" / "loss.py").unlink()
    with pytest.raises(BadValue, match="no file") as caught:
        make(path, until="train")
    assert caught.value.where == f"{path}:3"


@pytest.mark.parametrize(
    ("file", "was", "now"),
    [
        ("net.py", "nn.ReLU(), ", "nn.ReLU(inplace=False), "),
        ("beside.py", "8", "9"),
        ("loss.py", "1.0", "2.0"),
    ],
)
def test_ones_own_code_that_changed_is_trained_anew(
    tmp_path: Path, file: str, was: str, now: str
) -> None:
    path = own_recipe(tmp_path / "project")
    first = trained(path)
    assert trained(path) == first
    changed = tmp_path / "project" / file
    assert was in changed.read_text()
    changed.write_text(changed.read_text().replace(was, now))
    assert trained(path) != first


def test_a_class_more_is_another_network(tmp_path: Path) -> None:
    path = recipe(tmp_path, train=TRAIN.replace("epochs: 3", "epochs: 1"))
    first = make(path, until="train")
    path.write_text(path.read_text().replace("blobs.npz", "blobs.npz, classes: [a, b, c, d]"))
    second = make(path, until="train")
    assert second.weights != first.weights


@pytest.mark.parametrize(
    ("train", "line", "says"),
    [
        ("train:\n  epochs: 1\n  augment: [flip]\n", 3, "`flip` needs images"),
        ("train:\n  epochs: 1\n  loss: mse\n", 3, "a label has shape"),
    ],
)
def test_what_does_not_fit_the_data_is_told_with_its_line(
    tmp_path: Path, train: str, line: int, says: str
) -> None:
    path = recipe(tmp_path, train=train)
    with pytest.raises(BadValue, match=says) as caught:
        make(path, until="train")
    assert caught.value.where == f"{path}:{line}"


def test_names_that_an_export_does_not_have_are_told_with_their_line(tmp_path: Path) -> None:
    train = TRAIN.replace("epochs: 3", "epochs: 1")
    path = recipe(tmp_path, train=train, rest="export: {outputs: [a, b]}\n")
    with pytest.raises(BadValue, match="2 names for 1 outputs") as caught:
        make(path, until="export")
    assert caught.value.where == f"{path}:4"
    for axis, says in [
        ("{input: y, axis: 1, name: n}", "no input `y`"),
        ("{input: x, axis: 2, name: n}", "input `x` has no axis 2"),
        ("{input: x, axis: 1, name: n}\n    - {input: x, axis: 1, name: m}", "named twice"),
    ]:
        path = recipe(tmp_path, train=train, rest=f"export:\n  axes:\n    - {axis}\n")
        with pytest.raises(BadValue, match=says) as caught:
            make(path, until="export")
        assert caught.value.where == f"{path}:{7 if says == 'named twice' else 6}"
    assert not (tmp_path / "store" / "runs").exists()
    path = recipe(tmp_path, train=train, rest="compress: {metric: topp}\n")
    with pytest.raises(BadValue, match="unknown metric") as caught:
        make(path, until="train")
    assert caught.value.where == f"{path}:4"


BRANCHING = """
from torch import nn
class Net(nn.Linear):
    def forward(self, x):
        return super().forward(x if float(x.sum()) > 0 else -x)
def net(inputs, outputs):
    return Net(6, outputs)
"""


RAISING = """
import torch
def helper(x):
    raise ValueError("no such thing\\nsecond line")
class Net(torch.nn.Linear):
    def forward(self, x):
        if self.training:
            helper(x)
        return super().forward(x)
def net(inputs, outputs):
    return Net(6, outputs)
def loss(outputs, labels):
    return torch.zeros(3) @ torch.zeros(4)
def metric(outputs, label):
    return outputs["gone"]
"""


@pytest.mark.parametrize(
    ("network", "train", "says", "line"),
    [
        ("raising.py:net", "", "network `raising.py:net` raised ValueError: no such thing", 2),
        ("mlp", "loss: 'raising.py:loss'", "loss `raising.py:loss` raised RuntimeError: ", 3),
        ("mlp", "metric: 'raising.py:metric'", "failed on sample 0: KeyError: 'gone'", 3),
    ],
)
def test_what_ones_own_code_raises_names_it_and_its_line(
    tmp_path: Path, network: str, train: str, says: str, line: int
) -> None:
    (tmp_path / "raising.py").write_text(RAISING)
    more = f", {train}}}\n" if train else "}\n"
    path = recipe(tmp_path, train=TRAIN.replace("}\n", more), network=f"'{network}'")
    at = {"network": 4, "loss": 13, "metric": 15}[train.partition(":")[0] or "network"]
    for verb in (make, foresee):
        with pytest.raises(EdgeError) as caught:
            verb(path)
        assert says in str(caught.value)
        assert f"(raising.py:{at})" in str(caught.value)
        assert caught.value.where == f"{path}:{line}"
        assert caught.value.hint


def test_what_fails_late_is_told_at_the_recipes_line(tmp_path: Path) -> None:
    train = TRAIN.replace("epochs: 3", "epochs: 1")
    path = recipe(tmp_path, train=train, rest="export: {tolerance: 1e-30}\n")
    with pytest.raises(WrongAnswers, match="more than 1e-30") as caught:
        make(path, until="export")
    assert str(caught.value).startswith(f"{path}:4: output")
    (tmp_path / "odd.py").write_text(BRANCHING)
    path = recipe(tmp_path, train=train, network="odd:net")
    said: list[str] = []
    with pytest.raises(Unsupported, match="cannot be exported") as refused:
        make(path, until="export", progress=lambda message, _done, _total: said.append(message))
    assert refused.value.where == f"{path}:2"
    assert said[-1] == "trying the export", "it was trained first"
    path = recipe(tmp_path, train="train: {epochs: 9, optimizer: {name: sgd, lr: 1e12}}\n")
    with pytest.raises(Diverged) as diverged:
        make(path, until="train")
    assert diverged.value.where == f"{path}:3"


def test_settings_that_change_no_weights_train_nothing_anew(tmp_path: Path) -> None:
    def path(more: str) -> Path:
        return recipe(tmp_path, train=TRAIN.replace("}\n", f"{more}}}\n"))

    first = make(path(""), until="train")
    again = make(path(", checkpoint_seconds: 5, threads: 1, memory: 0.1"), until="train")
    assert kept(again) == ["train"]
    assert again.weights == first.weights
    assert kept(make(path(", clip: 1.0"), until="train")) == []


def test_a_store_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "file"))
    with pytest.raises(EdgeError, match="the store cannot be written") as caught:
        make(recipe(tmp_path), until="train")
    assert caught.value.where == str(tmp_path / "file")


def test_a_regression_ships_in_the_datas_own_units(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 6)).astype(np.float32)
    values = (1000 + 50 * x[:, :1] + rng.standard_normal((400, 1))).astype(np.float32)
    np.savez(tmp_path / "v.npz", x=x, labels=values)
    path = tmp_path / "values.yaml"
    path.write_text(
        "data: {arrays: v.npz}\nnetwork: mlp\n"
        "train: {epochs: 40, batch: 16, optimizer: {name: adam, lr: 0.01}}\n"
        "compress: {target: onnxruntime}\nbench: {seconds: 0.3}\n"
    )
    found = make(path)
    assert found.output is not None
    with edgedl.open(found.output) as session:
        made = np.concatenate([session.run({"x": row[None]})["output"] for row in x[:50]])
        whole = session.run({"x": x[:7]})["output"]
    assert np.abs(made - values[:50]).mean() < 10
    np.testing.assert_allclose(whole, made[:7], rtol=1e-3)
    assert found.doubts == ()
    assert found.compressed is not None
    # The mean square of values of deviation 50 is 2,500; that of standardized ones 1.
    assert 1 < found.compressed["accuracy"]["figure"]["baseline"] < 400
