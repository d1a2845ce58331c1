"""A loss where there are no labels: of targets that are drawn from what the network itself answers.

Against its own answers a network has no loss, and no gradient by which channels could be told
apart. Against answers drawn from them it has that of Fisher's information: how much its answers
would move (Martens, New Insights and Perspectives on the Natural Gradient Method, JMLR 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgedl.train.distil.settings import Kind
from edgedl.train.validate import named

SUM_ERROR, TINY = 1e-3, 1e-7


def drawn_loss(answers: Kind | None, seed: int) -> Callable[[Any, Tensor], Tensor]:
    """The mean loss of a batch's outputs, against targets drawn by the seed; the same ones in the
    same order for each function that is made. Given targets are not looked at.

    Args:
        answers: what the outputs are; None: `values`, or `classes` where they add up to 1.
    """
    random = torch.Generator().manual_seed(seed)

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        del targets
        reals = [one for _, one in named(outputs) if one.is_floating_point()]
        return torch.stack([_one(one.float(), answers, random) for one in reals]).mean()

    return loss


def _one(output: Tensor, answers: Kind | None, random: torch.Generator) -> Tensor:
    axis = 2 if output.ndim == 3 else 1
    several = output.ndim > axis and output.shape[axis] > 1
    even = several and _adds_up(output, axis)
    if several and (answers == "classes" or (answers is None and even)):
        logs = output.clamp_min(TINY).log() if even else output.log_softmax(dim=axis)
        rows = logs.movedim(axis, -1).reshape(-1, output.shape[axis])
        shares = rows.detach().exp().cpu()
        classes = torch.multinomial(shares, 1, generator=random)[:, 0].to(output.device)
        return functional.nll_loss(rows, classes)
    if answers == "flags":
        shares = (output if _is_share(output) else output.sigmoid()).detach().clamp(0, 1)
        flags = torch.bernoulli(shares.cpu(), generator=random).to(output.device)
        if _is_share(output):
            return functional.binary_cross_entropy(output.clamp(TINY, 1 - TINY), flags)
        return functional.binary_cross_entropy_with_logits(output, flags)
    noise = torch.randn(output.shape, generator=random).to(output.device)
    # one size for all: outputs that vary by more count by more, as in a square loss
    wanted = output.detach() + noise * output.detach().std(unbiased=False).clamp_min(TINY)
    return (output - wanted).square().mean()


def _adds_up(output: Tensor, axis: int) -> bool:
    sums = output.detach().sum(dim=axis)
    return bool((output >= 0).all()) and bool(((sums - 1).abs() < SUM_ERROR).all())


def _is_share(output: Tensor) -> bool:
    return bool(((output >= 0) & (output <= 1)).all())
