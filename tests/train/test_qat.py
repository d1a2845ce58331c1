"""What training saw is what ships: the rounded graph trained by labels, and placed again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import load, numpy_helper

from edgedl.backends import backend
from edgedl.core.errors import BadCheckpoint, BadValue, Unsupported
from edgedl.core.fields import from_plain
from edgedl.core.model import Model, Signature, Tensor
from edgedl.core.program import CodedTensor, CodedWeight, Coding, Constants, Operation, Program
from edgedl.core.progress import silent
from edgedl.core.samples import Samples
from edgedl.export import export
from edgedl.passes.graph import open_model
from edgedl.passes.plan_file import PlanFile, from_document, to_yaml
from edgedl.passes.program import program_of
from edgedl.passes.quantize import Quantize
from edgedl.runtime import engine, installed_engines
from edgedl.search.candidates import Candidate
from edgedl.search.ready import prepare
from edgedl.search.trainable import Trainable, trainable
from edgedl.search.ways import planned
from edgedl.train.batched import batched
from edgedl.train.fit import fit
from edgedl.train.learner import LearnedCoded, Learner
from edgedl.train.qat import Learnt, Qat, qat
from edgedl.yamls import read_yaml
from tests.models import NETS, feeds, saved
from tests.train.small import convolutional, images, same, settings, weights

ENGINES = installed_engines()
SHORT = Qat(epochs=2, lr=2e-3)


@pytest.fixture(scope="module")
def float_net(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A trained float network of small images, exported and cleaned."""
    folder = tmp_path_factory.mktemp("float")
    network = convolutional(dropout=0.0)
    fit(network, images(256), images(64, seed=1), settings(epochs=4), folder=folder / "run")
    export(network, [_feed(0), _feed(1)], folder / "net.onnx")
    return prepare(open_model(folder / "net.onnx"), {})


def _feed(i: int) -> dict[str, np.ndarray]:
    return {"x": images(4).source.arrays["x"][i : i + 1]}  # type: ignore[attr-defined]


def bound(model: Model, count: int, seed: int = 0) -> Samples:
    return images(count, seed).bind(model.signature)


def written(model: Model, name: str, folder: Path, **more: Any) -> PlanFile:
    """The plan of everything in int8, as its file says it."""
    built = backend(name)
    plan = Quantize(bound(model, 32), scheme=built.scheme.name, method="minmax").plan(model)
    path = folder / "plan.yaml"
    path.write_text(to_yaml(replace(plan, **more), name, built.settings("int8"), "minmax"))
    found: PlanFile = read_yaml(path).read(from_document)
    return found


def trained(ground: Trainable, model: Model, folder: Path, how: Qat = SHORT, **more: Any) -> Learnt:
    given = {"score": top1, "folder": folder, **more}
    train, validation = bound(model, 128), bound(model, 64, seed=1)
    return qat(
        ground.program, ground.coding, ground.start, train, validation, settings(), how, **given
    )


def top1(answers: Mapping[str, np.ndarray], labels: np.ndarray | None) -> float:
    [made] = answers.values()
    return float((made.argmax(1) == labels).mean())


def shipped(ground: Trainable, found: Learnt, model: Model, folder: Path) -> Candidate:
    """What `compress --plan` makes of the plan that training gives."""
    Constants(found.constants).write(folder / "tuned.npz")
    path = folder / "trained.yaml"
    path.write_text(ground.text(found.scales))
    again = read_yaml(path).read(lambda one: from_document(one).with_constants(folder))
    return planned(backend(again.engine), model, bound(model, 32), again, silent)


