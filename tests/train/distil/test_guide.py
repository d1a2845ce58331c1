"""A guided training: kept answers are right, it goes on where it was killed, and it helps."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgedl.core.errors import BadCheckpoint, BadSamples, BadValue
from edgedl.core.samples import from_arrays
from edgedl.train.checkpoint import read
from edgedl.train.distil.agreement import agreement
from edgedl.train.distil.guide import Guide
from edgedl.train.distil.teacher import digest_of, itself, module_teacher, own_teacher
from edgedl.train.fit import Fitted, fit
from edgedl.train.shapes import TensorShape
from tests.train.distil.taught import (
    CHANCES,
    Watching,
    answering,
    knowing,
    large,
    told,
    unlabelled,
)
from tests.train.small import convolutional, images, rows_of, same, settings, weights

LAYERS: dict[str, Any] = {
    "features": {"student": "2", "teacher": "2"},
    "attention": [{"student": "4", "teacher": "4", "weight": 0.5}],
    "relations": {"distance": 1, "angle": 1, "student": "5", "teacher": "5"},
}


class Stopped(Exception):
    """What stands for a kill."""


@pytest.mark.parametrize("engine", [False, True])
@pytest.mark.parametrize("more", [{}, {"accumulate": 3}, {"balance": True, "memory": 0.0}])
def test_kept_answers_are_the_teachers_in_every_batch(
    tmp_path: Path, engine: bool, more: dict[str, Any]
) -> None:
    teacher = answering(large()) if engine else module_teacher(large())
    guide = Watching(told(views=2), teacher, tmp_path / "answers")
    plan = settings(epochs=5, batch=20, augment=CHANCES, **more)
    fit(convolutional(), rows_of(images(70)), images(20, seed=1), plan, folder=tmp_path / "run",
        guide=guide)  # fmt: skip
    parts = 3 * plan.accumulate
    assert len(guide.seen) == 5 * parts
    assert max(error for _, error in guide.seen) < 1e-5
    inputs = [one for one, _ in guide.seen]
    # epochs 1, 3 and 5 are alike, 2 is another
    for i in range(parts):
        assert torch.equal(inputs[i], inputs[i + 2 * parts])
        assert torch.equal(inputs[i], inputs[i + 4 * parts])
        assert inputs[i].shape != inputs[i + parts].shape or not torch.equal(
            inputs[i], inputs[i + parts]
        )
    assert len(list((tmp_path / "answers").glob("*.npy"))) == 2


def test_without_chance_one_answer_a_sample_is_kept_and_each_epoch_has_its_order(
    tmp_path: Path,
) -> None:
    guide = Watching(told(views=1), module_teacher(large()), tmp_path / "answers")
    plan = settings(epochs=2, batch=20)
    fit(convolutional(), images(70), images(20, seed=1), plan, folder=tmp_path / "run", guide=guide)
    assert max(error for _, error in guide.seen) < 1e-5
    assert not torch.equal(guide.seen[0][0], guide.seen[3][0])
    [file] = (tmp_path / "answers").glob("*.npy")
    assert np.load(file).shape == (70, 4)


def test_half_as_many_bytes_are_near_the_answers(tmp_path: Path) -> None:
    guide = Watching(told(views=1, kept="float16"), module_teacher(large()), tmp_path / "answers")
    plan = settings(epochs=1, augment=["flip"])
    fit(convolutional(), images(64), images(20), plan, folder=tmp_path / "run", guide=guide)
    assert 0 < max(error for _, error in guide.seen) < 1e-2


def test_kept_or_asked_it_learns_the_same(tmp_path: Path) -> None:
    """In the first view the order is the same, too; an engine that takes one sample at a time gives
    the same."""
    found = []
    for i, (views, teacher) in enumerate(
        [(0, module_teacher(large())), (4, module_teacher(large())), (0, answering(large())),
         (4, answering(large(), single=True))]
    ):  # fmt: skip
        network = convolutional(dropout=0, norm=False)
        guide = Guide(told(views=views), teacher, tmp_path / f"answers{i}")
        plan = settings(augment=CHANCES)
        fit(network, images(100), images(20), plan, folder=tmp_path / str(i), guide=guide)
        found.append(weights(network))
    assert same(found[0], found[1])
    for other in found[2:]:
        for name, one in found[0].items():
            torch.testing.assert_close(one, other[name], rtol=1e-3, atol=1e-5)


def test_without_a_guide_nothing_is_said_of_one(tmp_path: Path) -> None:
    fit(convolutional(), images(64), images(20), settings(epochs=1), folder=tmp_path)
    tensors, document = read(tmp_path / "last.safetensors")
    assert list(document["identity"]) == [
        "format", "network", "layers", "settings", "data", "seed", "metric",
    ]  # fmt: skip
    assert not [name for name in tensors if name.startswith("adapters")]


@pytest.mark.parametrize("more", [{"views": 2}, LAYERS])
def test_stopped_anywhere_it_ends_with_the_same_bits(tmp_path: Path, more: dict[str, Any]) -> None:
    """Also while answers are computed, of which a block is lost at most."""
    plan = settings(epochs=3, batch=8, augment=CHANCES, ema=0.9, clip=1.0, checkpoint_seconds=2.0)
    counts = itertools.count()

    def run(name: str, last: int | None) -> int:
        calls = 0

        def progress(label: str, done: int, total: int) -> None:
            nonlocal calls
            calls += label.startswith(("epoch", "the teacher"))
            if calls == last:
                raise Stopped

        network = convolutional()
        guide = Guide(told(**more), module_teacher(large()), tmp_path / f"answers-{name}")
        fit(network, images(64), images(20, seed=1), plan, folder=tmp_path / name, seed=3,
            guide=guide, progress=progress, clock=lambda: next(counts))  # fmt: skip
        return calls

    whole = run("whole", None)
    assert whole == 24 + 16 * ("views" in more)
    for last in (3, 7, 6, 4):
        with pytest.raises(Stopped):
            run("stopped", last)
    run("stopped", None)
    for name in ("best", "last"):
        ours, theirs = (read(tmp_path / who / f"{name}.safetensors")[0]
                        for who in ("stopped", "whole"))  # fmt: skip
        assert same(ours, theirs)
    best, last = (read(tmp_path / "whole" / f"{name}.safetensors")[0] for name in ("best", "last"))
    assert best.keys() == convolutional().state_dict().keys()
    assert ("adapters.0.weight" in last) == ("features" in more)
    if "features" in more:
        assert last["adapters.0.weight"].shape == (16, 8)


def test_another_teacher_is_another_run(tmp_path: Path) -> None:
    samples, plan = (images(64), images(20)), settings(epochs=1)
    base = Guide(told(), module_teacher(large()), tmp_path / "answers")
    fit(convolutional(), *samples, plan, folder=tmp_path / "run", guide=base)
    for guide, says in (
        (Guide(told(), module_teacher(large(8)), base.folder), "`guide.teacher` is"),
        (Guide(told(temperature=2), base.teacher, base.folder), "`guide.temperature` is 4.0 there"),
        (None, "`guide` is .* there, missing here"),
    ):
        with pytest.raises(BadCheckpoint, match=says):
            fit(convolutional(), *samples, plan, folder=tmp_path / "run", guide=guide)


def taught(tmp_path: Path, name: str, guide: Guide | None, **given: Any) -> Fitted:
    few = images(48, seed=2)
    assert few.labels is not None
    few.labels[:24] = (few.labels[:24] + 1) % 4
    plan = settings(epochs=12, batch=12, optimizer={"name": "adam", "lr": 0.01}, **given)
    return fit(convolutional(dropout=0), few, images(400, seed=3), plan, folder=tmp_path / name,
               score=top1, guide=guide)  # fmt: skip


def top1(answers: dict[str, np.ndarray], labels: np.ndarray | None) -> float:
    return float((answers["output"].argmax(axis=1) == labels).mean())


def test_it_does_better_with_a_teacher(tmp_path: Path) -> None:
    """Every other label is wrong, which a teacher of other samples knows."""
    chances = ["noise", "mixup"]
    plain = taught(tmp_path, "plain", None, augment=chances)
    for name, more in (("soft", {}), ("kept", {"views": 4}), ("layers", LAYERS)):
        guide = Guide(told(temperature=2, **more), knowing(), tmp_path / "answers")
        found = taught(tmp_path, name, guide, augment=chances)
        assert found.best > plain.best + 0.2, name


def test_without_labels_the_teacher_alone_teaches(tmp_path: Path) -> None:
    teacher = knowing()
    train, judged_by = unlabelled(images(200)), unlabelled(images(100, seed=1))
    plan = settings(epochs=5, augment=["flip"], optimizer={"name": "adam", "lr": 0.02})
    guide = Guide(told(answers="classes", temperature=1, views=2), teacher, tmp_path / "answers")
    network = convolutional()
    figure = agreement(guide, network, judged_by, plan)
    before = sorted((tmp_path / "answers").glob("*.npy"))
    found = fit(network, train, judged_by, plan, folder=tmp_path / "run", score=figure, guide=guide)
    assert len(before) == 1
    assert before[0] in (tmp_path / "answers").iterdir()
    assert len(list((tmp_path / "answers").glob("*.npy"))) == 3
    assert found.metric == "agreement"
    assert found.best > 0.8
    x = torch.from_numpy(judged_by.source.arrays["x"])  # type: ignore[attr-defined]
    with torch.no_grad():
        ours, theirs = network(x), teacher.module.cpu()(x)
    assert found.best == pytest.approx(float((ours.argmax(1) == theirs.argmax(1)).float().mean()))
    # the loss in validation is the divergence
    wanted = nn.functional.kl_div(ours.log_softmax(1), theirs.log_softmax(1), log_target=True,
                                  reduction="batchmean")  # fmt: skip
    best = max(found.history, key=lambda epoch: epoch.better)
    assert best.validation_loss == pytest.approx(float(wanted), rel=1e-3)


def test_values_without_labels_and_the_loss_as_the_figure(tmp_path: Path) -> None:
    samples = unlabelled(images(100))
    guide = Guide(told(), answering(large()), tmp_path / "answers")
    found = fit(convolutional(), samples, samples, settings(), folder=tmp_path / "run", guide=guide)
    assert found.metric == "validation_loss"
    with pytest.raises(BadSamples, match="`cross_entropy` needs labels") as caught:
        fit(convolutional(), samples, samples, settings(loss="cross_entropy"),
            folder=tmp_path / "other", guide=guide)  # fmt: skip
    assert "leave `loss` out" in (caught.value.hint or "")


def test_probabilities_are_known_and_compared_as_such(tmp_path: Path) -> None:
    """A network that ends in a softmax, against its own float answers."""
    ours = nn.Sequential(convolutional(dropout=0), nn.Softmax(dim=1))
    samples = unlabelled(images(64))
    guide = Guide(told(), itself(ours), tmp_path / "answers")
    still = settings(epochs=1, optimizer={"name": "sgd", "lr": 1e-9}, schedule="constant")
    ours.eval()
    found = fit(ours, samples, samples, still, folder=tmp_path / "run", guide=guide)
    assert found.best < 1e-3


class Steps(nn.Module):
    """Answers for each step: [batch, steps, classes]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.LSTM(3, width, batch_first=True), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x)[0])  # type: ignore[no-any-return]


