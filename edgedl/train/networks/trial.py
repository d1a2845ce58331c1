"""The first batch: a network is fed two samples, and what it answers is held against the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgedl.core.errors import BadValue
from edgedl.core.own import reason_of
from edgedl.train.shapes import TensorShape

BATCH = 2


def try_out(
    name: str,
    network: Any,
    inputs: Mapping[str, TensorShape],
    outputs: int | None,
    places: tuple[int, ...] = (),
) -> None:
    """Feeds a batch of two in evaluation mode, which leaves the network as it was.

    Args:
        outputs: answers a sample; 0 for the first input again; None for any number.
        places: of what in a sample each is an answer, where it is not of the sample itself.

    Raises:
        BadValue: it is no network, fails, or answers in another size.
    """
    if not isinstance(network, nn.Module):
        message = f"network `{name}` is a {type(network).__name__}, not a torch.nn.Module"
        raise BadValue(message, keys=("name",), hint="return a torch.nn.Module")
    shapes = ", ".join(f"`{one}` {_shape((BATCH, *s.shape))}" for one, s in inputs.items())
    training = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            answer = network(*example(inputs, BATCH))
    except Exception as error:
        raise BadValue(
            f"network `{name}` fails on a batch of {shapes}: {reason_of(error, name)}",
            hint="forward takes the inputs in this order, each with a batch axis in front",
        ) from error
    finally:
        for module, mode in training:
            module.training = mode
    _check(name, answer, inputs, outputs, shapes, places)


def example(inputs: Mapping[str, TensorShape], batch: int) -> tuple[Tensor, ...]:
    """A batch for each input, of noise between 0 and 1 or of ids, the same at each call."""
    random = torch.Generator().manual_seed(0)
    made = []
    for shape in inputs.values():
        size = (batch, *shape.shape)
        if shape.whole:
            ids = torch.randint(shape.count or 2, size, generator=random)
            made.append(ids.to(getattr(torch, shape.dtype)))
        else:
            made.append(torch.rand(size, generator=random).to(getattr(torch, shape.dtype)))
    return tuple(made)


def _check(
    name: str,
    answer: Any,
    inputs: Mapping[str, TensorShape],
    outputs: int | None,
    shapes: str,
    places: tuple[int, ...],
) -> None:
    several = isinstance(answer, (dict, tuple, list))
    parts = list(answer.values()) if isinstance(answer, dict) else list(answer) if several else []
    found = parts if several else [answer]
    if not found or not all(isinstance(one, Tensor) for one in found):
        kinds = ", ".join(type(one).__name__ for one in found) or "nothing"
        raise BadValue(
            f"network `{name}` answers with {kinds}, not with tensors",
            hint="return one tensor, or several as a tuple or by name",
        )
    given = ", ".join(_shape(tuple(one.shape)) for one in found)
    says = f"network `{name}` answers {shapes} with {given}"
    if any(one.dim() < 1 or one.shape[0] != BATCH for one in found):
        raise BadValue(f"{says}, where a batch of {BATCH} comes first", hint="keep the batch axis")
    wanted = (BATCH, outputs or 0, *places)
    if places and tuple(found[0].shape) != wanted:
        raise BadValue(
            f"{says}, not with a score for each class and pixel, {_shape(wanted)}",
            hint="`unet` does; one of your own gives maps as large as its input, one a class",
        )
    if several or outputs is None:
        return
    [one] = found
    if outputs == 0:
        wanted = (BATCH, *next(iter(inputs.values())).shape)
        if tuple(one.shape) != wanted:
            raise BadValue(
                f"{says}, not with the {_shape(wanted)} that it is to reconstruct",
                hint="where there are no labels, as with `autoencoder` or `unet`, the input itself"
                " is the target",
            )
    elif outputs not in one.shape[1:2] + one.shape[-1:] or one.dim() < 2:
        raise BadValue(
            f"{says}, where {outputs} answers a sample are wanted",
            hint=f"end it with {outputs} values: {_shape((BATCH, outputs))}",
        )


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"