@pytest.mark.parametrize("how", [SHORT, replace(SHORT, weight_scales="learned", weight_bits=4)])
@pytest.mark.parametrize("name", ENGINES)
def test_what_training_saw_is_what_ships(
    float_net: Model, name: str, how: Qat, tmp_path: Path
) -> None:
    plan = written(float_net, name, tmp_path)
    ground = trainable(float_net, plan, bound(float_net, 32), weight_bits=how.weight_bits)
    found = trained(ground, float_net, tmp_path / "run", how)
    out = shipped(ground, found, float_net, tmp_path)
    learner = LearnedCoded(ground.program, ground.coding)
    learner.begin_with(found.constants)
    steps = dict(zip(learner.groups, learner.steps(), strict=True))
    with torch.no_grad():
        for tensor, one in ground.coding.tensors.items():
            place = learner.groups.index(one.group)
            moved = torch.tensor(found.scales[tensor] / steps[one.group])
            learner.logarithms[place].copy_(moved.log())
    unseen = bound(float_net, 200, seed=5)
    right = []
    with engine(name).open_model(out.model.path, settings=out.settings, threads=1) as session:
        for i, feed in enumerate(unseen):
            [answer] = session.run(feed).values()
            with torch.no_grad():
                [seen] = learner({n: torch.from_numpy(a) for n, a in feed.items()}).values()
            # Codes within one step: a value between two may be rounded to either.
            assert np.abs(answer - seen.numpy()).max() <= 0.03 * np.abs(answer).max()
            assert unseen.chosen_labels is not None
            right.append(
                (answer.argmax() == unseen.chosen_labels[i], seen.argmax() == answer.argmax())
            )
    assert np.mean(right, axis=0)[1] >= 0.99


def test_weights_ship_on_the_grid_that_training_had(float_net: Model, tmp_path: Path) -> None:
    plan = written(float_net, ENGINES[0], tmp_path)
    ground = trainable(float_net, plan, bound(float_net, 32), weight_bits=3)
    found = trained(ground, float_net, tmp_path / "run", replace(SHORT, weight_scales="learned"))
    for operation in ground.program.operations:
        coded = ground.coding.weights.get(operation.name)
        if coded is None:
            continue
        weight = found.constants[operation.inputs[coded.position]]
        rows = np.moveaxis(weight, coded.axis or 0, 0).reshape(weight.shape[coded.axis or 0], -1)
        step = np.abs(rows).max(axis=1, keepdims=True) / coded.largest
        codes = rows / step
        assert coded.largest == 3
        np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)


@pytest.mark.parametrize("ranges", ["learned", "running"])
def test_stopped_and_called_again_it_ends_with_the_same_bits(
    float_net: Model, ranges: Any, tmp_path: Path
) -> None:
    plan = written(float_net, ENGINES[0], tmp_path)
    ground = trainable(float_net, plan, bound(float_net, 32))
    how = replace(SHORT, ranges=ranges, freeze=0.6)

    class Stopped(Exception):
        pass

    def stop(label: str, done: int, total: int) -> None:
        if label.startswith("epoch 2") and done == 2:
            raise Stopped

    def ticks() -> Callable[[], float]:
        count = itertools.count()
        return lambda: 400.0 * next(count)

    whole = trained(ground, float_net, tmp_path / "whole", how, clock=ticks())
    with pytest.raises(Stopped):
        trained(ground, float_net, tmp_path / "cut", how, progress=stop, clock=ticks())
    again = trained(ground, float_net, tmp_path / "cut", how, clock=ticks())
    assert again.scales == whole.scales
    assert {n: a.tobytes() for n, a in again.constants.items()} == {
        n: a.tobytes() for n, a in whole.constants.items()
    }
    with pytest.raises(BadCheckpoint, match="another one"):
        trained(ground, float_net, tmp_path / "cut", replace(how, distil=0.1))


@pytest.mark.parametrize(("freeze", "moves"), [(0.0, False), (1.0, True)])
@pytest.mark.parametrize("ranges", ["learned", "running"])
def test_ranges_stay_once_they_are_frozen(
    float_net: Model, freeze: float, moves: bool, ranges: Any, tmp_path: Path
) -> None:
    plan = written(float_net, ENGINES[0], tmp_path)
    ground = trainable(float_net, plan, bound(float_net, 32))
    found = trained(
        ground, float_net, tmp_path / "run", replace(SHORT, ranges=ranges, freeze=freeze)
    )
    first = {name: one.scale for name, one in ground.coding.tensors.items()}
    near = {name: pytest.approx(scale, rel=1e-6) for name, scale in first.items()}
    assert (found.scales != near) == moves
    moved = [name for name in found.constants if name not in ground.start]
    assert any(not np.array_equal(found.constants[n], ground.program.constants[n]) for n in moved)