def test_sequences_with_layers_of_unlike_width(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(64, 6, 3)).astype(np.float32)
    samples = from_arrays({"x": x, "labels": np.tile(np.array([1, 2, 3]), (64, 1))})
    ours, theirs = Steps(4), Steps(8)
    guide = Guide(told(features={"student": "first"}, attention={"student": "first"}),
                  module_teacher(theirs), tmp_path / "answers")  # fmt: skip
    found = fit(ours, samples, samples, settings(loss="ctc"), folder=tmp_path / "run", guide=guide)
    assert found.epochs == 2
    last = read(tmp_path / "run" / "last.safetensors")[0]
    assert last["adapters.0.weight"].shape == (8, 4)


@pytest.mark.parametrize(
    ("given", "teacher", "says"),
    [
        ({}, large(classes=6),
         r"`output` is float32 of shape \(4,\), the teacher's `output` float32 of shape \(6,\)"),
        ({}, nn.Sequential(nn.Flatten(), nn.Linear(7, 4)),
         r"does not take samples `x` of shape \(2, 8, 8\) \(mat1 and mat2"),
        ({"features": {"student": "layer"}}, large(), "the teacher has no layer `layer`"),
        ({"features": {"student": "8", "teacher": "2"}}, large(), "network has no layer `8`"),
        ({"features": {"student": "2", "teacher": "6"}}, large(),
         r"`2` gives shape \(8, 8, 8\), the teacher's `6` shape \(4,\)"),
        ({"attention": {"student": "6", "teacher": "6"}}, large(), r"shape \(4,\)"),
        ({"outputs": {"student": "output", "teacher": "logit"}}, large(),
         "the teacher has no output `logit`"),
    ],
)  # fmt: skip
def test_a_teacher_that_does_not_fit_is_told(
    tmp_path: Path, given: dict[str, Any], teacher: nn.Module, says: str
) -> None:
    guide = Guide(told(**given), module_teacher(teacher), tmp_path / "answers")
    with pytest.raises(BadValue, match=says):
        fit(convolutional(), images(64), images(20), settings(), folder=tmp_path, guide=guide)


