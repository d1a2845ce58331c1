"""Training: it learns, it is the same twice, and every way of doing it keeps the sums."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgedl.benchmark.metrics import metric_of
from edgedl.core.errors import BadOption, BadSamples, BadValue, Missing, Unsupported
from edgedl.core.registry import installed
from edgedl.core.samples import from_arrays
from edgedl.train.fit import fit, load_weights
from edgedl.train.track import read_log
from tests.train.small import convolutional, images, rows_of, same, settings, weights

SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9}


def test_it_learns_and_leaves_the_best_weights(tmp_path: Path) -> None:
    network = convolutional()
    seen: list[tuple[str, int, int]] = []
    found = fit(
        network,
        rows_of(images(300)),
        images(120, seed=1),
        settings(
            epochs=4, optimizer=SGD, augment=["flip", {"name": "crop", "padding": 1}, "noise"]
        ),
        folder=tmp_path,
        score=metric_of("top1"),
        progress=lambda *told: seen.append(told),
    )
    assert found.best >= 0.95
    assert found.metric == "top1"
    assert found.epochs == 4 == len(found.history)
    assert found.best == max(epoch.score for epoch in found.history)
    assert ("epoch 4 of 4", 9, 9) in seen
    assert ("preparing samples", 300, 300) in seen
    other = convolutional(seed=5)
    load_weights(other, found.weights)
    assert same(weights(network), weights(other))
    assert not network.training
    assert [line["epoch"] for line in read_log(tmp_path / "log.jsonl")] == [1, 2, 3, 4]
    assert read_log(tmp_path / "log.jsonl")[0]["top1"] == found.history[0].score


def test_two_runs_are_equal_and_leave_the_generators_alone(tmp_path: Path) -> None:
    found = []
    plan = settings(augment=["cutout", "mixup"], ema=0.9, clip=1.0)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        network = convolutional()
        before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
        fit(network, images(100), images(50, seed=1), plan, folder=tmp_path / name, seed=seed)
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == np.random.get_state()[1].tolist()  # type: ignore[index]
        found.append(weights(network))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_samples_that_are_prepared_when_used_teach_the_same(tmp_path: Path) -> None:
    found = []
    for name, samples, memory in (("a", images(100), 0.5), ("b", rows_of(images(100)), 0.5),
                                  ("c", rows_of(images(100)), 0.0)):  # fmt: skip
        network = convolutional()
        plan = settings(memory=memory, threads=2)
        fit(network, samples, images(50, seed=1), plan, folder=tmp_path / name)
        found.append(weights(network))
    assert same(found[0], found[1])
    assert same(found[1], found[2])


@pytest.mark.parametrize("more", [{}, {"clip": 0.1}, {"loss": {"name": "focal", "balanced": True}}])
def test_in_parts_it_is_the_step_of_the_whole(tmp_path: Path, more: dict[str, Any]) -> None:
    found = []
    for parts in (1, 3):
        network = convolutional(dropout=0, norm=False)
        plan = settings(batch=20, accumulate=parts, optimizer=SGD, **more)
        fit(network, images(100), images(50, seed=1), plan, folder=tmp_path / str(parts))
        found.append(weights(network))
    for name, one in found[0].items():
        torch.testing.assert_close(one, found[1][name], rtol=1e-4, atol=1e-6)


def test_the_loop_makes_the_steps_of_one_written_by_hand(tmp_path: Path) -> None:
    """One epoch in batches of 20 out of 50: two steps, ten samples left out."""
    network, ours = (convolutional(dropout=0, norm=False) for _ in range(2))
    plan = settings(epochs=1, batch=20, optimizer=SGD, schedule="constant", channels_last=False)
    samples = images(50)
    fit(network, samples, images(10, seed=1), plan, folder=tmp_path, seed=3)
    x = torch.from_numpy(samples.source.arrays["x"])  # type: ignore[attr-defined]
    y = torch.from_numpy(samples.labels)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    order = np.random.default_rng([3, 0]).permutation(50)
    for start in (0, 20):
        rows = torch.from_numpy(order[start : start + 20])
        optimizer.zero_grad()
        nn.functional.cross_entropy(ours(x[rows]), y[rows]).backward()
        optimizer.step()
    for one, other in zip(network.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


class Seen(nn.Module):
    """Keeps the types that its layer answered in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(128, 4)
        self.types: list[tuple[bool, torch.dtype]] = []

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.layer(x.flatten(1))
        self.types.append((self.training, answer.dtype))
        return answer


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("float16", torch.float16)]
)
def test_half_precision_is_for_learning_alone(
    tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    network = Seen()
    plan = settings(precision=precision, optimizer="adam", clip=1.0, ema=0.5)
    found = fit(network, images(100), images(50, seed=1), plan, folder=tmp_path)
    assert set(network.types) == {(True, dtype), (False, torch.float32)}
    assert found.history[1].loss < found.history[0].loss
    assert network.layer.weight.dtype == torch.float32


def test_patience_ends_it_and_the_first_of_equals_is_best(tmp_path: Path) -> None:
    figures = iter([0.5, 0.7, 0.7, 0.6, 0.9])

    def figure(answers: dict[str, np.ndarray], labels: np.ndarray | None) -> float:
        assert answers["output"].shape == (50, 4)
        assert labels is not None
        return next(figures)

    plan = settings(epochs=9, patience=2)
    found = fit(convolutional(), images(60), images(50), plan, folder=tmp_path, score=figure)
    assert found.epochs == 4
    assert (found.best, found.metric) == (0.7, "figure")
    again = fit(convolutional(), images(60), images(50), plan, folder=tmp_path, score=figure)
    assert again == found


def test_a_figure_that_is_better_lower(tmp_path: Path) -> None:
    figures = iter([0.5, 0.4, float("nan")])

    def error(answers: dict[str, np.ndarray], labels: np.ndarray | None) -> float:
        return next(figures)

    error.lower_is_better = True  # type: ignore[attr-defined]
    found = fit(
        convolutional(), images(60), images(50), settings(epochs=3), folder=tmp_path, score=error
    )
    assert found.best == 0.4
    assert read_log(tmp_path / "log.jsonl")[2]["error"] is None


def test_an_autoencoder_learns_its_input(tmp_path: Path) -> None:
    samples = from_arrays({"x": images(200).source.arrays["x"]})  # type: ignore[attr-defined]
    network = nn.Sequential(nn.Flatten(), nn.Linear(128, 128))
    adam = {"name": "adam", "lr": 0.01}
    plan = settings(epochs=6, loss="mse", optimizer=adam, augment="noise")
    found = fit(
        network, samples, samples.take(range(50)), plan, folder=tmp_path,
        score=metric_of("reconstruction"),
    )  # fmt: skip
    assert found.best < 0.7 * found.history[0].score
    assert found.best == pytest.approx(found.history[-1].validation_loss, rel=1e-4)


class Two(nn.Module):
    """Several inputs and several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer = nn.Embedding(10, 4), nn.Linear(7, 1)

    def forward(self, ids: Tensor, values: Tensor) -> dict[str, Tensor]:
        whole = torch.cat([self.words(ids).mean(dim=1), values], dim=1)
        return {"value": self.layer(whole), "whole": whole}


def test_several_inputs_of_several_types_and_one_number_to_tell(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    ids, values = random.integers(0, 10, (200, 5)), random.normal(size=(200, 3))
    samples = from_arrays({"ids": ids, "values": values, "labels": values.sum(axis=1)})
    plan = settings(epochs=10, loss="mse", optimizer={"name": "adam", "lr": "1/20"})
    found = fit(
        Two(), samples, samples.take(range(40)), plan, folder=tmp_path, score=metric_of("mae")
    )
    assert found.best < 0.3


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own use of torch.jit
def test_torch_compile_learns_as_without(tmp_path: Path) -> None:
    found = []
    for compile_it in (False, True):
        network = nn.Sequential(nn.Flatten(), torch.nn.Linear(128, 4))
        nn.init.constant_(network[1].weight, 0.01)  # type: ignore[arg-type]
        nn.init.zeros_(network[1].bias)  # type: ignore[arg-type]
        plan = settings(compile=compile_it, epochs=1)
        fit(network, images(64), images(20), plan, folder=tmp_path / str(compile_it))
        found.append(weights(network))
    for name, one in found[0].items():
        torch.testing.assert_close(one, found[1][name])


def test_the_average_is_what_is_judged_and_kept(tmp_path: Path) -> None:
    network = convolutional()
    still = settings(epochs=1, ema=1.0, schedule={"name": "constant"})
    fit(network, images(64), images(20), still, folder=tmp_path)
    # after n steps no more than (1 + n) / (10 + n) of it stays
    first, ours = convolutional(), weights(network)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ours["0.weight"], weights(first)["0.weight"])
    assert (tmp_path / "best.safetensors").stat().st_size < (
        (tmp_path / "last.safetensors").stat().st_size / 3
    )


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"track": "mlflow"}, Missing, "needs the Python package `mlflow`"),
        ({"track": "tensorboard"}, Missing, "needs the Python package `tensorboard`"),
        ({"loss": "mse"}, BadSamples, r"a label has shape \(\), the network's output \(4,\)"),
        ({"loss": "nothing_like_it:loss"}, BadOption, "no module `nothing_like_it`"),
        ({"loss": "tests.train.small:los"}, BadOption, "`tests.train.small` has no `los`"),
        ({"augment": "mask", "balance": True}, BadValue, "`mask` covers nothing"),
        ({"loss": {"name": "cross_entropy", "class_weights": [1, 2]}}, BadValue, "2 class wei"),
        ({"accumulate": 99}, BadValue, "more parts than samples"),
        ({"augment": ["mixup", "flip"]}, BadValue, "comes once, and last"),
        ({"optimizer": {"name": "sgd", "lr": 0}}, BadValue, "`lr` is 0"),
    ],
)
def test_what_cannot_be_is_told(
    tmp_path: Path, given: dict[str, Any], error: type[Exception], says: str
) -> None:
    if given.get("track") and installed(given["track"]):
        pytest.skip(f"{given['track']} is installed")
    with pytest.raises(error, match=says):
        fit(convolutional(), images(64), images(20), settings(**given), folder=tmp_path)


def test_labels_that_the_network_has_no_output_for(tmp_path: Path) -> None:
    wrong = images(64)
    wrong.labels[7] = 4  # type: ignore[index]
    with pytest.raises(BadSamples, match="label 4 is outside the network's 4 outputs"):
        fit(convolutional(), wrong, images(20), settings(), folder=tmp_path)
    with pytest.raises(BadSamples, match="label 4 is outside"):
        fit(convolutional(), images(20), wrong, settings(), folder=tmp_path)


def test_other_bad_input(tmp_path: Path) -> None:
    unlike = images(20)
    with pytest.raises(BadSamples, match="there are no samples"):
        fit(convolutional(), images(20), unlike.take([]), settings(), folder=tmp_path)
    with pytest.raises(BadOption, match="the seed is -1"):
        fit(convolutional(), images(20), unlike, settings(), folder=tmp_path, seed=-1)
    with pytest.raises(BadOption, match="unknown device `gpu`"):
        fit(convolutional(), images(20), unlike, settings(), folder=tmp_path, device="gpu")
    frozen = convolutional().requires_grad_(False)
    with pytest.raises(Unsupported, match="no weights that learn"):
        fit(frozen, images(20), unlike, settings(), folder=tmp_path)
    named = from_arrays({"x": np.zeros((4, 2, 8, 8), np.float32), "labels": np.array(list("abcd"))})
    with pytest.raises(BadSamples, match="labels are <U1, not numbers"):
        fit(convolutional(), named, unlike, settings(), folder=tmp_path)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_half_written_line_of_the_log_is_no_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    fit(convolutional(), images(64), images(20), settings(), folder=tmp_path)
    whole = path.read_text()
    path.write_text(whole + '{"epoch": 3, "lo')
    assert [line["epoch"] for line in read_log(path)] == [1, 2]
    fit(convolutional(), images(64), images(20), settings(), folder=tmp_path)
    assert path.read_text() == whole
    assert json.loads(whole.splitlines()[1])["rate"] > 0


def test_what_was_half_written_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".last.safetensors.0a1b2c3d.tmp"
    left.write_bytes(b"half")
    fit(convolutional(), images(64), images(20), settings(epochs=1), folder=tmp_path)
    assert not left.exists()
    assert (tmp_path / "last.safetensors").exists()
