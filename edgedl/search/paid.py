"""Operators put back to float, as many as the speed allows that may be paid for answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from edgedl.backends import Backend, in_scheme
from edgedl.core.target import SCHEMES
from edgedl.passes.crossings import Choices
from edgedl.search.candidates import Candidate, Trial, int8_candidate
from edgedl.search.costs import CostTable
from edgedl.search.harm import measured_harm
from edgedl.search.limits import BACK_TO_FLOAT, LEAST_US, by_harm
from edgedl.search.memory import judge
from edgedl.search.placement import Bench, priced, runs_for
from edgedl.search.ways import Ways

MOST_TRIALS = 4
# Of what may be paid, what the first trial is expected to cost.
AIM = 0.8


def paid(
    built: Backend,
    start: Candidate,
    ways: Ways,
    room: float,
    enough: Callable[[Trial], bool],
    measured: Callable[[Candidate], float],
    reduced: Mapping[str, object] | None = None,
) -> Iterator[tuple[Trial, float]]:
    """Trials with operators in float, and by which share each takes longer than `start`.

    The operators are taken by the noise that they were measured to bring into the answers, for each
    microsecond that float takes longer with the conversions around it. How many the room suffices
    for is guessed from these prices, and then found by timing: each trial says how many the next
    one has.

    Args:
        room: the share by which a trial may take longer than `start`.
        enough: whether answers are near enough; then fewer operators are tried.
        measured: by which share a candidate takes longer than `start`, timed beside it.
        reduced: settings in which float operators are faster than in those of `start`.

    Raises:
        EngineFailed: the engine refuses a model. Unsupported: it does not tell what operators take.
    """
    assert start.plan is not None
    assert start.method is not None
    assert start.prepared is not None
    backend = in_scheme(built, SCHEMES[start.plan.scheme])
    prepared, method, plan = start.prepared, start.method, start.plan
    settings = {**start.settings, **(reduced or {})}
    feed = ways.expected.feeds[0]
    runs = runs_for(backend, prepared.model, feed, ways.threads)
    bench = Bench(backend, feed, ways.threads, ways.progress, runs)
    table, found = priced(bench, replace(start, settings=settings), len(ways.calibration))
    prices = returning_us(table, found, plan.int8, backend.scheme.optional_outputs)
    guessed = by_harm(plan, prepared.model, prepared.histograms)
    harm = measured_harm(
        start, ways.expected, guessed, seconds=ways.effort.harm_seconds, progress=ways.progress
    )
    order = sorted(harm, key=lambda name: -harm[name] / prices.get(name, LEAST_US))
    placed = {d.node: d.reason for d in plan.decisions if d.precision == "float"}
    total_us = sum(table.us(found.signatures[n], "int8") or 0.0 for n in plan.int8)
    order = _within(order, prices, room * total_us)

    def attempt(count: int) -> Trial:
        kept = dict.fromkeys(order[:count], BACK_TO_FLOAT)
        candidate = int8_candidate(
            backend,
            prepared,
            method,
            keep_float={**placed, **kept},
            exact=[*start.exact, *kept],
            settings=settings,
            means=start.means,
            shifted=plan.shifted,
            narrow=plan.narrow,
            label=f"{start.label}, but {count} operator{'s' * (count > 1)}",
        )
        costs = table.rows(found, candidate.plan.int8 if candidate.plan is not None else ())
        return judge(replace(candidate, costs=costs), ways.expected, ways.threads)

    spent: dict[int, float] = {}
    near: set[int] = set()
    count = len(_within(order, prices, AIM * room * total_us))
    while 0 < count <= len(order) and count not in spent and len(spent) < MOST_TRIALS:
        trial = attempt(count)
        spent[count] = measured(trial.candidate)
        if enough(trial):
            near.add(count)
        yield trial, spent[count]
        count = next_count(spent, near, room, len(order))


def next_count(spent: Mapping[int, float], near: set[int], room: float, most: int) -> int:
    """How many operators the next trial has: fewer where answers are near enough, else as many as
    the room is expected to suffice for, on a line through what was measured.

    Args:
        spent: by how many were tried, the share that they took longer.
        near: those of them whose answers are near enough.
    """
    kept = {0: 0.0, **{n: share for n, share in spent.items() if share <= room}}
    enough = [n for n in kept if n in near]
    if enough:
        below = max((n for n in spent if n < min(enough)), default=0)
        return (below + min(enough)) // 2
    low = max(kept)
    above = [n for n in spent if n > low]
    if above:
        high = min(above)
        slope = (spent[high] - kept[low]) / (high - low)
        return low + int((room - kept[low]) / slope) if slope > 0 else low
    if not low or kept[low] <= 0:
        return min(most, max(1, 2 * low))
    return min(most, 2 * low, int(low * room / kept[low]))


def returning_us(
    table: CostTable, found: Choices, int8: Sequence[str], free_outputs: frozenset[str]
) -> dict[str, float]:
    """By how many microseconds each int8 operator takes longer in float where all others stay,
    with the conversions that come and go around it; 1 at least."""
    chosen = set(int8)
    us = {
        node: (table.us(found.signatures[node], "float") or 0.0)
        - (table.us(found.signatures[node], "int8") or 0.0)
        for node in chosen & found.signatures.keys()
    }
    for one in found.crossings:
        readers = [name for name in one.readers if name in chosen]
        quantize = table.crossing_us("quantize", one.elements, inside=one.producer is not None)
        dequantize = table.crossing_us("dequantize", one.elements, inside=not one.read_in_float)
        made = one.producer in chosen
        if made and found.operators.get(one.producer or "") in free_outputs:
            dequantize = 0.0
        in_float = one.read_in_float or len(readers) < len(one.readers)
        if made and one.producer is not None:
            us[one.producer] += quantize if readers else 0.0
            us[one.producer] -= dequantize if in_float else 0.0
        for reader in readers:
            if made and not in_float:
                us[reader] += dequantize
            if len(readers) == 1 and not made:
                us[reader] -= quantize
    return {node: max(LEAST_US, price) for node, price in us.items()}


def _within(order: Sequence[str], prices: Mapping[str, float], most_us: float) -> list[str]:
    """The operators in order, without those that would bring the sum beyond the most."""
    found: list[str] = []
    for name in order:
        if prices.get(name, LEAST_US) <= most_us:
            most_us -= prices.get(name, LEAST_US)
            found.append(name)
    return found
