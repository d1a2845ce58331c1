"""Causes that lie in channels: one scale for those that are wildly unlike."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedl.diagnosis.case import (
    HALF,
    MOST_NAMED,
    Case,
    Proposal,
    by_channel,
    channel_axis,
    covering,
    spans,
    weights_by_channel,
)
from edgedl.diagnosis.walk import times_median
from edgedl.passes.switches import Setting

# A channel that is 4 times wider than the median one costs that one two of its eight bits.
TWO_BITS = 4.0


def channels(case: Case) -> Iterator[Proposal]:
    """One scale for channels that are wildly unlike: by a concat, a batch norm, or an outlier."""
    groups: dict[str, list[int]] = {"shared_scale": [], "batch_norm": [], "outlier_channel": []}
    repair: dict[int, Setting | None] = {}
    for switch in case.activations:
        walked = case.walked[switch]
        if walked.axis is None or walked.low is None or walked.high is None:
            continue
        if times_median(spans(walked)) < TWO_BITS and not _unlike(case, switch):
            continue
        repair[switch] = by_channel(walked.low, walked.high, case.grid(switch), walked.axis)
        groups[_origin(case, switch)].append(switch)
    for switch in _siblings(case):
        if switch not in repair:
            repair[switch] = covering(*case.walked[switch].used, case.grid(switch))
            groups["shared_scale"].append(switch)
    for cause, switches in groups.items():
        if switches:
            yield Proposal(
                cause,
                {i: repair[i] for i in switches},
                _channel_sentence(case, cause, switches),
                tuple(_channel_line(case, i) for i in case.worst(switches)),
                case.command("--max-drop 1%"),
            )


def _unlike(case: Case, switch: int) -> bool:
    """Whether a concat put channels of wildly unlike sizes into one tensor, whichever are more."""
    if case.maker(switch) != "Concat":
        return False
    sizes = spans(case.walked[switch])
    alive = sizes[sizes > 0]
    return bool(alive.size and alive.max() > TWO_BITS**2 * alive.min())


def _origin(case: Case, switch: int) -> str:
    if case.maker(switch) == "Concat":
        return "shared_scale"
    norm = _norm(case, switch)
    return "batch_norm" if norm and times_median(norm[1]) > TWO_BITS else "outlier_channel"


def _norm(case: Case, switch: int) -> tuple[str, np.ndarray] | None:
    one = case.board.found[switch]
    names = (one.tensor.removesuffix("_activation"), one.node)
    float_node = next(
        (
            case.board.float_nodes[w.stored]
            for w in case.board.found
            if w.node == one.node and w.stored in case.board.float_nodes and w.kind == "weight"
        ),
        "",
    )
    return case.norms.get(*(case.board.name_of(n) for n in names), float_node)


def _siblings(case: Case) -> list[int]:
    """Operands of a concat that share its scale, though less than half of it would do for them."""
    found = []
    for switch in case.activations:
        grid = case.grid(switch)
        if not any(kind == "Concat" for _, kind in case.board.found[switch].readers):
            continue
        low, high = case.walked[switch].used
        if max(high, 0) - min(low, 0) < HALF * (grid.high - grid.low):
            found.append(switch)
    return found


def _channel_sentence(case: Case, cause: str, switches: list[int]) -> str:
    worst = case.worst(switches)[0]
    walked = case.walked[worst]
    ratio = times_median(spans(walked))
    where = f"`{case.name(worst)}`"
    if cause == "shared_scale":
        return f"a concat puts tensors of unlike range under one scale: {where}"
    if cause == "batch_norm":
        norm = _norm(case, worst)
        assert norm is not None
        return (
            f"the batch norm `{norm[0]}` scales its channels wildly apart"
            f" ({times_median(norm[1]):.0f}x the median), one scale of {where} cannot serve all"
        )
    channel = int(np.argmax(spans(walked)))
    return f"channel {channel} of {where} is {ratio:.0f}x its neighbours, they are left few codes"


def _channel_line(case: Case, switch: int) -> str:
    walked = case.walked[switch]
    top = spans(walked)
    alive = top[top > 0]
    dead = int(np.sum(top == 0))
    few = np.median(alive) / float(case.grid(switch).scale) if alive.size else 0.0
    line = (
        f"`{case.name(switch)}`: channel {int(np.argmax(top))} reaches {top.max():.3g}, the median"
        f" channel {np.median(alive) if alive.size else 0:.3g}, about {few:.0f} codes"
    )
    return line + (f"; {dead} channels are dead" if dead else "")


def per_tensor_weights(case: Case) -> Iterator[Proposal]:
    """One scale for a weight whose channels differ."""
    repair: dict[int, Setting | None] = {}
    ratios: dict[int, float] = {}
    for switch in case.weights:
        one = case.board.found[switch]
        array = case.board.float_of(switch)
        if one.grid is None or one.grid.axis is not None or array is None:
            continue
        if array.ndim < 2 or one.node not in case.board.attributes:
            continue
        axis = channel_axis(case.board, one, array.ndim)
        if axis is None:
            continue
        least, most = one.grid.least, one.grid.most
        repair[switch] = weights_by_channel(array, axis, least, most)
        others = tuple(i for i in range(array.ndim) if i != axis)
        ratios[switch] = times_median(np.abs(array).max(axis=others))
    if repair:
        worst = sorted(repair, key=lambda i: -case.alone.get(i, ratios[i] * 1e-9))[:MOST_NAMED]
        yield Proposal(
            "per_tensor_weights",
            repair,
            f"{len(repair)} weights have one scale for all channels, which differ up to"
            f" {max(ratios.values()):.0f}x",
            tuple(
                f"`{case.name(i)}` of {case.operator(i)}: its widest output channel is"
                f" {ratios[i]:.1f}x the median one"
                for i in worst
            ),
            case.command() + "   # one scale a channel",
        )
