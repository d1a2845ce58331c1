"""The engine's other kernels, for the operators that they compute faster on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgedl.backends import Backend
from edgedl.core.ledger import Ledger
from edgedl.core.progress import Progress
from edgedl.passes.graph import read, short_named
from edgedl.runtime import engine
from edgedl.search.candidates import OTHER_KERNELS, Candidate, shipped_settings
from edgedl.search.costs import original_names
from edgedl.search.memory import careful, key_of_candidate, machine_parts

CLEARLY, CLEARLY_US = 0.95, 1.5
ROUNDS = 2


def with_other_kernels(
    built: Backend,
    candidate: Candidate,
    feed: Mapping[str, np.ndarray],
    threads: int,
    runs: int,
    progress: Progress,
) -> Candidate | None:
    """The candidate with those operators on the engine's other kernels that are faster there; None
    where none is, or the engine has no others.

    Both ways are profiled in turn, and an operator's least time of a few rounds is compared. What
    was found is noted, so that the same question costs nothing again.

    Raises:
        EngineFailed: the engine refuses the model.
    """
    able = [
        node.name
        for node in read(candidate.model.path).graph
        if node.name and node.op_type in built.other_kernels
    ]
    if not able:
        return None
    noted = Ledger.of(
        "kernels",
        candidate=key_of_candidate(candidate),
        threads=threads,
        machine=machine_parts(),
        inputs={name: list(array.shape) for name, array in sorted(feed.items())},
    )
    rows = list(noted.rows())
    if rows:
        faster = [name for name in rows[-1].get("faster", []) if name in able]
    else:
        progress(f"profiling {candidate.name} with other kernels", 0, 1)
        own, other = _least(candidate, able, feed, threads, runs)
        faster = faster_nodes(own, other)
        noted.add([{"faster": faster}])
    if not faster:
        return None
    label = f"{candidate.label}, {len(faster)} other kernel{'s' * (len(faster) > 1)}"
    return replace(_with(candidate, faster), label=label)


def faster_nodes(own_us: Mapping[str, float], other_us: Mapping[str, float]) -> list[str]:
    """The nodes whose other kernel takes clearly less than its own: by 5 %, and by 1.5 us."""
    return sorted(
        name
        for name in own_us.keys() & other_us.keys()
        if other_us[name] < min(CLEARLY * own_us[name], own_us[name] - CLEARLY_US)
    )


def _with(candidate: Candidate, nodes: Sequence[str]) -> Candidate:
    return replace(candidate, settings={**candidate.settings, OTHER_KERNELS: sorted(nodes)})


def _least(
    candidate: Candidate,
    nodes: Sequence[str],
    feed: Mapping[str, np.ndarray],
    threads: int,
    runs: int,
) -> tuple[dict[str, float], dict[str, float]]:
    """Each node's least microseconds of a few rounds, without the other kernels and with them."""
    found: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for _ in range(ROUNDS):
        for one, least in zip((candidate, _with(candidate, nodes)), found, strict=True):
            for name, us in _times(one, nodes, feed, threads, runs).items():
                least[name] = min(us, least.get(name, us))
    return found


def _times(
    candidate: Candidate,
    nodes: Sequence[str],
    feed: Mapping[str, np.ndarray],
    threads: int,
    runs: int,
) -> dict[str, float]:
    """Microseconds of the kernels that compute one of the nodes and no second one, by node."""
    run = engine(candidate.engine)
    with careful(candidate), short_named(candidate.model) as (path, names):
        settings = shipped_settings(candidate.settings, names)
        kernels = run.operators(path, feed, settings=settings, threads=threads, runs=runs)
    known, wanted = set(nodes) - names.keys(), frozenset(nodes)
    found: dict[str, float] = {}
    for kernel in kernels:
        mine = wanted & original_names((kernel.name, *kernel.layers), names, known)
        if len(mine) == 1 and kernel.us is not None:
            [name] = mine
            found[name] = found.get(name, 0.0) + kernel.us
    return found
