"""What is wrong before any quantizer, and an error that grows with the steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgedl.diagnosis.before import export, preprocessing
from edgedl.diagnosis.losses import bounded_share, loss
from edgedl.diagnosis.recurrent import Steps, recurrent
from tests.diagnosis import nets
from tests.models import Sketch, answers


def test_right_samples_are_called_right(tmp_path: Path) -> None:
    model = nets.edge_net(tmp_path)
    data = nets.pictures(seed=4)
    assert preprocessing(model, nets.bind(model, data), {"x": (0.0, 1.0)}) is None
    assert preprocessing(model, nets.bind(model, {"x": data["x"]}), {"x": (0.0, 1.0)}) is None


def test_a_model_that_always_answers_the_same(tmp_path: Path) -> None:
    net = Sketch()
    net.node("Flatten", ["x"], "flat")
    zeros = np.zeros((3 * nets.SIDE**2, 5), np.float32)
    net.constant("w", zeros)
    net.node("MatMul", ["flat", "w"], "logits")
    model = nets.save(net.model([1, 3, nets.SIDE, nets.SIDE], [1, 5]), tmp_path / "float.onnx")
    samples = nets.bind(model, {"x": nets.pictures()["x"]})
    reference = answers(model.path, [samples.feed(i) for i in range(4)])
    [cause] = export(model, samples, reference)
    assert cause.name == "wrong_export"
    assert "the same to every sample" in cause.sentence


def test_an_error_that_grows_with_the_steps(tmp_path: Path) -> None:
    net = Sketch()
    net.constant("w", np.full((1, 16, 4), 0.1, np.float32))
    net.constant("r", np.full((1, 16, 4), 0.1, np.float32))
    net.node("LSTM", ["x", "w", "r"], "logits", hidden_size=4)
    made = net.model([16, 1, 4], [16, 1, 1, 4])
    model = nets.save(made, tmp_path / "float.onnx")
    x = np.ones((16, 1, 1, 4), np.float32)
    growing, even = Steps(), Steps()
    growing.add({"y": x}, {"y": x + np.linspace(0, 0.3, 16, dtype=np.float32).reshape(16, 1, 1, 1)})
    even.add({"y": x}, {"y": x + np.float32(0.1)})
    cause = recurrent(model, growing, "edgedl compress")
    assert cause is not None
    assert cause.name == "recurrent_state"
    assert recurrent(model, even, "edgedl compress") is None


def test_losses_by_hand() -> None:
    three = {"y": np.asarray([3.0, 0.0], np.float32)}
    assert loss(three, three) == 0
    assert loss(three, {"y": np.asarray([3.0, 1.0], np.float32)}) == 0.1
    assert loss(three, {"y": np.asarray([np.nan, 0.0], np.float32)}) == 1
    share = bounded_share(np.full(8, 1.0), np.full(8, 4.0))
    assert (share.low, share.value, share.high) == (0.25, 0.25, 0.25)


def test_where_all_answers_are_integers_the_share_that_differs_is_lost() -> None:
    tokens = {"tokens": np.asarray([5, 900, 7, 1])}
    assert loss(tokens, tokens) == 0
    assert loss(tokens, {"tokens": np.asarray([5, 2, 7, 1])}) == 0.25
    beside = {"y": np.ones(4, np.float32), **tokens}
    assert loss(beside, {**beside, "tokens": tokens["tokens"] + 1}) == 0