def test_an_engine_that_does_not_fit_is_told(tmp_path: Path) -> None:
    def tried(teacher: Any, **given: Any) -> None:
        guide = Guide(told(**given), teacher, tmp_path / "answers")
        fit(convolutional(), images(64), images(20), settings(), folder=tmp_path, guide=guide)

    with pytest.raises(BadValue, match="which does not tell what `2` gave"):
        tried(answering(large()), features={"student": "2"})
    with pytest.raises(BadValue, match=r"`logits` float32 of shape \(6,\)"):
        tried(answering(large(classes=6)))
    with pytest.raises(BadValue, match="does not take samples `x` of shape"):
        tried(answering(nn.Sequential(nn.Flatten(), nn.Linear(7, 4))))
    with pytest.raises(BadValue, match="is not finite"):
        tried(answering(nn.Sequential(large(), nn.Threshold(100.0, float("inf")))), views=1)
    with pytest.raises(BadValue, match="too large for float16"):
        tried(answering(nn.Sequential(large(), nn.Threshold(100.0, 1e6))), views=1, kept="float16")


def test_layers_are_not_looked_into_once_compiled(tmp_path: Path) -> None:
    guide = Guide(told(**LAYERS), module_teacher(large()), tmp_path / "answers")
    with pytest.raises(BadValue, match="once they are compiled"):
        fit(convolutional(), images(64), images(20), settings(compile=True), folder=tmp_path,
            guide=guide)  # fmt: skip


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "mark"])
def test_damaged_answers_are_told(tmp_path: Path, damage: str) -> None:
    guide = Guide(told(views=1), module_teacher(large()), tmp_path / "answers")
    samples, plan = (images(64), images(20)), settings(epochs=1)
    fit(convolutional(), *samples, plan, folder=tmp_path / "run", guide=guide)
    [file] = guide.folder.glob("*.npy")
    whole = file.read_bytes()
    if damage == "cut":
        file.write_bytes(whole[:-5])
    elif damage == "changed":
        file.write_bytes(whole[:-5] + b"!" + whole[-4:])
    elif damage == "gone":
        file.unlink()
    else:
        file.with_suffix(".json").write_text('{"done": ')
    with pytest.raises(BadCheckpoint, match="the teacher's answers are damaged") as caught:
        fit(convolutional(), *samples, plan, folder=tmp_path / "again", guide=guide)
    assert "computed anew" in (caught.value.hint or "")
    for left in guide.folder.glob(f"{file.stem}.*"):
        left.unlink()
    fit(convolutional(), *samples, plan, folder=tmp_path / "again", guide=guide)
    assert file.read_bytes() == whole
    assert json.loads(file.with_suffix(".json").read_text())["done"] == 1


