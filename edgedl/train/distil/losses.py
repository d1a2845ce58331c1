"""What a network's answers lack to its teacher's: one figure a sample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Under which a squared distance counts as none: a root has no gradient at 0.
TINY = 1e-12


def soft_classes(scores: Tensor, wanted: Tensor, temperature: float, axis: int = 1) -> Tensor:
    """The divergence of the classes' probabilities from the teacher's, times the temperature's
    square, which keeps its gradients as large as the labels'; the mean over places.

    Hinton et al., Distilling the Knowledge in a Neural Network, 2015.

    Args:
        scores, wanted: logits, [batch, ...]; the classes lie along `axis`.
    """
    ours = (scores.float() / temperature).log_softmax(dim=axis)
    theirs = (wanted.float() / temperature).log_softmax(dim=axis)
    rows = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=axis)
    return temperature**2 * _mean(rows)


def soft_flags(scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """The cross-entropy of each flag's probability with the teacher's, times the temperature's
    square; the mean over flags, [batch]. Both are logits of shape [batch, ...]."""
    theirs = torch.sigmoid(wanted.float() / temperature)
    rows = functional.binary_cross_entropy_with_logits(
        scores.float() / temperature, theirs, reduction="none"
    )
    return temperature**2 * _mean(rows)


def squares(values: Tensor, wanted: Tensor) -> Tensor:
    """The mean square of what they differ by, [batch], of two tensors of shape [batch, ...].

    Of outputs: Ba and Caruana, Do Deep Nets Really Need to be Deep?, NeurIPS 2014; of features:
    Romero et al., FitNets, ICLR 2015.
    """
    return _mean((values.float() - wanted.float()).square())


def attention(features: Tensor, wanted: Tensor, axis: int = 1) -> Tensor:
    """The squared distance of both maps of attention, each of norm 1: from 0 to 2.

    A map is the mean over channels of what they say, squared. Zagoruyko and Komodakis, Paying More
    Attention to Attention, ICLR 2017. Of unlike maps, the larger is averaged to the smaller's size.

    Args:
        features, wanted: [batch, ...]; the channels lie along `axis`.
    """
    ours, theirs = (one.float().square().mean(dim=axis, keepdim=True).movedim(axis, 1)
                    for one in (features, wanted))  # fmt: skip
    ours, theirs = alike(ours, theirs)
    ours, theirs = (functional.normalize(one.flatten(1), dim=1) for one in (ours, theirs))
    return (ours - theirs).square().sum(dim=1)


def distances(features: Tensor, wanted: Tensor) -> Tensor:
    """How unlike each sample's distances to the others are, where the mean distance is 1: Huber's
    loss, the mean over others, [batch]; 0 for one sample alone.

    Park et al., Relational Knowledge Distillation, CVPR 2019.
    """
    count = len(features)
    if count < 2:
        return features.flatten(1).float().sum(dim=1) * 0
    ours, theirs = (_lengths(one) for one in (features, wanted))
    return functional.smooth_l1_loss(ours, theirs, reduction="none").sum(dim=1) / (count - 1)


def angles(features: Tensor, wanted: Tensor) -> Tensor:
    """How unlike the angles are that two others make at each sample: Huber's loss of their cosines,
    the mean over pairs of others, [batch]; 0 for less than three samples.

    Park et al., Relational Knowledge Distillation, CVPR 2019. It takes memory for the cube of the
    number of samples, and for its square times their size.
    """
    count = len(features)
    if count < 3:
        return features.flatten(1).float().sum(dim=1) * 0
    ours, theirs = (_cosines(one) for one in (features, wanted))
    rows = functional.smooth_l1_loss(ours, theirs, reduction="none").sum(dim=(1, 2))
    return rows / ((count - 1) * (count - 2))


def alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the same places: the larger of two [batch, channels, ...] is averaged."""
    if first.shape[2:] == second.shape[2:]:
        return first, second
    if first.shape[2:].numel() > second.shape[2:].numel():
        return _pooled(first, second.shape[2:]), second
    return first, _pooled(second, first.shape[2:])


def _pooled(x: Tensor, size: torch.Size) -> Tensor:
    if len(size) == 1:
        return functional.adaptive_avg_pool1d(x, size[0])
    return functional.adaptive_avg_pool2d(x, (size[0], size[1]))


def _lengths(features: Tensor) -> Tensor:
    """Distances between all pairs, [batch, batch], by the mean of those that are not 0."""
    rows = features.flatten(1).float()
    squared = (rows[:, None] - rows[None]).square().sum(dim=2)
    found = torch.where(squared > TINY, squared.clamp_min(TINY).sqrt(), 0)
    apart = found > 0
    return found / (found.sum() / apart.sum().clamp_min(1)).clamp_min(TINY)


def _cosines(features: Tensor) -> Tensor:
    """At each sample, of the angle between each two others: [batch, batch, batch], 0 where two of
    the three are one."""
    rows = features.flatten(1).float()
    ways = functional.normalize(rows[None] - rows[:, None], dim=2)
    found = ways @ ways.transpose(1, 2)
    return found * (1 - torch.eye(len(rows), device=rows.device))


def _mean(rows: Tensor) -> Tensor:
    return rows.reshape(len(rows), -1).mean(dim=1)
