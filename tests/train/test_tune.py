"""Training brings answers nearer, gives the same twice, and refuses what it cannot do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgedl.core.errors import Unsupported
from edgedl.core.program import CodedWeight, Coding, Program
from edgedl.passes.program import program_of
from edgedl.passes.quantize import Quantize
from edgedl.search.tuned import coding_of
from edgedl.train.coded import Coded
from edgedl.train.nearness import parts_of
from edgedl.train.tune import Settings, Tuned, tune
from tests.models import (
    Sketch,
    attention_net,
    conv_net,
    depthwise_net,
    feeds,
    matmul_net,
    samples,
    saved,
)
from tests.search.small import prepared

SHORT = Settings(visits=480, rate=1e-2)
Arrays = dict[str, np.ndarray]


def coarse(net: onnx.ModelProto, folder: Path) -> tuple[Program, Coding]:
    """The net with weights in 4 bits."""
    clean = prepared(net, folder)
    plan = Quantize(samples(clean.signature, 8), method="minmax").plan(clean)
    coding = coding_of(plan, clean)
    return program_of(clean), replace(
        coding,
        weights={n: CodedWeight(w.position, w.axis, 7) for n, w in coding.weights.items()},
    )


def answered(program: Program, feed: Arrays) -> Arrays:
    network = Coded(program, Coding({}, {}))
    with torch.no_grad():
        return {
            n: v.numpy()
            for n, v in network({n: torch.from_numpy(a) for n, a in feed.items()}).items()
        }


def noise(program: Program, coding: Coding, found: Tuned | None, rows: list[Arrays]) -> float:
    network = Coded(program, coding)
    if found is not None:
        network.begin_with(found.constants)
        with torch.no_grad():
            for name, one in coding.tensors.items():
                place = network.groups.index(one.group)
                moved = torch.tensor(found.scales[name] / one.scale)
                network.logarithms[place].copy_(moved.log())
    lost = power = 0.0
    for feed in rows:
        wanted = answered(program, feed)
        with torch.no_grad():
            made = network({n: torch.from_numpy(a) for n, a in feed.items()})
        for name, array in wanted.items():
            lost += float(np.sum((made[name].numpy() - array) ** 2))
            power += float(np.sum(array**2))
    return lost / power


@pytest.mark.parametrize("make", [conv_net, depthwise_net, attention_net])
def test_answers_come_nearer_on_samples_that_it_never_saw(tmp_path: Path, make: object) -> None:
    program, coding = coarse(make(), tmp_path)  # type: ignore[operator]
    rows = feeds(program.signature, 48)
    check = rows[0], answered(program, rows[0])
    found = tune(program, coding, {}, rows, check, SHORT)
    unseen = feeds(program.signature, 32, seed=9)
    before, after = (noise(program, coding, one, unseen) for one in (None, found))
    assert after < 0.7 * before


def test_two_runs_are_the_same_and_another_seed_is_another(tmp_path: Path) -> None:
    program, coding = coarse(conv_net(), tmp_path)
    rows = feeds(program.signature, 24)
    check = rows[0], answered(program, rows[0])
    one, same, other = (
        tune(program, coding, {}, rows, check, replace(SHORT, visits=160, seed=seed))
        for seed in (0, 0, 1)
    )
    assert one.scales == same.scales != other.scales
    assert all(np.array_equal(one.constants[n], a) for n, a in same.constants.items())
    assert one.steps == 10


def test_what_is_not_rounded_and_no_bias_stays_as_it_was(tmp_path: Path) -> None:
    program, coding = coarse(conv_net(), tmp_path)
    rows = feeds(program.signature, 16)
    few = replace(coding, weights={"conv1": coding.weights["conv1"]})
    found = tune(program, few, {}, rows, (rows[0], answered(program, rows[0])), SHORT)
    assert set(found.constants) == {"conv1_w", "conv1_b"}


def test_it_begins_with_what_it_is_given(tmp_path: Path) -> None:
    program, coding = coarse(conv_net(), tmp_path)
    rows = feeds(program.signature, 16)
    bias = program.constants["fc_b"] + 10
    still = replace(SHORT, visits=1, rate=0.0)
    found = tune(
        program, coding, {"fc_b": bias}, rows, (rows[0], answered(program, rows[0])), still
    )
    np.testing.assert_array_equal(found.constants["fc_b"], bias)
    np.testing.assert_array_equal(found.constants["fc_w"], program.constants["fc_w"])


def test_a_graph_that_takes_one_sample_at_a_time_learns_as_one_that_takes_many(
    tmp_path: Path,
) -> None:
    one = conv_net(batch=1)
    fixed = onnx.numpy_helper.from_array(np.array([1, 5], np.int64), "fixed")
    one.graph.initializer.append(fixed)
    one.graph.node[-1].output[0] = "scores"
    one.graph.node.append(
        onnx.helper.make_node("Reshape", ["scores", "fixed"], ["logits"], "shape")
    )
    found = []
    for net in (one, conv_net(batch="batch")):
        folder = tmp_path / str(len(found))
        folder.mkdir()
        program, coding = coarse(net, folder)
        rows = feeds(program.signature, 20)
        check = rows[0], answered(program, rows[0])
        found.append(tune(program, coding, {}, rows, check, replace(SHORT, visits=80)))
    for name, array in found[0].constants.items():
        np.testing.assert_allclose(array, found[1].constants[name], rtol=1e-3, atol=1e-5)


def test_an_engine_that_answers_otherwise_is_refused(tmp_path: Path) -> None:
    program, coding = coarse(conv_net(), tmp_path)
    [feed] = feeds(program.signature, 1)
    wrong = {"logits": answered(program, feed)["logits"] + 1}
    with pytest.raises(Unsupported, match="torch computes `logits` otherwise"):
        tune(program, coding, {}, [feed], (feed, wrong), SHORT)


def clock_of(*seconds: float) -> Callable[[], float]:
    """Looked at before and after the first answers, before training, and after its first steps."""
    times = iter(seconds)
    return lambda: next(times)


def test_less_time_makes_fewer_steps_and_too_little_is_said(tmp_path: Path) -> None:
    program, coding = coarse(conv_net(), tmp_path)
    rows = feeds(program.signature, 16)
    check = rows[0], answered(program, rows[0])
    short = replace(SHORT, seconds=100)
    found = tune(program, coding, {}, rows, check, short, clock=clock_of(0, 0.1, 1, 26))
    assert found.steps == 20
    with pytest.raises(Unsupported, match="a step of training takes 50 s"):
        tune(program, coding, {}, rows, check, short, clock=clock_of(0, 0.1, 1, 251))
    with pytest.raises(Unsupported, match="a step of training takes 48 s"):
        tune(program, coding, {}, rows, check, short, clock=clock_of(0, 4))


def test_an_error_of_torch_is_told_and_nothing_else_ends(tmp_path: Path) -> None:
    """An index that rounding moves past the end of a table."""
    net = Sketch()
    net.node("MatMul", ["x", net.weight("w", 16, 4)], "product")
    net.node("Cast", ["product"], "whole", to=onnx.TensorProto.INT64)
    net.node("Gather", [net.weight("table", 2, 5), "whole"], "logits")
    program = program_of(saved(net.model([1, 16], [1, 4, 5]), tmp_path))
    rows = [{"x": np.zeros((1, 16), np.float32)}, {"x": np.full((1, 16), 99, np.float32)}]
    with pytest.raises(Unsupported, match=r"torch failed on this graph .*out of range"):
        tune(program, Coding({}, {}), {}, rows, (rows[0], answered(program, rows[0])), SHORT)


def test_scalars_and_outputs_that_are_no_reals_come_along(tmp_path: Path) -> None:
    net = Sketch()
    net.node("MatMul", ["x", net.weight("w", 16, 4)], "product", name="product")
    net.node("Mul", ["product", "gain"], "logits")
    net.node("ArgMax", ["logits"], "best", axis=-1, keepdims=0)
    made = net.model([1, 16], [1, 4])
    made.graph.input.append(onnx.helper.make_tensor_value_info("gain", 1, []))
    made.graph.output.append(onnx.helper.make_tensor_value_info("best", 7, [1]))
    program = program_of(saved(made, tmp_path))
    coding = Coding({}, {"product": CodedWeight(1, 1, 7)})
    random = np.random.default_rng(0)
    rows = [
        {"x": random.standard_normal((1, 16)).astype(np.float32), "gain": np.array(2, np.float32)}
        for _ in range(20)
    ]
    found = tune(program, coding, {}, rows, (rows[0], answered(program, rows[0])), SHORT)
    assert found.after < found.before


def test_a_model_without_real_outputs_is_left_alone(tmp_path: Path) -> None:
    net = Sketch()
    net.node("MatMul", ["x", net.weight("w", 16, 4)], "product")
    net.node("ArgMax", ["product"], "logits", axis=-1, keepdims=0)
    made = net.model([1, 16], [1])
    made.graph.output[0].type.tensor_type.elem_type = 7
    program = program_of(saved(made, tmp_path))
    [feed] = feeds(program.signature, 1)
    with pytest.raises(Unsupported, match="no output of the model has real values"):
        tune(program, Coding({}, {}), {}, [feed], (feed, answered(program, feed)), SHORT)


def test_rows_of_probabilities_are_compared_by_their_divergence() -> None:
    wanted = {"y": torch.tensor([[0.5, 0.5], [1.0, 0.0]])}
    [part] = parts_of([wanted])
    made = {"y": torch.tensor([[0.25, 0.75], [0.5, 0.5]])}
    by_hand = (0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75) + np.log(2)) / 2
    assert float(part.loss(made, wanted)) == pytest.approx(by_hand, rel=1e-6)
    assert float(part.loss(wanted, wanted)) == 0.0


def test_other_outputs_by_their_noise_and_scores_beside_boxes_on_their_own() -> None:
    boxes = torch.full((1, 4, 10), 100.0)
    scores = torch.linspace(0, 1, 10).reshape(1, 1, 10)
    wanted = {"y": torch.cat([boxes, scores], dim=1)}
    whole, beside = parts_of([wanted])
    made = {"y": torch.cat([boxes, torch.zeros_like(scores)], dim=1)}
    assert float(whole.loss(made, wanted)) < 1e-4
    assert float(beside.loss(made, wanted)) == pytest.approx(1.0)


def test_an_output_of_zeros_counts_as_it_is() -> None:
    wanted = {"y": torch.zeros(1, 3)}
    [part] = parts_of([wanted])
    assert float(part.loss({"y": torch.ones(1, 3)}, wanted)) == 1.0


def test_samples_of_unlike_lengths_are_learned_from_together(tmp_path: Path) -> None:
    net = matmul_net()
    for value in (net.graph.input[0], net.graph.output[0]):
        value.type.tensor_type.shape.dim[1].dim_param = "length"
    program, coding = coarse(net, tmp_path)
    random = np.random.default_rng(3)
    rows = [
        {"x": random.standard_normal((1, length, 16)).astype(np.float32)}
        for length in (4, 4, 7, 2, 4, 4, 9, 7) * 4
    ]
    found = tune(program, coding, {}, rows, (rows[2], answered(program, rows[2])), SHORT)
    assert found.after < found.before
    unseen = [{"x": random.standard_normal((1, 5, 16)).astype(np.float32)} for _ in range(16)]
    assert noise(program, coding, found, unseen) < noise(program, coding, None, unseen)