OWN = """
from torch import nn

def teacher(inputs, outputs):
    [shape] = inputs.values()
    return nn.Sequential(nn.Flatten(), nn.Linear(shape.size, outputs))
"""


def test_a_teacher_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    shape = {"x": TensorShape((2, 8, 8))}
    teacher = own_teacher(f"{tmp_path / 'mine.py'}:teacher", shape, 4)
    assert teacher.module(torch.zeros(3, 2, 8, 8)).shape == (3, 4)
    with pytest.raises(BadValue, match="has no `other`"):
        own_teacher(f"{tmp_path / 'mine.py'}:other", shape, 4)


def test_a_digest_is_of_weights_and_layers() -> None:
    one = large()
    assert digest_of(one) == digest_of(large())
    assert digest_of(one) != digest_of(large(8))
    assert digest_of(nn.Sequential(nn.ReLU())) != digest_of(nn.Sequential(nn.Tanh()))
    copied = itself(one)
    assert copied.key == digest_of(one)
    assert copied.module is not one


def test_a_live_teacher_answers_in_the_precision_of_training() -> None:
    seen: list[torch.dtype] = []

    class Heard(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.head(x)
            seen.append(found.dtype)
            return found

    some = (torch.ones(2, 3),)
    teacher = module_teacher(Heard())
    assert teacher.ready(("x",), some, (), torch.bfloat16)(some)[0]["output"].dtype == torch.float32
    assert seen == [torch.bfloat16, torch.bfloat16]
    teacher.ready(("x",), some, ())(some)
    assert seen[2:] == [torch.float32, torch.float32]
