"""Losses: of a network's outputs and what they should be, one figure a sample.

One a sample, not their mean: so a batch may be cut into parts, or shared among processes, and its
gradients stay what they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedl.core.errors import BadOption, BadSamples, BadValue
from edgedl.core.own import own_callable
from edgedl.train.data.dataset import IGNORED
from edgedl.train.settings import Bce, CrossEntropy, Ctc, Focal, Loss, Mse, OfNetwork, OwnLoss

FORM = "loss: file.py:function or module:function, called with (outputs, labels), to [batch]"
PerSample = Callable[[Any, Tensor], Tensor]


def chosen(settings: Loss | None, network: nn.Module, labels: np.ndarray | None) -> Loss:
    """The loss that settings name, or what a network and its labels suggest."""
    if settings is not None:
        return settings
    if hasattr(network, "loss"):
        return OfNetwork()
    # one a sample, or one a pixel
    one = labels is not None and labels.ndim in (1, 3)
    classes = one and np.issubdtype(labels.dtype, np.integer)  # type: ignore[union-attr]
    return CrossEntropy() if classes else Mse()


def loss_of(
    settings: Loss,
    labels: np.ndarray | None,
    device: torch.device,
    network: nn.Module | None = None,
) -> PerSample:
    """The loss as a function of outputs and targets, both with a batch axis, to float32 of shape
    [batch]. A network of several outputs is judged by its first; the user's own sees them all.

    Targets of `IGNORED` count nothing in cross-entropy.

    Args:
        labels: of the training samples: how often classes occur.
        network: whose own loss may be wanted.

    Raises:
        BadOption: the user's own cannot be loaded.
    """
    if isinstance(settings, OfNetwork):
        own = getattr(network, "loss", None)
        if not callable(own):
            hint = "name another loss, or none"
            raise BadOption("the network has no `loss` of its own", hint=hint)
        return partial(_own, own, "the network's own loss")
    if isinstance(settings, OwnLoss):
        return partial(_own, own_loss(settings.name), settings.name)
    if isinstance(settings, (CrossEntropy, Focal)):
        weights = settings.class_weights or (_balanced(labels) if settings.balanced else ())
        tensor = torch.tensor(weights, dtype=torch.float32, device=device) if weights else None
        if isinstance(settings, Focal):
            return partial(_focal, settings.gamma, tensor)
        plain = partial(_cross_entropy, settings.label_smoothing, tensor)
        return partial(_with_dice, settings.dice, plain) if settings.dice else plain
    if isinstance(settings, Ctc):
        return partial(_ctc, settings.blank)
    if isinstance(settings, Bce):
        weight = torch.tensor(settings.positive_weight, dtype=torch.float32, device=device)
        return partial(_bce, weight)
    return _mse


def check_labels(settings: Loss, outputs: Any, labels: np.ndarray | None, where: str) -> None:
    """Check that labels are classes that the outputs have.

    Raises:
        BadSamples: they are not, or there are none. BadValue: weights of classes are too many or
            too few.
    """
    if not isinstance(settings, (CrossEntropy, Focal, Ctc, Bce)):
        return
    output = first_of(outputs)
    if isinstance(settings, Bce):
        if labels is not None and not bool(((labels >= 0) & (labels <= 1)).all()):
            message = "`bce` wants each label to be no or yes, and labels are not between 0 and 1"
            hint = "`loss: mse` for values, `cross_entropy` for classes"
            raise BadSamples(message, where=where, hint=hint)
        return
    if labels is None:
        raise BadSamples(
            f"`{settings.name}` needs labels, there are none",
            where=where,
            hint="give labels, or learn the input itself with `loss: mse`; with a teacher, leave"
            " `loss` out",
        )
    if not isinstance(settings, Ctc) and labels.size * len(output) == output.numel() * len(labels):
        _check_probabilities(settings, output, labels, where)
        return
    classes = output.shape[-1] if isinstance(settings, Ctc) or output.ndim < 2 else output.shape[1]
    weights = () if isinstance(settings, Ctc) else settings.class_weights
    if weights and len(weights) != classes:
        raise BadValue(
            f"{len(weights)} class weights for {classes} outputs",
            keys=("loss", "class_weights"),
            hint="one a class, or `balanced: true`",
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise BadSamples(
            f"labels are {labels.dtype} of shape {labels.shape}, not class indices",
            where=where,
            hint="save them as int64, or name another `loss`",
        )
    if isinstance(settings, Ctc):
        _check_rows(settings, output, labels, where)
    counted = labels[labels >= 0] if isinstance(settings, Ctc) else labels[labels != IGNORED]
    if counted.size and not 0 <= counted.min() <= counted.max() < classes:
        wrong = counted.max() if counted.max() >= classes else counted.min()
        raise BadSamples(
            f"label {wrong} is outside the network's {classes} outputs",
            where=where,
            hint="labels are class indices from 0; give the network one output a class",
        )
    if not isinstance(settings, Ctc):
        _check_places(settings, output, labels, where)


def _check_places(
    settings: CrossEntropy | Focal, output: Tensor, labels: np.ndarray, where: str
) -> None:
    """Check that there is a label for each place that is answered for."""
    places = tuple(output.shape[2:])
    if labels.shape[1:] != places:
        raise BadSamples(
            f"a label has shape {labels.shape[1:]}, and the network answers for {places or 'one'}",
            where=where,
            hint="`unet` answers for each pixel; where there is one class a sample, labels are of"
            " shape (rows,)",
        )
    if isinstance(settings, CrossEntropy) and settings.dice and not places:
        hint = "leave it out where a sample has one class"
        raise BadSamples("`dice` is of masks, and labels are none", where=where, hint=hint)


def _check_rows(settings: Ctc, output: Tensor, labels: np.ndarray, where: str) -> None:
    """Check that labels are rows of symbols for which the outputs have enough steps."""
    if output.ndim != 3 or labels.ndim != 2:
        given = tuple(output.shape[1:])
        raise BadSamples(
            f"`ctc` wants rows of symbols, and a network that gives [steps, symbols]; a label has"
            f" shape {labels.shape[1:]}, the network's output {given}",
            where=where,
            hint="fill rows up with -1; or name another `loss`",
        )
    if (labels == settings.blank).any():
        row = int(np.argwhere(labels == settings.blank)[0, 0])
        message = f"row {row} has the symbol {settings.blank}, which is the blank of `ctc`"
        hint = "number symbols from 1, or set `blank: N` to one that no label has"
        raise BadSamples(message, where=where, hint=hint)
    # between two alike there has to be a blank
    twice = ((labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] >= 0)).sum(axis=1)
    needed = (labels >= 0).sum(axis=1) + twice
    long = np.flatnonzero(needed > output.shape[1])
    if len(long):
        raise BadSamples(
            f"{len(long)} of {len(labels)} labels need more steps than the network's"
            f" {output.shape[1]}, as row {long[0]} with {needed[long[0]]}, and would teach nothing",
            where=where,
            hint="let the network shorten its input less, or leave those samples out",
        )


def _check_probabilities(
    settings: CrossEntropy | Focal, output: Tensor, labels: np.ndarray, where: str
) -> None:
    """Check that labels which are as many as the outputs are probabilities of several classes."""
    one = isinstance(settings, CrossEntropy) and (output.ndim < 2 or output.shape[1] < 2)
    if one or not bool(((labels >= 0) & (labels <= 1)).all()):
        what = "there is one output" if one else "labels are not between 0 and 1"
        raise BadSamples(
            f"`{settings.name}` wants probabilities of classes, and {what}",
            where=where,
            hint="`loss: mse` for values, `bce` for one answer of yes or no",
        )


def first_of(outputs: Any) -> Tensor:
    """The first of a network's outputs.

    Raises:
        BadOption: it is no tensor.
    """
    if isinstance(outputs, Mapping):
        outputs = next(iter(outputs.values()))
    elif isinstance(outputs, (tuple, list)):
        outputs = outputs[0]
    if not isinstance(outputs, Tensor):
        raise BadOption(
            f"the network answers with {type(outputs).__name__}",
            hint="`forward` returns a tensor, or a tuple or dict of tensors",
        )
    return outputs


def _cross_entropy(
    smoothing: float, weights: Tensor | None, outputs: Any, targets: Tensor
) -> Tensor:
    scores = first_of(outputs).float()
    each = None if weights is None else _one_a_class(weights, scores)
    losses = functional.cross_entropy(
        scores, targets, each, reduction="none", label_smoothing=smoothing
    )
    return _over_places(losses, targets)


def _with_dice(share: float, plain: PerSample, outputs: Any, targets: Tensor) -> Tensor:
    return plain(outputs, targets).lerp(_dice(first_of(outputs).float(), targets), share)


def _dice(scores: Tensor, targets: Tensor) -> Tensor:
    """1 less the soft Dice coefficient, its mean over the classes that a sample's mask holds:
    what a class is given wrongly is missing from another, which does occur."""
    classes = scores.shape[1]
    counted = (targets != IGNORED).unsqueeze(1)
    given = (scores.softmax(dim=1) * counted).flatten(2)
    wanted = functional.one_hot(targets.clamp_min(0), classes).movedim(-1, 1) * counted
    wanted = wanted.flatten(2).to(given.dtype)
    size = wanted.sum(dim=2)
    overlap = 2 * (given * wanted).sum(dim=2) / (given.sum(dim=2) + size).clamp_min(1e-6)
    there = size > 0
    return ((1 - overlap) * there).sum(dim=1) / there.sum(dim=1).clamp_min(1)


def _focal(gamma: float, weights: Tensor | None, outputs: Any, targets: Tensor) -> Tensor:
    scores = first_of(outputs).float()
    if targets.numel() == scores.numel():
        wanted = _fitting(scores, targets)
        plain = functional.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
        losses = (1 - torch.exp(-plain)) ** gamma * plain
        if weights is not None:
            losses = losses * weights.reshape(-1, *[1] * (losses.ndim - 2))
        return losses.flatten(1).mean(dim=1)
    plain = functional.cross_entropy(scores, targets, reduction="none")
    losses = (1 - torch.exp(-plain)) ** gamma * plain
    if weights is not None:
        losses = losses * _one_a_class(weights, scores)[targets.clamp_min(0)]
    return _over_places(losses, targets)


def _one_a_class(weights: Tensor, scores: Tensor) -> Tensor:
    """The weights, and 1 for classes behind the last that training rows have."""
    lacking = scores.shape[1] - len(weights) if scores.ndim > 1 else 0
    return functional.pad(weights, (0, max(lacking, 0)), value=1.0)


def _over_places(losses: Tensor, targets: Tensor) -> Tensor:
    """The mean of each sample's places that are not ignored."""
    if losses.ndim == 1:
        return losses
    counted = targets != IGNORED if targets.shape == losses.shape else torch.ones_like(losses)
    return losses.flatten(1).sum(dim=1) / counted.flatten(1).sum(dim=1).clamp_min(1)