def one_product(**more: Any) -> Learner:
    """y = round(x) * round(w) for rows of two."""
    x, y = Tensor("x", "float32", (None, 2)), Tensor("y", "float32", (None, 1))
    operation = Operation("MatMul", "product", ("x", "w"), ("y",), {})
    coding = Coding(
        {"x": CodedTensor(0.5, 2, 0, 7, ("product",), "x")}, {"product": CodedWeight(1, 1, 127)}
    )
    weight = np.array([[1.27], [0.5]], np.float32)
    program = Program(Signature((x,), (y,)), (operation,), {"w": weight}, 18)
    given = {"task": None, "distil": 1.0, **more}
    return Learner(program, coding, {}, **given)


def test_a_share_of_the_samples_moves_ranges_and_then_none() -> None:
    learner = one_product(samples_until_frozen=6)
    learner.look((torch.tensor([[0.6, 9.0], [0.1, -0.3]]),))
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.01)
    learner.train()
    steps = []
    for _ in range(5):
        made = learner(torch.tensor([[0.6, 9.0], [0.1, -0.3]]))
        learner.loss(made, torch.zeros(2)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        steps.append(learner.coded.steps()[0])
    assert len(set(steps[:3])) == 3
    assert len(set(steps[2:])) == 1


def test_running_ranges_follow_the_largest_values_by_hand() -> None:
    learner = one_product(learned=False, momentum=0.5)
    learner.look((torch.tensor([[2.0, 0.0]]),))
    learner.look((torch.tensor([[4.0, 0.0]]),))
    learner.train()
    learner(torch.tensor([[6.0, 0.0]]))
    # 3 at first, the mean; now half of it and half of 6: 1.5 times as much as the plan's 0.5.
    assert learner.coded.steps() == [pytest.approx(0.75)]
    learner.eval()
    learner(torch.tensor([[60.0, 0.0]]))
    assert learner.coded.steps() == [pytest.approx(0.75)]


def test_the_float_models_answers_are_learned_by_hand() -> None:
    learner = one_product()
    x = torch.tensor([[0.6, 1.0]])
    learner.look((x,))
    learner.looked()
    made = learner(x)
    # Rounded: 0.5 and 1.0 times 1.27 and 0.5; float: 0.6 and 1.0.
    rounded, wanted = 0.5 * 1.27 + 1.0 * 0.5, 0.6 * 1.27 + 1.0 * 0.5
    assert made.item() == pytest.approx(rounded, rel=1e-4)
    found = learner.loss(made, torch.zeros(1))
    assert found.item() == pytest.approx((rounded - wanted) ** 2 / wanted**2, rel=1e-2)


def test_without_labels_it_learns_the_float_models_answers(
    float_net: Model, tmp_path: Path
) -> None:
    plan = written(float_net, ENGINES[0], tmp_path)
    ground = trainable(float_net, plan, bound(float_net, 32), weight_bits=3)
    train, validation = (replace(bound(float_net, n, seed=n), labels=None) for n in (128, 64))
    found = qat(
        ground.program, ground.coding, ground.start, train, validation, settings(),
        replace(SHORT, epochs=6), folder=tmp_path / "run",
    )  # fmt: skip
    assert found.metric == "validation_loss"
    assert found.better
    assert found.after < 0.7 * found.before


def test_many_samples_together_where_the_graph_takes_one(tmp_path: Path) -> None:
    shape = np.array([1, 8], np.int64)
    signature = Signature((Tensor("x", "float32", (1, 2, 4)),), (Tensor("y", "float32", (1, 8)),))
    reshape = Operation("Reshape", "flat", ("x", "shape"), ("y",), {})
    program = Program(signature, (reshape,), {"shape": shape}, 18)
    one, other = ({"x": torch.randn(1, 2, 4)} for _ in range(2))
    freed = batched(program, one, other)
    learner = LearnedCoded(freed, Coding({}, {}))
    assert learner({"x": torch.zeros(5, 2, 4)})["y"].shape == (5, 8)
    mixing = replace(
        program, operations=(Operation("Softmax", "mix", ("x",), ("y",), {"axis": 0}),)
    )
    with pytest.raises(Unsupported, match="Softmax node `mix` does not take samples together"):
        batched(mixing, one, other)


@pytest.mark.parametrize("net", ["residual", "depthwise", "attention"])
def test_nets_of_the_suite_take_samples_together_or_name_who_does_not(
    net: str, tmp_path: Path
) -> None:
    model = prepare(saved(NETS[net](), tmp_path), {})
    program = program_of(model)
    one, other = (
        {n: torch.from_numpy(a) for n, a in feed.items()} for feed in feeds(model.signature, 2)
    )
    try:
        freed = batched(program, one, other)
    except Unsupported as error:
        assert "node `" in error.message
        return
    network = LearnedCoded(freed, Coding({}, {}))
    both = network({n: torch.cat([one[n], other[n]]) for n in one}, rounded=False)
    for name, made in network(one, rounded=False).items():
        torch.testing.assert_close(both[name][:1], made, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"epochs": 0}, "`epochs` is 0"),
        ({"freeze": 1.5}, "`freeze` is 1.5"),
        ({"weight_bits": 1}, "`weight_bits` is 1"),
        ({"lr": 0.1, "optimizer": "sgd"}, "another optimizer is named"),
    ],
)
def test_settings_out_of_bounds_are_said(given: Mapping[str, Any], says: str) -> None:
    with pytest.raises(BadValue, match=says):
        from_plain(Qat, given)


