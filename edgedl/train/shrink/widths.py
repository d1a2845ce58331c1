"""How many channels each group keeps: the most score for a price of all layers.

The price is any function of layers' shapes: their time on a device, stairs and all, or their
multiplications. Groups meet in layers, which read one and make another, so that nothing is gained
by ranking channels alone: widths are chosen by Lagrangian relaxation (Everett, Generalized Lagrange
Multiplier Method, 1963). At a rate of score for price, groups in turn take their best width while
the others hold still; the rate is bisected until the budget is met, and what is left of that is
spent greedily and by exchanges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgedl.core.errors import BadValue, OutOfReach
from edgedl.core.layers import Group, Layer, LayerShape

Price = Callable[[Sequence[LayerShape]], list[float]]
# Widths that a group may choose from, at most: each is a shape to be timed for each of its layers.
MOST = 16
SWEEPS = 12
HALVINGS = 24
EXCHANGES = 64
AT_ONCE = 8
State = tuple[int, ...]


class Cuttable(Protocol):
    """A network's groups and layers."""

    @property
    def groups(self) -> tuple[Group, ...]: ...
    @property
    def layers(self) -> tuple[Layer, ...]: ...


@dataclass(frozen=True)
class Widths:
    """What was chosen.

    Attributes:
        kept: channels of each group.
        price: of all layers with these widths.
        before: of all layers as they are.
        score: what is kept, as a share of all score.
    """

    kept: Mapping[str, int]
    price: float
    before: float
    score: float


class Prices:
    """A price that is asked for many shapes at once, and for none twice.

    Attributes:
        calls: how often it was asked.
    """

    def __init__(self, price: Price) -> None:
        self._price = price
        self._known: dict[LayerShape, float] = {}
        self.calls = 0

    def __call__(self, shapes: Sequence[LayerShape]) -> list[float]:
        """The price of each.

        Raises:
            BadValue: one is negative or no number.
        """
        unknown = [shape for shape in dict.fromkeys(shapes) if shape not in self._known]
        if unknown:
            self.calls += 1
            for shape, price in zip(unknown, self._price(unknown), strict=True):
                if not (np.isfinite(price) and price >= 0):
                    raise BadValue(f"the price of {shape} is {price}", hint="0 or more")
                self._known[shape] = float(price)
        return [self._known[shape] for shape in shapes]


def macs(shapes: Sequence[LayerShape]) -> list[float]:
    """Multiplications with a sum, as a price to compare with."""
    return [float(shape.macs) for shape in shapes]


