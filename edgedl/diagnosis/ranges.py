"""Causes that lie in the range of a whole tensor: clipped, too wide, stretched, or other data's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedl.diagnosis.case import HALF, Case, Proposal, covering

# Beyond its end by a tenth of itself, a range is another's.
A_TENTH = 0.1
RARE = 1e-4
# Ranges by percentile or by least error leave out so many values on purpose.
LEFT_OUT = 2e-3


def ranges(case: Case) -> Iterator[Proposal]:
    """Ranges that do not fit the samples: clipped, too wide, or from unlike data altogether."""
    narrow, wide, rare = _unfit(case)
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
                case.range_line(i)
                for i in dict.fromkeys((*inputs[:2], *case.worst((*narrow, *wide))))
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
            named = case.worst(switches)
            yield Proposal(
                cause,
                {i: {**repair, **whole}[i] for i in switches},
                words.format(case.listed(switches)),
                tuple(case.range_line(i) for i in named),
                case.command(),
            )


def _unfit(case: Case) -> tuple[list[int], list[int], list[int]]:
    """Ranges that clip what is no small part, that lie half idle, and that clip rare values."""
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
    return narrow, wide, rare


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
        named = case.worst(list(found))
        yield Proposal(
            "stretched_range",
            {i: covering(*span, case.grid(i)) for i, span in found.items()},
            f"rare values stretch the range of {case.listed(list(found))}, nearly all others"
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