def test_a_plan_says_how_few_bits_weights_have(float_net: Model, tmp_path: Path) -> None:
    plan = written(float_net, ENGINES[0], tmp_path)
    node = next(name for name, state in plan.operators.items() if state == "int8")
    few = written(float_net, ENGINES[0], tmp_path, bits={node: 4})
    assert few.bits == {node: 4}
    made = planned(backend(ENGINES[0]), float_net, bound(float_net, 32), few, silent)
    codes = [numpy_helper.to_array(one) for one in load(made.model.path).graph.initializer]
    largest = [
        int(np.abs(one.astype(int)).max()) for one in codes if one.dtype == np.int8 and one.ndim > 1
    ]
    assert 7 in largest
    with pytest.raises(BadValue, match="has `9` bits"):
        from_document({**read_yaml(tmp_path / "plan.yaml").data, "bits": {node: 9}})


def test_a_plan_in_float_has_nothing_to_train(float_net: Model, tmp_path: Path) -> None:
    plan = written(float_net, ENGINES[0], tmp_path)
    floats = replace(plan, operators=dict.fromkeys(plan.operators, "float"), scales={})
    with pytest.raises(Unsupported, match="no operator of the plan computes in int8"):
        trainable(float_net, floats, bound(float_net, 32))


def test_an_average_and_augmentation_go_along(float_net: Model, tmp_path: Path) -> None:
    plan = written(float_net, ENGINES[0], tmp_path)
    ground = trainable(float_net, plan, bound(float_net, 32))
    train, validation = bound(float_net, 96), bound(float_net, 32, seed=1)
    how = settings(ema=0.9, augment=["flip", "mixup"], accumulate=2)
    found = [
        qat(
            ground.program, ground.coding, ground.start, train, validation, how, SHORT,
            folder=tmp_path / f"run{i}", score=top1,
        ).constants
        for i in range(2)
    ]  # fmt: skip
    one, other = ({n: torch.from_numpy(a) for n, a in each.items()} for each in found)
    assert same(one, other)
    assert weights(LearnedCoded(ground.program, ground.coding))