def _bce(positive_weight: Tensor, outputs: Any, targets: Tensor) -> Tensor:
    scores = first_of(outputs).float()
    losses = functional.binary_cross_entropy_with_logits(
        scores, _fitting(scores, targets), pos_weight=positive_weight, reduction="none"
    )
    return losses.reshape(len(losses), -1).mean(dim=1)


def _mse(outputs: Any, targets: Tensor) -> Tensor:
    values = first_of(outputs).float()
    return (values - _fitting(values, targets)).square().reshape(len(values), -1).mean(dim=1)


def _ctc(blank: int, outputs: Any, targets: Tensor) -> Tensor:
    scores = first_of(outputs).float().log_softmax(dim=-1).transpose(0, 1)
    lengths = (targets >= 0).sum(dim=1)
    steps = torch.full((len(targets),), len(scores), dtype=torch.int64)
    losses = functional.ctc_loss(
        scores,
        targets.clamp_min(0),
        steps,
        lengths.cpu(),
        blank,
        reduction="none",
        zero_infinity=True,
    )
    return losses / lengths.clamp_min(1)


def _fitting(outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets as float32 in the outputs' shape: [batch] stands beside [batch, 1]."""
    if targets.numel() != outputs.numel() or len(targets) != len(outputs):
        raise BadSamples(
            f"a label has shape {tuple(targets.shape[1:])}, the network's output"
            f" {tuple(outputs.shape[1:])}",
            hint="as many values in a label as the network has outputs, or another `loss`",
        )
    return targets.reshape(outputs.shape).float()


def _balanced(labels: np.ndarray | None) -> tuple[float, ...]:
    """samples / (classes * samples of the class): their mean over samples is 1."""
    if labels is None or not np.issubdtype(labels.dtype, np.integer):
        return ()
    counts = np.bincount(labels[labels >= 0].ravel())
    present = np.count_nonzero(counts)
    weights = counts.sum() / (present * np.maximum(counts, 1))
    return tuple(np.where(counts > 0, weights, 1.0).tolist())


def _own(function: Callable[..., Any], name: str, outputs: Any, targets: Tensor) -> Tensor:
    found = function(outputs, targets)
    if not isinstance(found, Tensor) or found.shape not in ((), (len(targets),)):
        given = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise BadOption(
            f"loss `{name}` gave {given}", hint="one loss a sample, a tensor, or their mean"
        )
    return found.float().expand(len(targets))


def own_loss(spec: str) -> Callable[..., Any]:
    """The callable at `module:callable`, of a file or of a module installed or in the working
    folder.

    It is called with what the network gave, on its device, in the precision that it computes in,
    and with labels of shape [batch, ...] there: int64 where they are whole numbers, else float32;
    where the input is the target, with the first input. It gives the loss of each sample, of shape
    [batch], which is better, or their mean.

    Raises:
        BadOption: there is none, or it cannot be loaded.
    """
    return own_callable(spec, "loss", FORM)
