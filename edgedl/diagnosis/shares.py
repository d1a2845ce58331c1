"""What each switch costs alone, and the share of the loss that the repair of a cause takes off."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgedl.core.progress import Progress, silent
from edgedl.diagnosis.case import Proposal
from edgedl.diagnosis.losses import Bounded, Meter, bounded_share
from edgedl.passes.switches import Setting, Switchboard

LEAST_SHARE = 0.1
MOST_CAUSES = 5
SINGLED_OUT = 8
FEWEST = 2
Clock = Callable[[], float]


@dataclass(frozen=True)
class Alone:
    """The loss of each switch on alone: by switch, by operator, on how many samples, and how many
    operators the time did not suffice for."""

    switches: Mapping[int, float]
    nodes: Mapping[str, float]
    samples: int
    unmeasured: int


def alone(
    board: Switchboard,
    meter: Meter,
    added: Mapping[str, float],
    seconds: float,
    progress: Progress = silent,
    clock: Clock = time.monotonic,
) -> Alone:
    """Switch on each operator's quantizers alone, all others off.

    Those of the worst eight operators are measured one by one; the others' loss is shared out
    evenly. The samples are as many as the time allows, two at least; where it does not suffice for
    that, the operators at which least is `added` are left out.
    """
    by_node: dict[str, list[int]] = {}
    for switch, one in enumerate(board.found):
        if switch not in board.unmatched:
            by_node.setdefault(one.node, []).append(switch)
    order = sorted(by_node, key=lambda node: -added.get(node, 0.0))
    began = clock()
    meter.take(FEWEST)({})
    took = clock() - began
    fits = seconds / (len(order) + 2 * SINGLED_OUT) / max(took, 1e-6) * FEWEST
    count = int(min(max(fits, FEWEST), len(meter.reference)))
    some = meter.take(count)
    base = float(some({}).mean())
    nodes: dict[str, float] = {}
    for i, node in enumerate(order):
        on: dict[int, Setting] = dict.fromkeys(by_node[node], "given")
        nodes[node] = max(float(some(on).mean()) - base, 0.0)
        progress("one operator at a time", i + 1, len(order))
        if clock() - began > seconds and i >= SINGLED_OUT:
            break
    losses = {
        switch: nodes[node] / len(by_node[node]) for node in nodes for switch in by_node[node]
    }
    for node in sorted(nodes, key=lambda node: -nodes[node])[:SINGLED_OUT]:
        if len(by_node[node]) > 1:
            for switch in by_node[node]:
                losses[switch] = max(float(some({switch: "given"}).mean()) - base, 0.0)
    return Alone(losses, nodes, count, len(by_node) - len(nodes))


def attribute(
    meter: Meter, proposals: Sequence[Proposal], progress: Progress = silent
) -> list[tuple[Proposal, Bounded]]:
    """Causes by the share of the loss that their repair takes off, each on top of those before.

    The repair that takes most is done first, then the others are measured again; a rank begins
    where no repair of the one before takes a tenth of the whole any more.
    """
    state: dict[int, Setting] = dict(meter.board.all_on)
    whole = before = meter(state)
    left, found = list(proposals), list[tuple[Proposal, Bounded]]()
    for rank in sorted({proposal.rank for proposal in proposals}):
        while len(found) < MOST_CAUSES:
            best: tuple[float, Proposal, np.ndarray] | None = None
            several = [p for p in left if p.rank <= rank]
            for i, proposal in enumerate(several):
                after = meter(repaired(state, proposal))
                gain = float((before - after).sum())
                if best is None or gain > best[0]:
                    best = (gain, proposal, after)
                progress("trying repairs", i + 1, len(several))
            if best is None or best[0] < LEAST_SHARE * float(whole.sum()) or not best[0]:
                break
            _, proposal, after = best
            found.append((proposal, bounded_share(before - after, whole)))
            state, before = repaired(state, proposal), after
            left.remove(proposal)
    return sorted(found, key=lambda entry: -entry[1].value)


def repaired(state: dict[int, Setting], proposal: Proposal) -> dict[int, Setting]:
    """The settings with a proposal's in their place."""
    new = dict(state)
    for switch, setting in proposal.repair.items():
        if setting is None:
            new.pop(switch, None)
        else:
            new[switch] = setting
    return new
