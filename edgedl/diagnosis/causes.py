"""The causes that are known, one function each, and the table of them.

A cause is proposed with what would undo it: a wider grid, a grid by channel, a weight rounded
otherwise, or no quantizer at all. What the repair takes off the measured loss at the model's
outputs is the cause's share; no threshold decides but that share. To add a cause, write a function
that gives its proposals, here or beside others of its kind, and a line in `CAUSES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from edgedl.diagnosis.case import MOST_NAMED, Case, Proposal
from edgedl.diagnosis.channels import channels, per_tensor_weights
from edgedl.diagnosis.ranges import ranges

Cause = Callable[[Case], Iterator[Proposal]]


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
            worst = case.worst(switches)
            masks = [i for i in worst if cause == "softmax" and _masked(case, i)]
            sentence = f"8 bits are too few around {words}: {case.listed(worst)}"
            if masks:
                sentence = (
                    "the attention mask stretches the range before softmax, nothing is left for"
                    f" the scores: {case.listed(masks)}"
                )
            yield Proposal(
                f"{cause}_int8",
                dict.fromkeys(switches),
                sentence,
                tuple(
                    case.range_line(i) + ", its scores few of them"
                    if i in masks
                    else case.alone_line(i)
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
        tuple(case.alone_line(i) for i in sorted(few, key=lambda i: -case.alone.get(i, 0.0))[:4]),
        case.command("--max-drop 1%") + "   # puts them back to float",
        rank=2,
    )


CAUSES: Mapping[str, Cause] = {
    "ranges": ranges,
    "channels": channels,
    "per_tensor_weights": per_tensor_weights,
    "biases": biases,
    "sensitive": sensitive,
    "operators": operators,
}
