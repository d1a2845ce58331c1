"""Networks of a size at which something can be cut, and what tests of cutting share."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

from edgedl.core.layers import LayerShape
from edgedl.train.networks.trial import example
from edgedl.train.shapes import TensorShape
from edgedl.train.shrink.groups import Structure, groups_of
from tests.train.networks.cases import Case, Inputs

IMAGE: Inputs = {"image": TensorShape((3, 16, 16))}
SERIES: Inputs = {"x": TensorShape((3, 12))}
TEXT: Inputs = {"input_ids": TensorShape((6,), "int64", 20)}
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "vocab_size": 20,
}
DISTILBERT = {
    "model_type": "distilbert",
    "dim": 16,
    "n_heads": 4,
    "n_layers": 1,
    "hidden_dim": 24,
    "vocab_size": 20,
}

# In these, all but what a layer normalisation looks at can be zero without being seen.
WIDE = (
    Case("resnet8", IMAGE, settings={"width": 6}),
    Case("resnet18", IMAGE, settings={"width": 4}, table=("resnet:DEPTHS", 2)),
    Case("resnet50", IMAGE, settings={"width": 4}, table=("resnet:DEPTHS", 2)),
    Case("mobilenetv1", IMAGE, settings={"alpha": 0.25}, table=("mobilenetv1:BLOCKS", 5)),
    Case("mobilenetv2", IMAGE, settings={"alpha": 0.25}, table=("mobilenetv2:STAGES", 5)),
    Case("mobilenetv3_small", IMAGE, settings={"alpha": 0.5}, table=("mobilenetv3:SMALL", 7)),
    Case("mobilenetv3_large", IMAGE, settings={"alpha": 0.25}, table=("mobilenetv3:LARGE", 7)),
    Case("efficientnet_lite0", IMAGE, table=("efficientnet:STAGES", 3)),
    Case("ds_cnn", {"mfcc": TensorShape((10, 20))}, settings={"width": 8, "blocks": 2}),
    Case("vit", IMAGE, settings={"width": 16, "depth": 2, "heads": 4}),
    Case("vit", IMAGE, settings={"width": 8, "depth": 1, "heads": 1, "pool": "class"}),
    Case("unet", {"image": TensorShape((1, 10, 7))}, settings={"width": 4, "depth": 2}),
    Case("unet", IMAGE, 0, {"width": 4, "depth": 1}),
    Case("ssd", IMAGE, settings={"width": 4, "levels": 1, "blocks": 1}),
    Case("lstm", SERIES, settings={"hidden": 6, "bidirectional": True, "layers": 2}),
    Case("lstm", SERIES, settings={"hidden": 6, "pool": "each"}),
    Case("gru", SERIES, settings={"hidden": 6, "layers": 2, "pool": "mean"}),
    Case("gru", SERIES, settings={"hidden": 6, "bidirectional": True}),
    Case("streaming_gru", SERIES, settings={"hidden": 6, "layers": 2, "chunk": 3}),
    Case("tcn", SERIES, settings={"width": 6, "levels": 2}),
    Case("mlp", SERIES, settings={"hidden": (8, 6)}),
    Case("autoencoder", SERIES, 0, {"hidden": (8, 6), "bottleneck": 4}),
    Case("text_encoder", TEXT, settings={"width": 16, "depth": 2, "heads": 4}),
    Case("two_tower", {"user": TensorShape((), "int64", 9), "item": TensorShape((), "int64", 7)},
         1, {"width": 6, "hidden": (8,)}),
    Case("transformers", TEXT, settings={"config": BERT}),
    Case("transformers", TEXT, settings={"config": DISTILBERT}),
)  # fmt: skip


@torch.no_grad()
def stirred(network: nn.Module, seed: int = 0) -> nn.Module:
    """The same with statistics, scales and biases that are not those of the beginning."""
    dice = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.is_floating_point():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=dice))
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=dice))
        elif name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=dice))
    return network.eval()


def share_of(structure: Structure, share: float, seed: int = 0) -> dict[str, list[int]]:
    """Channels to remove of every group: this share of its units, one at least."""
    dice = random.Random(seed)
    gone = {}
    for group in structure.groups:
        units = group.size // group.unit
        chosen = sorted(dice.sample(range(units), max(1, int(share * units))))
        gone[group.name] = [u * group.unit + i for u in chosen for i in range(group.unit)]
    return gone


@torch.no_grad()
def silenced(network: nn.Module, structure: Structure, gone: dict[str, list[int]]) -> None:
    """Makes channels zero: what makes them, and the scales and shifts behind."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, indices in gone.items():
        unit = structure.group(name).unit
        units = sorted({index // unit for index in indices})
        for part in structure.parts[name]:
            if part.role in ("makes", "norm") and not part.tensor.endswith("running_var"):
                places = torch.from_numpy(part.indices[units].reshape(-1))
                tensors[part.tensor].index_fill_(part.axis, places, 0)


def normalised_together(network: nn.Module, structure: Structure, name: str) -> bool:
    """Whether a layer normalisation looks at all channels of a group."""
    modules = dict(network.named_modules())
    return any(
        isinstance(modules[part.tensor.rpartition(".")[0]], nn.LayerNorm)
        for part in structure.parts[name]
        if part.role == "norm"
    )


def flat(answer: Any) -> list[Tensor]:
    if isinstance(answer, dict):
        return list(answer.values())
    return list(answer) if isinstance(answer, (tuple, list)) else [answer]


def answers(network: nn.Module, inputs: Inputs, batch: int = 3) -> list[Tensor]:
    with torch.no_grad():
        return flat(network.eval()(*example(inputs, batch)))


def structure_of(network: nn.Module, inputs: Inputs) -> Structure:
    return groups_of(network, example(inputs, 2))


def counted_macs(network: nn.Module, inputs: Inputs) -> int:
    """Multiplications for one sample, counted where they are made."""
    found = []

    def count(module: Any, given: Any, out: Any) -> None:
        [x, *_] = given
        if isinstance(module, (nn.LSTM, nn.GRU)):
            sizes = [w.numel() for n, w in module.named_parameters() if n.startswith("weight")]
            found.append(x.shape[0] * sum(sizes))
        elif isinstance(module, nn.Linear):
            found.append(x[..., 0].numel() // 2 * module.weight.numel())
        else:
            turned = isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d))
            places = (x if turned else out)[0, 0].numel()
            found.append(places * module.weight.numel())

    kinds = (
        nn.Conv1d,
        nn.Conv2d,
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        nn.Linear,
        nn.LSTM,
        nn.GRU,
    )
    handles = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        network.eval()(*example(inputs, 2))
    for handle in handles:
        handle.remove()
    return sum(found)


def macs_of(shapes: list[LayerShape]) -> int:
    return sum(shape.macs for shape in shapes)
