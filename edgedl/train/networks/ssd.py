"""A small single-shot detector."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgedl.core.errors import BadValue
from edgedl.runtime.process.boxes import Boxes
from edgedl.train.networks.boxes import VARIANCES, Decoder, Level, anchors_of, multibox
from edgedl.train.networks.inputs import image, positive, values
from edgedl.train.networks.layers import begin_convolutions, convolution
from edgedl.train.shapes import TensorShape

BOXES, SCORES = "boxes", "scores"
FIRST = 8
PRIOR = 0.01


def ssd(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    width: int = 32,
    levels: int = 3,
    blocks: int = 2,
    ratios: tuple[float, ...] = (1.0, 2.0, 0.5),
    smallest: float = 0.1,
    largest: float = 0.6,
    decoded: bool = False,
) -> nn.Module:
    """A single-shot detector (Liu et al., SSD, 2016) on separable convolutions (Howard et al.,
    MobileNets, 2017).

    Image float32 [batch, channels, height, width] to `boxes`, offsets from anchors [batch, anchors,
    4], and `scores`, logits of the classes and, behind them, of the background [batch, anchors,
    classes + 1]. `loss` of it and true boxes is what it learns by; `boxes` of it, as bundles have
    it, finds boxes in its answers. Levels are at an 8th of the image's size, a 16th, and so on.

    Args:
        inputs: one image.
        outputs: classes.
        width: channels at half the image's size, more at each further halving.
        levels: grids that boxes are looked for on.
        blocks: separable convolutions at each size.
        ratios: width to height of each cell's anchors; one more is square, a size between its level
            and the next.
        smallest: the first level's anchors, as a share of the image's shorter side.
        largest: the last level's.
        decoded: whether it is exported with its boxes decoded: `boxes` in pixels [batch, anchors,
            4], `scores` and `classes` [batch, anchors].

    Raises:
        BadValue: the input is no image or too small, or a setting is out of range.
    """
    _, height, length = image(inputs)
    values(outputs)
    positive(width=width, levels=levels, blocks=blocks, smallest=smallest)
    for ratio in ratios:
        positive(ratios=ratio)
    if largest < smallest or not ratios:
        key = "largest" if ratios else "ratios"
        hint = "smallest: 0.1, largest: 0.6, ratios: [1, 2, 1/2]"
        raise BadValue(f"`{key}` leaves no anchors", keys=(key,), hint=hint)
    strides = tuple(FIRST * 2**level for level in range(levels))
    if min(height, length) < strides[-1]:
        most = (min(height, length) // FIRST).bit_length()
        message = f"an image of {height} x {length} has no cells of {strides[-1]} pixels"
        hint = f"levels: {most} at most" if most else f"images of {FIRST} pixels or more"
        raise BadValue(message, keys=("levels",), hint=hint)
    sizes = _sizes(min(height, length), levels, ratios, smallest, largest)
    network = SSD(inputs, (height, length), outputs, width, blocks, strides, sizes, decoded)
    begin_convolutions(network)
    network.begin_heads()
    return network


class SSD(nn.Module):
    """Separable convolutions, and on each level two 3x3 convolutions: offsets and logits.

    Attributes:
        anchors: centres, widths and heights in pixels, [anchors, 4].
        boxes: how its answers hold boxes, for a bundle's post-processing and the metric.
    """

    anchors: Tensor

    def __init__(
        self,
        inputs: Mapping[str, TensorShape],
        size: tuple[int, int],
        outputs: int,
        width: int,
        blocks: int,
        strides: tuple[int, ...],
        sizes: tuple[Level, ...],
        decoded: bool,
    ) -> None:
        super().__init__()
        self.inputs, self.decoded = dict(inputs), decoded
        channels, _, _ = image(inputs)
        self.boxes = Boxes(
            format="ssd",
            outputs=(BOXES, SCORES),
            size=size,
            strides=strides,
            anchors=tuple(tuple(v for pair in level for v in pair) for level in sizes),
            variances=VARIANCES,
            activation="softmax",
            background=outputs,
            overlap=0.5,
        )
        self.classes = outputs + 1
        wide = (2 * width, 4 * width, *(min(8 * 2**i, 16) * width for i in range(len(strides) - 1)))
        layers = [convolution(channels, width, 3, 2), _separable(width, wide[0], 2, blocks)]
        self.stem = nn.Sequential(*layers)
        self.stages, self.offsets, self.scores = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, anchors in enumerate(sizes):
            inside, out = wide[level], wide[level + 1]
            self.stages.append(_separable(inside, out, 2, blocks))
            self.offsets.append(nn.Conv2d(out, len(anchors) * 4, 3, padding=1))
            self.scores.append(nn.Conv2d(out, len(anchors) * self.classes, 3, padding=1))
        self.register_buffer("anchors", anchors_of(size, strides, sizes), persistent=False)
        self.cells = [
            len(anchors) * math.prod(-(-pixels // stride) for pixels in size)
            for anchors, stride in zip(sizes, strides, strict=True)
        ]

    @torch.no_grad()
    def begin_heads(self) -> None:
        """Draws the last layers small, and such that nothing is seen: boxes are rare, and so
        learning begins steadily (Lin et al., Focal Loss for Dense Object Detection, 2017)."""
        for head in (*self.offsets, *self.scores):
            assert isinstance(head, nn.Conv2d)
            nn.init.normal_(head.weight, 0, 0.01)
        for head in self.scores:
            assert isinstance(head.bias, Tensor)
            head.bias.reshape(-1, self.classes)[:, -1] = math.log(
                (self.classes - 1) * (1 - PRIOR) / PRIOR
            )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """`boxes`, offsets from the anchors, and `scores`, logits."""
        x = self.stem(x)
        offsets, scores = [], []
        for level, stage in enumerate(self.stages):
            x = stage(x)
            rows = (-1, self.cells[level])
            offsets.append(self.offsets[level](x).permute(0, 2, 3, 1).reshape(*rows, 4))
            logits = self.scores[level](x).permute(0, 2, 3, 1)
            scores.append(logits.reshape(*rows, self.classes))
        return {BOXES: torch.cat(offsets, 1), SCORES: torch.cat(scores, 1)}

    def loss(self, answers: Mapping[str, Tensor], truth: Tensor) -> Tensor:
        """Each sample's loss, float32 [batch], of answers and true boxes [batch, most, 5]: left,
        top, right and bottom in pixels, and the class; rows of class -1 fill up."""
        return multibox(answers[BOXES], answers[SCORES], self.anchors, truth)

    def deployed(self) -> tuple[nn.Module, Mapping[str, TensorShape]]:
        """The network with its boxes decoded, where its settings say so; else as it is."""
        return Decoded(self) if self.decoded else self, self.inputs


class Decoded(nn.Module):
    """A detector whose answers are boxes in pixels, each one's best class, and its score.

    Attributes:
        boxes: how its answers hold boxes.
    """

    def __init__(self, network: SSD) -> None:
        super().__init__()
        self.network = network
        self.decoder = Decoder(network.anchors)
        known = network.boxes
        self.boxes = Boxes(outputs=(BOXES, SCORES, "classes"), overlap=known.overlap)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """`boxes`, `scores` and `classes` of each anchor."""
        answers = self.network(x)
        found: dict[str, Tensor] = self.decoder(answers[BOXES], answers[SCORES])
        return found


def _separable(inside: int, out: int, stride: int, blocks: int) -> nn.Sequential:
    layers = []
    for index in range(blocks):
        layers.append(convolution(inside, inside, 3, 1 if index else stride, groups=inside))
        layers.append(convolution(inside, out, 1))
        inside = out
    return nn.Sequential(*layers)


def _sizes(
    side: int, levels: int, ratios: tuple[float, ...], smallest: float, largest: float
) -> tuple[Level, ...]:
    """Widths and heights of each level's anchors, in pixels."""
    step = (largest - smallest) / max(1, levels - 1)
    shares = [smallest + step * level for level in range(levels + 1)]
    made = []
    for level in range(levels):
        size = side * shares[level]
        between = side * math.sqrt(shares[level] * shares[level + 1])
        shapes = [(size * math.sqrt(ratio), size / math.sqrt(ratio)) for ratio in ratios]
        made.append(tuple((round(w, 2), round(h, 2)) for w, h in [*shapes, (between, between)]))
    return tuple(made)
