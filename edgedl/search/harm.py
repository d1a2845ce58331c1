"""What each int8 operator alone does to the model's answers, measured one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

import numpy as np

from edgedl.core.errors import EdgeError
from edgedl.core.ledger import Ledger
from edgedl.core.progress import Progress, silent
from edgedl.core.stats import AgreementMeter
from edgedl.core.target import MOVES
from edgedl.passes.crossings import GEMM_PARTS
from edgedl.passes.switches import Settings, Switchboard, switchboard
from edgedl.search.candidates import Candidate, Reference
from edgedl.search.memory import key_of_candidate

SECONDS = 20.0
SAMPLES = 8
Clock = Callable[[], float]


def measured_harm(
    candidate: Candidate,
    expected: Reference,
    order: Sequence[str],
    *,
    seconds: float = SECONDS,
    progress: Progress = silent,
    clock: Clock = time.monotonic,
) -> dict[str, float]:
    """By int8 operator, the share of noise in the answers' power where nothing else is rounded.

    In the float model, the weights of one operator and the tensors that it reads are rounded as the
    plan says; a tensor's noise is shared out among its readers. What was measured is noted. An
    operator is missing where the time did not suffice, and so are all where the graph cannot be
    taken apart.

    Args:
        order: the operators, those first that are measured first.
        seconds: budget; two operators at least are measured.
    """
    assert candidate.prepared is not None
    few = expected.take(SAMPLES)
    noted = Ledger.of("harm", candidate=key_of_candidate(candidate), expected=few.digest)
    for row in noted.rows():
        return {str(name): float(noise) for name, noise in row.get("harm", {}).items()}
    try:
        with switchboard(candidate.model, (candidate.prepared.model,), {}) as board:
            found = _measured(board, few, order, seconds, progress, clock)
    except EdgeError:
        return {}
    noted.add([{"harm": found}])
    return found


def _measured(
    board: Switchboard,
    few: Reference,
    order: Sequence[str],
    seconds: float,
    progress: Progress,
    clock: Clock,
) -> dict[str, float]:
    began = clock()
    base, noise = _noise(board, {}, few), dict[int, float]()
    found: dict[str, float] = {}
    switches = _switches(board, frozenset(order))
    for i, node in enumerate(order):
        if i >= 2 and clock() - began > seconds:
            break
        for switch, _ in switches.get(node, ()):
            if switch not in noise:
                noise[switch] = max(0.0, _noise(board, {switch: "given"}, few) - base)
        found[node] = sum(noise[switch] / readers for switch, readers in switches.get(node, ()))
        progress("what each operator does to the answers", i + 1, len(order))
    return found


def _switches(board: Switchboard, wanted: Collection[str]) -> dict[str, list[tuple[int, int]]]:
    """By operator, what is rounded for it, and how many operators each of them is rounded for."""
    consumers: dict[str, list[str]] = {}
    for node, tensors in board.inputs_of.items():
        for tensor in tensors:
            consumers.setdefault(tensor, []).append(node)
    found: dict[str, list[tuple[int, int]]] = {}
    for switch, one in enumerate(board.found):
        if one.kind == "bias" or switch in board.unmatched:
            continue
        waiting = [one.node] if one.kind == "weight" else [name for name, _ in one.readers]
        seen, readers = set(waiting), set()
        while waiting:
            name = waiting.pop()
            if _whole(name) in wanted:
                readers.add(_whole(name))
            elif board.operators.get(name) in MOVES:
                behind = set(consumers.get(board.tensors[name], ())) - seen
                waiting += behind
                seen |= behind
        for name in readers:
            found.setdefault(name, []).append((switch, len(readers)))
    return found


def _whole(name: str) -> str:
    """The operator that placing wrote as two, by the name of one of them."""
    for part in GEMM_PARTS:
        name = name.removesuffix(part)
    return name


def _noise(board: Switchboard, settings: Settings, few: Reference) -> float:
    meter = AgreementMeter()
    with board.open(settings) as session:
        for feed, wanted in zip(few.feeds, few.answers, strict=True):
            meter.add(wanted, session.run(feed))
    return float(np.power(10.0, -meter.result().sqnr_db / 10))
