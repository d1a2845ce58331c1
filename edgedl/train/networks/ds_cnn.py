"""DS-CNN: depthwise-separable convolutions that hear keywords."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from edgedl.train.networks.inputs import plane, positive, share, values
from edgedl.train.networks.layers import GlobalPool, begin_convolutions, convolution
from edgedl.train.shapes import TensorShape


def ds_cnn(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    width: int = 64,
    blocks: int = 4,
    dropout: float = 0.4,
    stem_dropout: float = 0.2,
) -> nn.Module:
    """MLPerf Tiny's network for keyword spotting (Banbury et al., 2021), after Zhang et al., Hello
    Edge (2017).

    A sound's features float32 [batch, bands, frames] or [batch, 1, bands, frames] to logits [batch,
    outputs]. With 10 MFCC x 49 frames and 12 words it has the reference's 22,604 weights and
    biases.

    Args:
        inputs: one sound's features.
        outputs: classes or values.
        width: channels.
        blocks: separable convolutions.
        dropout: share of features left out before the last layer while training.
        stem_dropout: the same behind the first convolution.

    Raises:
        BadValue: the input is no sound's features, or a setting is out of range.
    """
    bands, frames = plane(inputs)
    positive(width=width, blocks=blocks)
    share(dropout=dropout, stem_dropout=stem_dropout)
    network = DSCNN(bands, frames, values(outputs), width, blocks, dropout, stem_dropout)
    begin_convolutions(network)
    return network


class DSCNN(nn.Module):
    """A convolution over 4 bands x 10 frames, separable ones of 3x3, the mean, one dense layer.

    Convolutions have biases before their normalisation, as in the reference.
    """

    def __init__(
        self,
        bands: int,
        frames: int,
        outputs: int,
        width: int,
        blocks: int,
        dropout: float,
        stem_dropout: float,
    ) -> None:
        super().__init__()
        self.plane = (-1, 1, bands, frames)
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, (4, 10), 2, (1, 5)),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout(stem_dropout),
        )
        self.blocks = nn.Sequential()
        for _ in range(blocks):
            self.blocks.append(convolution(width, width, 3, groups=width, bias=True))
            self.blocks.append(convolution(width, width, 1, bias=True))
        self.dropout = nn.Dropout(dropout)
        self.pool = GlobalPool()
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the sounds."""
        x = self.blocks(self.stem(x.reshape(self.plane)))
        logits: Tensor = self.head(self.pool(self.dropout(x)))
        return logits
