"""What networks promise beyond their shapes: steps that add up, padding that does not count ..."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgedl.train.networks import build
from edgedl.train.networks.attention import Attention
from edgedl.train.networks.deploy import InUnits, deployed
from edgedl.train.networks.layers import DropPath, begin_convolutions, convolution, divisible
from edgedl.train.shapes import TensorShape

SERIES = {"x": TensorShape((3, 24))}
IMAGE = {"image": TensorShape((3, 32, 32))}


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@given(
    cuts=st.lists(st.integers(0, 24), max_size=6),
    layers=st.integers(1, 3),
    each=st.booleans(),
)
def test_a_stream_in_chunks_answers_as_the_whole(cuts: list[int], layers: int, each: bool) -> None:
    torch.manual_seed(0)
    settings = {"hidden": 5, "layers": layers, "each": each}
    network = build("streaming_gru", SERIES, 4, settings).eval()
    step, inputs = deployed(network, SERIES)
    assert list(inputs) == ["x", "state"]
    assert inputs["state"].shape == (layers, 5)
    x = noise(2, 3, 24)
    edges = sorted({0, 24, *cuts})
    state, answers = torch.zeros(2, layers, 5), []
    with torch.no_grad():
        for start, end in pairwise(edges):
            found = step(x[:, :, start:end], state)
            assert list(found) == ["output", "new_state"]
            answers.append(found["output"])
            state = found["new_state"]
        whole = network(x)
    streamed = torch.cat(answers, 1) if each else answers[-1]
    torch.testing.assert_close(streamed, whole, rtol=1e-5, atol=1e-5)


def test_a_streams_step_shares_its_weights_and_takes_its_chunk() -> None:
    shape = {"mfcc": TensorShape((1, 13, 24))}
    network = build("streaming_gru", shape, 4, {"chunk": 2})
    step, inputs = deployed(network, shape)
    assert inputs["mfcc"].shape == (1, 13, 2)
    assert {id(one) for one in step.parameters()} == {id(one) for one in network.parameters()}


@pytest.mark.parametrize(
    "give", [lambda x: x, lambda x: (x, -x), lambda x: {"values": x, "more": -x},
             lambda x: {"state": -x, "output": x}],
)  # fmt: skip
def test_standardized_values_are_given_in_units_whatever_holds_them(give: Any) -> None:
    class Given(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return give(x)

    made = InUnits(Given(), 5.0, 2.0)(torch.ones(1))
    found = (
        made.values() if isinstance(made, dict) else [made] if isinstance(made, Tensor) else made
    )
    assert sorted(float(one) for one in found) == (
        [7.0] if isinstance(made, Tensor) else [-1.0, 7.0]
    )


def test_what_has_no_other_form_is_deployed_as_it_is() -> None:
    network = build("mlp", SERIES, 2, {})
    assert deployed(network, SERIES) == (network, SERIES)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_backward_layer_reads_from_the_end(name: str) -> None:
    torch.manual_seed(0)
    network: Any = build(name, SERIES, 2, {"hidden": 4, "bidirectional": True}).eval()
    x = noise(1, 3, 24)
    with torch.no_grad():
        state = network.layers[0](x.permute(2, 0, 1))[1]
        last = state[0] if name == "lstm" else state
        wanted = network.head(torch.cat([last[0], last[1]], 1))
        torch.testing.assert_close(network(x), wanted)


def test_every_steps_answer_is_that_of_the_series_so_far() -> None:
    torch.manual_seed(0)
    for name in ("lstm", "gru", "tcn"):
        each = build(name, SERIES, 2, {"pool": "each"}).eval()
        last = build(name, SERIES, 2, {"pool": "last"}).eval()
        last.load_state_dict(each.state_dict())
        x = noise(2, 3, 24)
        with torch.no_grad():
            torch.testing.assert_close(each(x)[:, 9], last(x[:, :, :10]))


@pytest.mark.parametrize(("steps", "kernel", "levels"), [(24, 3, 3), (29, 3, 3), (30, 3, 4),
                                                         (2, 2, 1), (128, 5, 5)])  # fmt: skip
def test_a_tcn_looks_back_as_far_as_the_series_is_long(
    steps: int, kernel: int, levels: int
) -> None:
    # With kernel 3 and 3 levels the last step sees 1 + 2 * 2 * (1 + 2 + 4) = 29 steps.
    network: Any = build("tcn", {"x": TensorShape((1, steps))}, 1, {"kernel": kernel, "width": 4})
    assert len(network.blocks) == levels
    assert network.sees >= steps
    for parameter in network.parameters():
        parameter.data = parameter.data.abs() + 0.1
    x = torch.ones(1, 1, network.sees + 3, requires_grad=True)
    network.eval()(x).sum().backward()
    assert x.grad is not None
    seen = x.grad[0, 0] != 0
    assert seen.tolist() == [False] * 3 + [True] * network.sees


def test_padding_does_not_count() -> None:
    torch.manual_seed(0)
    text = {"input_ids": TensorShape((8,), "int64", 30)}
    network = build("text_encoder", text, 3, {"depth": 2}).eval()
    masked_inputs = {**text, "attention_mask": TensorShape((8,), "int64")}
    masked = build("text_encoder", masked_inputs, 3, {"depth": 2}).eval()
    masked.load_state_dict(network.state_dict())
    ids = torch.tensor([[5, 9, 2, 7, 0, 0, 0, 0]])
    with torch.no_grad():
        # Whatever stands behind the mask, and however far the text is padded.
        other = ids + torch.tensor([[0, 0, 0, 0, 4, 8, 3, 1]])
        torch.testing.assert_close(masked(other, (ids != 0).long()), network(ids))
        assert not torch.allclose(network(other), network(ids), atol=1e-3)
        assert not torch.allclose(network(ids.flip(1)), network(ids), atol=1e-3)
        assert torch.isfinite(network(torch.zeros(2, 8, dtype=torch.int64))).all()


def test_attention_is_the_same_in_training_and_spelled_out() -> None:
    torch.manual_seed(0)
    attention = Attention(12, 3, 0.0)
    x = noise(2, 5, 12)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]]).bool()[:, None, None]
    for chosen in (None, mask):
        trained = attention.train()(x, chosen)
        torch.testing.assert_close(attention.eval()(x, chosen), trained)
    hidden = x.clone()
    hidden[0, 3:] = 9
    torch.testing.assert_close(attention(hidden, mask)[0, :3], attention(x, mask)[0, :3])


def test_a_score_is_the_product_of_two_towers_and_their_biases() -> None:
    inputs = {"user": TensorShape((), "int64", 2), "item": TensorShape((1,), "int64", 3)}
    network: Any = build("two_tower", inputs, 1, {"width": 2, "hidden": []}).eval()
    with torch.no_grad():
        network.user.embedding.weight.copy_(torch.tensor([[1.0, 2], [3, 4]]))
        network.item.embedding.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [2, 2]]))
        network.user.bias.weight.copy_(torch.tensor([[0.0], [10]]))
        network.item.bias.weight.copy_(torch.tensor([[0.0], [0], [100]]))
        network.bias.fill_(1000)
        scores = network(torch.tensor([0, 1, 1]), torch.tensor([[1], [0], [2]]))
    assert scores.tolist() == [[1002.0], [1013.0], [1124.0]]


def test_a_unet_answers_for_each_pixel_of_any_size() -> None:
    torch.manual_seed(0)
    for height, width in ((8, 8), (9, 15), (31, 17)):
        inputs = {"image": TensorShape((2, height, width))}
        network = build("unet", inputs, 5, {"width": 4, "depth": 3})
        assert network(noise(2, 2, height, width)).shape == (2, 5, height, width)
        assert build("unet", inputs, 0, {"width": 4})(noise(3, 2, height, width)).shape == (
            3,
            2,
            height,
            width,
        )


def test_sounds_have_a_channel_or_none() -> None:
    for name in ("ds_cnn", "gru", "lstm", "tcn"):
        torch.manual_seed(0)
        flat = build(name, {"x": TensorShape((10, 20))}, 3, {}).eval()
        torch.manual_seed(0)
        deep = build(name, {"x": TensorShape((1, 10, 20))}, 3, {}).eval()
        x = noise(2, 10, 20)
        torch.testing.assert_close(deep(x[:, None]), flat(x))


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "resnet50"])
def test_blocks_can_begin_as_if_they_were_not_there(name: str) -> None:
    torch.manual_seed(0)
    network: Any = build(name, IMAGE, 3, {"width": 8, "zero_last": True}).eval()
    plain: Any = build(name, IMAGE, 3, {"width": 8}).eval()
    for one, absent in ((network, True), (plain, False)):
        block = one.stages[0] if name == "resnet8" else one.layer1[-1]
        x = noise(2, 8 if name != "resnet50" else 32, 6, 6).relu()
        assert torch.equal(block(x), x) is absent


def test_convolutions_begin_with_the_variance_that_keeps_signals() -> None:
    torch.manual_seed(0)
    network: Any = nn.Sequential(
        convolution(64, 128, 3), convolution(256, 256, 5, groups=256), nn.Linear(500, 400)
    )
    begin_convolutions(network)
    # He: variance 2 / (kernel area * output channels a group).
    assert network[0][0].weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.02)
    assert network[1][0].weight.std().item() == pytest.approx(math.sqrt(2 / 25), rel=0.05)
    assert network[2].weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not network[2].bias.any()


def test_forget_gates_begin_open_and_recurrent_weights_orthogonal() -> None:
    network: Any = build("lstm", SERIES, 2, {"hidden": 8, "layers": 2})
    for layer in network.layers:
        bias = layer.bias_ih_l0 + layer.bias_hh_l0
        assert bias.tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 16
        for gate in layer.weight_hh_l0.split(8):
            torch.testing.assert_close(gate @ gate.T, torch.eye(8))


def test_transformers_begin_near_zero_and_padding_at_it() -> None:
    text = {"input_ids": TensorShape((8,), "int64", 30)}
    network: Any = build("text_encoder", text, 3, {})
    assert not network.embedding.weight[0].any()
    weight = network.blocks[0].dense[0].weight
    assert weight.abs().max() <= 0.04
    # A normal cut off at two deviations has 0.88 of its deviation.
    assert weight.std().item() == pytest.approx(0.88 * 0.02, rel=0.02)


def test_blocks_are_dropped_as_often_as_told_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    kept = drop(torch.ones(4000, 2))
    assert kept.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert torch.equal(kept[:, 0], kept[:, 1])
    assert kept.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(drop.eval()(torch.ones(5, 2)), torch.ones(5, 2))


@given(st.floats(1, 4000))
def test_channels_are_multiples_of_eight_and_never_a_tenth_less(channels: float) -> None:
    found = divisible(channels)
    assert found % 8 == 0
    assert 0.9 * channels <= found <= max(8, channels + 8)


def test_parameters_bear_the_names_of_published_weights() -> None:
    names = {
        "resnet18": ("conv1.weight", "bn1.weight", "layer2.0.downsample.0.weight", "fc.bias"),
        "resnet50": ("layer1.0.conv3.weight", "layer4.2.bn3.running_var", "fc.weight"),
        "mobilenetv2": ("features.1.conv.1.weight", "features.18.0.weight", "classifier.1.bias"),
        "mobilenetv3_small": (
            "features.1.block.1.fc1.weight",
            "features.12.0.weight",
            "classifier.3.weight",
        ),
    }
    for name, wanted in names.items():
        assert set(wanted) <= set(build(name, IMAGE, 3, {}).state_dict())


def test_transformers_from_a_folder(tmp_path: Any) -> None:
    text = {"input_ids": TensorShape((6,), "int64", 20)}
    small = {"model_type": "distilbert", "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8}
    torch.manual_seed(0)
    first: Any = build("transformers", text, 3, {"config": small}).eval()
    assert first.model.config.vocab_size == 20
    first.model.save_pretrained(tmp_path)
    same = build("transformers", text, 3, {"folder": str(tmp_path)}).eval()
    ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
    torch.testing.assert_close(same(ids), first(ids))
    # Another number of classes: the last layer begins anew, the others do not.
    more: Any = build("transformers", text, 5, {"folder": str(tmp_path)}).eval()
    assert more(ids).shape == (1, 5)
    held = first.model.distilbert.embeddings.word_embeddings.weight
    assert torch.equal(more.model.distilbert.embeddings.word_embeddings.weight, held)
    (tmp_path / "model.safetensors").unlink()
    fresh = build("transformers", text, 3, {"folder": str(tmp_path)}).eval()
    assert not torch.allclose(fresh(ids), first(ids))


def test_transformers_for_images_takes_their_size_and_any_name() -> None:
    small = {
        "model_type": "vit",
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "patch_size": 4,
    }
    image = {"photo": TensorShape((1, 8, 8))}
    network: Any = build("transformers", image, 3, {"config": small})
    assert network.names == ("pixel_values",)
    assert network.model.config.num_channels == 1
    assert network.model.config.image_size == 8
