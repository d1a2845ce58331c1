"""The causes that are known, one function each, and the table of them.

A cause is proposed with what would undo it: a wider grid, a grid by channel, a weight rounded
otherwise, or no quantizer at all. What the repair takes off the measured loss at the model's
outputs is the cause's share; no threshold decides but that share. To add a cause, write a function
that gives its proposals, and a line in `CAUSES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from edgedl.diagnosis.case import (
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
# A range of which less than half is used wastes a bit; beyond its end by a tenth, it is another's.
HALF, A_TENTH = 0.5, 0.1
RARE = 1e-4
# Ranges by percentile or by least error leave out so many values on purpose.
LEFT_OUT = 2e-3
MOST_NAMED = 4
Cause = Callable[[Case], Iterator[Proposal]]


def ranges(case: Case) -> Iterator[Proposal]:
    """Ranges that do not fit the samples: clipped, too wide, or from unlike data altogether."""
    narrow: list[int] = []
    wide: list[int] = []
    rare: list[int] = []
    for switch in case.activations:
        low, high = case.walked[switch].used
        grid = case.grid(switch)
        given = max(grid.high - grid.low, 1e-30)
        if grid.least >= 0 and grid.low >= 0 and case.board.found[switch].operator != "input":
            low = max(low, 0.0)
        if max(high - grid.high, grid.low - low) > A_TENTH * given:
            (narrow if case.walked[switch].saturated > LEFT_OUT else rare).append(switch)
        elif max(high, 0) - min(low, 0) < HALF * given and not _fixed_by_symmetry(case, switch):
            wide.append(switch)
    repair = {i: covering(*case.walked[i].used, case.grid(i)) for i in (*narrow, *wide)}
    whole = {i: covering(*case.walked[i].used, case.grid(i)) for i in rare}
    many = len(repair) * 2 > len(case.activations) and len(repair) > 2
    inputs = [i for i in repair if case.board.found[i].operator == "input"]
    if many or inputs:
        yield Proposal(
            "calibration",
            repair,
            "calibration saw other data than these samples: "
            f"{len(repair)} of {len(case.activations)} ranges do not fit",
            tuple(
                _range_line(case, i)
                for i in dict.fromkeys((*inputs[:2], *_worst(case, (*narrow, *wide))))
            ),
            case.command(),
        )
    if many:
        return
    yield from _stretched(case, {*repair, *whole})
    for cause, switches, words in (
        ("clipped_range", narrow, "values are clipped: the range of {} ends before the data does"),
        ("wide_range", wide, "the range of {} is far wider than the data, codes lie idle"),
        ("clipped_range", rare, "rare values are clipped: the range of {} leaves them out"),
    ):
        if switches:
            named = _worst(case, switches)
            yield Proposal(
                cause,
                {i: {**repair, **whole}[i] for i in switches},
                words.format(_listed(case, switches)),
                tuple(_range_line(case, i) for i in named),
                case.command(),
            )


def _stretched(case: Case, others: set[int]) -> Iterator[Proposal]:
    """Ranges that rare values stretch, so that nearly all others share few codes."""
    found: dict[int, tuple[float, float]] = {}
    for switch in case.activations:
        grid, counts = case.grid(switch), case.walked[switch].counts
        if switch in others or counts is None or not counts.sum():
            continue
        sums = np.cumsum(counts) / counts.sum()
        first = int(np.searchsorted(sums, RARE / 2))
        last = int(np.searchsorted(sums, 1 - RARE / 2))
        ends = (np.asarray([first, last]) + grid.least - int(grid.zero)) * float(grid.scale)
        low, high = min(float(ends[0]), 0.0), max(float(ends[1]), 0.0)
        if 0 < high - low < HALF * (grid.high - grid.low):
            found[switch] = low, high
    if found:
        named = _worst(case, list(found))
        yield Proposal(
            "stretched_range",
            {i: covering(*span, case.grid(i)) for i, span in found.items()},
            f"rare values stretch the range of {_listed(case, list(found))}, nearly all others"
            " share few codes",
            tuple(
                f"`{case.name(i)}` has codes for {case.grid(i).low:.3g} to {case.grid(i).high:.3g},"
                f" {100 * (1 - RARE):g} % of its values lie in {found[i][0]:.3g} to"
                f" {found[i][1]:.3g}"
                for i in named
            ),
            case.command() + "   # tries ranges by percentile and by error",
        )


def _fixed_by_symmetry(case: Case, switch: int) -> bool:
    """A symmetric signed grid under data of one sign uses half of its codes, whatever its scale."""
    grid = case.grid(switch)
    low, high = case.walked[switch].used
    return grid.least < 0 and int(grid.zero.max()) == 0 and max(-low, high) > HALF * grid.high


def _range_line(case: Case, switch: int) -> str:
    walked, grid = case.walked[switch], case.grid(switch)
    low, high = walked.used
    clipped = f", {100 * walked.saturated:.1f} % of its values clipped" if walked.clipped else ""
    return (
        f"`{case.name(switch)}` spans {low:.3g} to {high:.3g}, its codes {grid.low:.3g} to"
        f" {grid.high:.3g}{clipped}"
    )


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
                tuple(_channel_line(case, i) for i in _worst(case, switches)),
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
    worst = _worst(case, switches)[0]
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


def biases(case: Case) -> Iterator[Proposal]:
    """int32 biases whose scale is too coarse, or too fine for 32 bits."""
    switches = [
        i
        for i, one in enumerate(case.board.found)
        if one.kind == "bias" and i not in case.board.unmatched
    ]
    lines = []
    for switch in switches:
        grid = case.board.found[switch].grid
        array = case.board.float_of(switch)
        if grid is None or array is None or not array.size:
            continue
        gap = np.abs(case.board.given(switch) - array)
        lines.append((float(gap.max()), switch, float(np.abs(array).max())))
    lines.sort(reverse=True)
    if switches:
        yield Proposal(
            "int32_bias",
            dict.fromkeys(switches),
            f"{len(switches)} biases are stored in int32 with the scales of input and weights,"
            " too coarse or too small for them",
            tuple(
                f"`{case.name(i)}` is off by up to {gap:.3g}, its largest value is {top:.3g}"
                for gap, i, top in lines[:MOST_NAMED]
            ),
            case.command() + "   # biases stay float",
        )


SENSITIVE: Mapping[str, tuple[frozenset[str], str]] = {
    "softmax": (frozenset({"Softmax", "LogSoftmax", "Exp"}), "softmax"),
    "norm": (
        frozenset(
            {
                "LayerNormalization", "SkipLayerNormalization", "InstanceNormalization", "Pow",
                "Sqrt", "Reciprocal", "RMSNormalization", "GroupNormalization",
                "SimplifiedLayerNormalization", "ReduceL2", "LpNormalization",
            }
        ),
        "layer norm",
    ),
    "gelu": (frozenset({"Erf", "Gelu", "FastGelu", "BiasGelu", "Tanh", "QuickGelu"}), "GELU"),
    "silu": (frozenset({"Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Mish"}), "SiLU or a gate"),
}  # fmt: skip


def sensitive(case: Case) -> Iterator[Proposal]:
    """Operators that 8 bits do not suffice for, whatever the range."""
    for cause, (kinds, words) in SENSITIVE.items():
        switches = [
            i
            for i, one in enumerate(case.board.found)
            if one.kind == "activation"
            and (case.maker(i) in kinds or any(kind in kinds for _, kind in one.readers))
        ]
        if switches:
            worst = _worst(case, switches)
            masks = [i for i in worst if cause == "softmax" and _masked(case, i)]
            sentence = f"8 bits are too few around {words}: {_listed(case, worst)}"
            if masks:
                sentence = (
                    "the attention mask stretches the range before softmax, nothing is left for"
                    f" the scores: {_listed(case, masks)}"
                )
            yield Proposal(
                f"{cause}_int8",
                dict.fromkeys(switches),
                sentence,
                tuple(
                    _range_line(case, i) + ", its scores few of them"
                    if i in masks
                    else _alone_line(case, i)
                    for i in worst
                ),
                case.command("--max-drop 1%") + "   # puts such operators back to float",
                rank=1,
            )


def _masked(case: Case, switch: int) -> bool:
    """Whether a tensor reaches a hundred times further down than up, as scores with a mask do."""
    if switch not in case.walked or case.walked[switch].low is None:
        return False
    low, high = case.walked[switch].used
    return low < -100 * max(high, 1e-30)


def operators(case: Case) -> Iterator[Proposal]:
    """The operators that lose most, where nothing more special explains it."""
    by_node: dict[str, list[int]] = {}
    for switch, one in enumerate(case.board.found):
        by_node.setdefault(one.node, []).append(switch)
    harm = {
        node: sum(case.alone.get(i, 0.0) for i in switches) for node, switches in by_node.items()
    }
    total = sum(harm.values())
    worst = sorted(harm, key=lambda node: -harm[node])
    if not total or len(worst) < 4:
        return
    chosen, part = [], 0.0
    for node in worst[: max(1, min(3, len(worst) // 4))]:
        chosen.append(node)
        part += harm[node]
    few = [i for node in chosen for i in by_node[node] if i not in case.board.unmatched]
    heads = [next(i for i in by_node[node]) for node in chosen]
    yield Proposal(
        "sensitive_operators",
        dict.fromkeys(few),
        ("one operator needs" if len(chosen) == 1 else f"{len(chosen)} operators need")
        + " more than 8 bits: "
        + ", ".join(case.operator(i) for i in heads),
        tuple(_alone_line(case, i) for i in sorted(few, key=lambda i: -case.alone.get(i, 0.0))[:4]),
        case.command("--max-drop 1%") + "   # puts them back to float",
        rank=2,
    )


def _alone_line(case: Case, switch: int) -> str:
    kind = case.board.found[switch].kind
    what = f"the {kind} `{case.name(switch)}`" if kind != "activation" else f"`{case.name(switch)}`"
    alone = case.alone.get(switch)
    if alone is None:
        return f"{what} at {case.operator(switch)}"
    return f"{what} at {case.operator(switch)}: alone it makes {100 * alone:.2g} % noise"


def _worst(case: Case, switches: tuple[int, ...] | list[int]) -> list[int]:
    unique = list(dict.fromkeys(switches))
    return sorted(unique, key=lambda i: -case.alone.get(i, 0.0))[:MOST_NAMED]


def _listed(case: Case, switches: list[int]) -> str:
    named = [f"`{case.name(i)}`" for i in _worst(case, switches)[:2]]
    more = len(switches) - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")


CAUSES: Mapping[str, Cause] = {
    "ranges": ranges,
    "channels": channels,
    "per_tensor_weights": per_tensor_weights,
    "biases": biases,
    "sensitive": sensitive,
    "operators": operators,
}
