"""What every shrinking step promises, tried on every step of the table."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

from edgedl.core.errors import BadValue
from edgedl.core.fields import from_plain, to_plain
from edgedl.core.registry import resolve
from edgedl.train.shrink import STEPS
from edgedl.train.shrink.step import Change, Step, Training
from tests.train.shrink.ground import ground, plain
from tests.train.small import images, same, weights

# Settings by which a step does something to `network`, where it does not without any.
EXAMPLES: dict[str, dict[str, Any]] = {
    "prune": {"ratio": 0.5, "least": 1},
    "low_rank": {"rank": 0.25},
}


def network() -> nn.Module:
    """Convolutions with and without a norm, and two dense layers, wide enough to be shrunk."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 4),
    ).eval()


def step_of(name: str) -> Step:
    """The step of this name, as a recipe would have it."""
    kind = resolve(STEPS, name, kind="step")
    try:
        step: Step = from_plain(kind, {"name": name, **EXAMPLES.get(name, {})})
    except BadValue as error:
        pytest.fail(f"{error}; a step that needs settings has an example in EXAMPLES")
    return step


@functools.cache
def decided(name: str) -> Change:
    return plain(step_of(name).decide(network(), ground(), 0))


def applied(name: str) -> nn.Module:
    """The network with a change that was written down and read again."""
    changed = network()
    step_of(name).apply(changed, decided(name))
    return changed


@pytest.mark.parametrize("name", STEPS)
def test_is_a_frozen_dataclass_that_bears_its_name(name: str) -> None:
    kind, step = resolve(STEPS, name, kind="step"), step_of(name)
    assert issubclass(kind, Training)
    assert kind.__dataclass_params__.frozen
    assert step.name == name, f"`name` of {kind.__name__} is `{step.name}`, in the table `{name}`"
    assert step.promise in ("speed", "bytes", "accuracy")
    assert step.rounds >= 1
    assert isinstance(step.is_priced, bool)
    assert from_plain(kind, to_plain(step)) == step
    common = {field.name for field in dataclasses.fields(Training)} | {"name", "rounds"}
    for field in dataclasses.fields(kind):
        assert field.name in common or f" {field.name}: " in (kind.__doc__ or ""), (
            f"the docstring of {kind.__name__} does not say what `{field.name}` is"
        )


@pytest.mark.parametrize("name", STEPS)
def test_what_it_asks_of_training_is_checked(name: str) -> None:
    kind = resolve(STEPS, name, kind="step")
    with pytest.raises(BadValue, match="`epochs` is -1"):
        from_plain(kind, {"name": name, **EXAMPLES.get(name, {}), "epochs": -1})


@pytest.mark.parametrize("name", STEPS)
def test_looking_changes_nothing_and_is_plain_and_the_same_again(name: str) -> None:
    step, seen = step_of(name), network()
    before = weights(seen)
    step.check(seen, ground())
    step.foreseen(seen, ground())
    change = step.decide(seen, ground(), 0)
    assert same(before, weights(seen)), "`decide` looks; `apply` changes"
    assert plain(change) == change, "a change is plain JSON: lists, no tuples; text for keys"
    assert plain(step.decide(network(), ground(), 0)) == change


@pytest.mark.parametrize("name", STEPS)
def test_the_same_change_makes_the_same_network(name: str) -> None:
    first, second = applied(name), applied(name)
    assert same(weights(first), weights(second))
    step = step_of(name)
    moved = not same(weights(network()), weights(first))
    assert moved == (step.promise != "accuracy"), (
        f"`{name}` leaves the network as it was; settings by which it does not stand in EXAMPLES"
        if not moved
        else "a step that promises accuracy alone leaves the network as it is"
    )


@pytest.mark.parametrize("name", STEPS)
def test_what_it_makes_is_trained_and_settles_into_plain_weights(name: str) -> None:
    step, changed = step_of(name), applied(name).train()
    given = torch.from_numpy(images(8).source.arrays["x"])  # type: ignore[attr-defined]
    for _ in range(2):
        optimizer = torch.optim.SGD(changed.parameters(), lr=0.01)
        optimizer.zero_grad()
        loss = functional.cross_entropy(changed(given), torch.arange(8) % 4)
        loss.backward()
        assert all(one.grad is not None for one in changed.parameters() if one.requires_grad)
        optimizer.step()
    with torch.no_grad():
        before = changed.eval()(given)
        step.settle(changed)
        after = changed.eval()(given)
    assert after.shape == (8, 4)
    assert torch.isfinite(after).all()
    assert torch.allclose(before, after, atol=1e-5), "settling changes no answers"
    held = [n for n, one in changed.named_modules() if parametrize.is_parametrized(one)]
    assert not held, f"`settle` leaves parametrizations in {', '.join(held)}"
    assert isinstance(copy.deepcopy(changed), nn.Module)


@pytest.mark.parametrize("name", STEPS)
def test_what_it_promises_to_leave_is_there(name: str) -> None:
    step, changed = step_of(name), applied(name)
    step.settle(changed)
    zeros, before = (
        sum(int((one == 0).sum()) for one in net.parameters()) for net in (changed, network())
    )
    fewer = sum(one.numel() for one in changed.parameters()) < sum(
        one.numel() for one in network().parameters()
    )
    assert step.makes_zeros == (zeros > before and not fewer)
    if step.promise == "speed":
        assert fewer, "what promises speed leaves fewer parameters"