def candidates(group: Group, step: int | None = None, least: int = 1) -> list[int]:
    """Widths that a group may have, ascending, its own the last.

    Args:
        step: widths are its multiples; None: single channels below 16, by 4 below 64, by 8 from
            there on, and further apart where that were more than 16 widths. Where units go whole,
            multiples of the unit, too.
        least: channels that stay.
    """
    by = step or (1 if group.size < 16 else 4 if group.size < 64 else 8)
    by = int(np.lcm(by, group.unit))
    if step is None:
        by *= -(-group.size // (by * MOST))
    found = [n for n in range(by, group.size, by) if n >= least]
    return [*found, group.size]


def best_widths(
    structure: Cuttable,
    scores: Mapping[str, np.ndarray],
    price: Price,
    budget: float,
    *,
    step: int | None = None,
    least: int = 1,
) -> Widths:
    """The widths that keep most score while all layers together cost no more than the budget.

    Args:
        scores: of each group's units, [units], 0 or more; a width keeps the largest.
        price: of shapes; it is asked in few calls, and never twice for the same.
        budget: in the price's unit.
        step, least: see `candidates`.

    Raises:
        OutOfReach: no widths that are found cost as little as the budget.
    """
    problem = _Problem(structure, scores, price, step, least)
    full = tuple(len(one) - 1 for one in problem.widths)
    fewest = (0,) * len(full)
    before, lowest = problem.totals([full, fewest])
    if before <= budget:
        return problem.result(full, before)
    seen = {fewest: lowest}
    low, high = 0.0, 1.0 / max(before, 1e-12)
    state = full
    for _ in range(HALVINGS):
        state = problem.descend(state, high)
        [seen[state]] = problem.totals([state])
        if seen[state] <= budget or state == fewest:
            break
        low, high = high, 4 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        tries = [problem.descend(start, middle) for start in dict.fromkeys((state, full))]
        seen.update(zip(tries, problem.totals(tries), strict=True))
        fits = [one for one in tries if seen[one] <= budget]
        low, high = (low, middle) if fits else (middle, high)
        state = max(fits or tries, key=problem.score)
    able = [one for one, total in seen.items() if total <= budget]
    if not able:
        # narrow layers may cost more than wider ones: the fewest channels need not be the cheapest
        lowest = min(seen.values())
        raise OutOfReach(
            f"the cheapest widths that were found cost {lowest:.6g} of {before:.6g}, and"
            f" {budget:.6g} are allowed",
            hint=_way_out(lowest, before),
        )
    ends = [
        problem.spend(start, seen[start], budget)
        for start in sorted(able, key=lambda one: (-problem.score(one), one))[:3]
    ]
    best, total = max(ends, key=lambda one: (problem.score(one[0]), -one[1]))
    return problem.result(best, total)


def _way_out(lowest: float, before: float) -> str:
    """What may be asked for instead, the share rounded up."""
    if lowest >= before:
        return "fewer channels are no cheaper here: leave the step out"
    share = np.ceil(1000 * lowest / before) / 1000
    return f"a larger share ({share:.3f} at least), or a smaller `least` or `round_to`"


def even_widths(
    structure: Cuttable, share: float, *, step: int | None = None, least: int = 1
) -> dict[str, int]:
    """The same share of each group's channels: the width nearest to it, the larger of two."""
    found = {}
    for group in structure.groups:
        able = candidates(group, step, least)
        found[group.name] = min(able, key=lambda n: (abs(n - share * group.size), -n))
    return found


def even_within(
    structure: Cuttable, price: Price, budget: float, *, step: int | None = None, least: int = 1
) -> dict[str, int]:
    """The largest share of each group's channels, by hundredths, that costs no more.

    Raises:
        OutOfReach: even the fewest channels do.
    """
    asked = price if isinstance(price, Prices) else Prices(price)
    shares = np.arange(100, -1, -1) / 100
    tries = [even_widths(structure, float(one), step=step, least=least) for one in shares]
    tables = [shapes_of(structure, kept) for kept in tries]
    prices = iter(asked([shape for table in tables for shape in table]))
    for kept, table in zip(tries, tables, strict=True):
        total = sum(next(prices) for _ in table)
        if total <= budget:
            return kept
    before = sum(asked(shapes_of(structure, {})))
    raise OutOfReach(
        f"even with the fewest channels the layers cost {total:.6g} of {before:.6g}, and"
        f" {budget:.6g} are allowed",
        hint=_way_out(total, before),
    )


def shapes_of(structure: Cuttable, kept: Mapping[str, int]) -> list[LayerShape]:
    """All layers' shapes with these widths; groups that are not named stay as they are."""
    gone = {g.name: g.size - kept.get(g.name, g.size) for g in structure.groups}
    return [layer.cut(gone) for layer in structure.layers]


class _Problem:
    """Widths by their place among each group's candidates."""

    def __init__(
        self,
        structure: Cuttable,
        scores: Mapping[str, np.ndarray],
        price: Price,
        step: int | None,
        least: int,
    ) -> None:
        self.groups = structure.groups
        self.layers = structure.layers
        self.price = price if isinstance(price, Prices) else Prices(price)
        self.widths = [np.array(candidates(group, step, least)) for group in self.groups]
        every = sum(float(np.sum(scores[group.name])) for group in self.groups) or 1.0
        self.values = []
        for group, widths in zip(self.groups, self.widths, strict=True):
            ranked = np.sort(np.asarray(scores[group.name], np.float64))[::-1] / every
            kept = np.concatenate([[0.0], np.cumsum(ranked)])
            self.values.append(kept[widths // group.unit])
        place = {group.name: index for index, group in enumerate(self.groups)}
        self.of_layer = [
            tuple(sorted({place[n] for n in (*layer.reads, *layer.makes) if n in place}))
            for layer in self.layers
        ]
        self.layers_of: list[list[int]] = [[] for _ in self.groups]
        for index, met in enumerate(self.of_layer):
            for one in met:
                self.layers_of[one].append(index)
        self.turns = self._turns()
        self._shapes: dict[tuple[int, State], LayerShape] = {}

    def _turns(self) -> list[list[int]]:
        """Groups that meet in no layer, and so can choose at once."""
        turns: list[list[int]] = []
        for index in range(len(self.groups)):
            near = {one for layer in self.layers_of[index] for one in self.of_layer[layer]}
            free = next((turn for turn in turns if not near & set(turn)), None)
            if free is None:
                turns.append([index])
            else:
                free.append(index)
        return turns

    def shape(self, layer: int, state: Sequence[int]) -> LayerShape:
        met = self.of_layer[layer]
        key = (layer, tuple(state[one] for one in met))
        if key not in self._shapes:
            gone = {
                self.groups[one].name: self.groups[one].size - int(self.widths[one][state[one]])
                for one in met
            }
            self._shapes[key] = self.layers[layer].cut(gone)
        return self._shapes[key]

    def score(self, state: State) -> float:
        return float(sum(v[place] for v, place in zip(self.values, state, strict=True)))

    def totals(self, states: Sequence[State]) -> list[float]:
        """The price of all layers in each state."""
        count = len(self.layers)
        prices = self.price([self.shape(i, state) for state in states for i in range(count)])
        return [float(sum(prices[n * count : (n + 1) * count])) for n in range(len(states))]

    def rows(self, state: State, chosen: Iterable[int]) -> dict[int, np.ndarray]:
        """For each of these groups, what its layers cost for each of its widths, the others' as
        they are."""
        wanted = list(chosen)
        shapes: list[LayerShape] = []
        for one in wanted:
            for place in range(len(self.widths[one])):
                other = (*state[:one], place, *state[one + 1 :])
                shapes.extend(self.shape(layer, other) for layer in self.layers_of[one])
        prices: np.ndarray = np.array(self.price(shapes), np.float64)
        found, start = {}, 0
        for one in wanted:
            rows, columns = len(self.widths[one]), len(self.layers_of[one])
            found[one] = prices[start : start + rows * columns].reshape(rows, columns).sum(1)
            start += rows * columns
        return found

    def descend(self, state: State, rate: float) -> State:
        """Groups choose in turn, score less `rate` times price, until none would change."""
        for _ in range(SWEEPS):
            start = state
            for turn in self.turns:
                rows = self.rows(state, turn)
                new = list(state)
                for one in turn:
                    worth = self.values[one] - rate * rows[one]
                    if worth.max() > worth[state[one]] + 1e-15:
                        new[one] = int(np.argmax(worth))
                state = tuple(new)
            if state == start:
                break
        return state

    def spend(self, state: State, total: float, budget: float) -> tuple[State, float]:
        """Takes single moves, then exchanges of two, that keep more score within the budget."""
        for _ in range(EXCHANGES):
            rows = self.rows(state, range(len(self.groups)))
            moves = [
                (one, place, float(self.values[one][place] - self.values[one][state[one]]),
                 float(rows[one][place] - rows[one][state[one]]))
                for one in range(len(self.groups))
                for place in range(len(self.widths[one]))
                if place != state[one]
            ]  # fmt: skip
            room = budget - total
            single = [m for m in moves if m[2] >= 0 and m[3] <= room and (m[2] > 0 or m[3] < 0)]
            if single:
                one, place, _, _ = max(single, key=lambda m: _rate(m[2], m[3]))
                state = (*state[:one], place, *state[one + 1 :])
                [total] = self.totals([state])
                continue
            better = self._exchange(state, moves, room, budget)
            if better is None:
                break
            state, total = better
        return state, total

    def _exchange(
        self,
        state: State,
        moves: list[tuple[int, int, float, float]],
        room: float,
        budget: float,
    ) -> tuple[State, float] | None:
        """One group wider, another narrower, for more score; the best that fits, or None."""
        up = [m for m in moves if m[2] > 0]
        down = [m for m in moves if m[2] < 0 and m[3] < 0]
        pairs = [
            (a[2] + b[2], a, b)
            for a in up
            for b in down
            if a[0] != b[0] and a[2] + b[2] > 1e-12 and a[3] + b[3] <= 1.2 * room - 0.2 * b[3]
        ]
        pairs.sort(key=lambda pair: (-pair[0], pair[1][:2], pair[2][:2]))
        for start in range(0, min(len(pairs), EXCHANGES), AT_ONCE):
            tries = []
            for _, a, b in pairs[start : start + AT_ONCE]:
                new = list(state)
                new[a[0]], new[b[0]] = a[1], b[1]
                tries.append(tuple(new))
            for one, total in zip(tries, self.totals(tries), strict=True):
                if total <= budget:
                    return one, total
        return None

    def result(self, state: State, total: float) -> Widths:
        kept = {
            group.name: int(widths[place])
            for group, widths, place in zip(self.groups, self.widths, state, strict=True)
        }
        [before] = self.totals([tuple(len(one) - 1 for one in self.widths)])
        return Widths(kept, total, before, self.score(state))


def _rate(more: float, price: float) -> float:
    return np.inf if price <= 0 else more / price
