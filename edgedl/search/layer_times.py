"""What layers of any widths cost within a network on an engine, measured and kept."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any

from edgedl.backends import backend
from edgedl.core.errors import BadOption, nearest
from edgedl.core.layers import GATES, LayerShape
from edgedl.core.ledger import Ledger
from edgedl.core.progress import Progress, silent
from edgedl.passes.layers import Stand
from edgedl.runtime import engine as engine_of
from edgedl.search.layer_clock import Rig, Taken, time_stands
from edgedl.search.layer_grid import LEVELS, Grid, family_of
from edgedl.search.memory import machine_parts

Timer = Callable[[Rig, Sequence[Stand]], list[Taken]]

BATCH = 8
# A guess at what one stand takes to be made, opened and timed, until the first were.
PACE_SECONDS = 0.2
FEW, MANY, FEW_DEEP = (4, 1), (8, 1), (8, 2)
# A few of a kind in a model, so that what one costs stands out of what a call costs.
MODEL_US, MACS_PER_US, LEAST_US = 64.0, 50_000.0, 0.05
LEAST_ROWS, MOST_ROWS = 4, 8
MOST_WEIGHTS = 8 << 20
CHANNELS = (1, 4, 16, 64, 256, 1024, 4096, 16384)


@dataclass(frozen=True)
class Around:
    """What stands around layers in a model, in microseconds.

    Attributes:
        call: of the call itself, and of quantizing and laying out the input.
        read: of reading what one layer made.
    """

    call: float
    read: float


class LayerTimes:
    """Prices of layers, in microseconds of one call with a batch of 1.

    A layer is timed as a few rows side by side in one small model, written as models are that ship:
    quantizers on both sides, rectifier fused, a scale for each output channel. What the call, the
    input's quantizer and the readers behind the rows take is measured in models of other layers,
    and taken off. Times are ratios to a yardstick's beside them. All are kept in the store, by
    machine, engine, version, settings, scheme and threads.

    Where the engine has no int8 kernel for a layer its price is that in float32; where the time is
    up, prices stand between those of a grid of widths. `said` tells how many.

    Args:
        engine: its name.
        precision: `int8`, or one of the engine's float precisions.
        threads: processor threads for one call.
        scheme: of the engine's, how int8 is written; its usual one where None.
        settings: how the engine opens what ships; those of the precision where None.
        most_seconds: of all measuring that this object does, but for a grid's corners and what
            stands around layers.
        timer: what times stands.
        seconds: a clock.

    Raises:
        BadOption: unknown engine or precision. Missing: the engine is not installed.
    """

    def __init__(
        self,
        engine: str,
        precision: str = "int8",
        threads: int = 1,
        *,
        scheme: str | None = None,
        settings: Mapping[str, Any] | None = None,
        most_seconds: float = 180.0,
        progress: Progress = silent,
        timer: Timer = time_stands,
        seconds: Callable[[], float] = perf_counter,
    ) -> None:
        built = backend(engine)
        known = ("int8", *built.floats())
        if precision not in known:
            raise BadOption(
                f"{engine} computes no layer in `{precision}` here", hint=nearest(precision, known)
            )
        self.rig = Rig(
            engine,
            precision,
            scheme or built.scheme.name,
            dict(built.settings(precision) if settings is None else settings),
            dict(built.settings("float32")),
            threads,
        )
        self.most_seconds = most_seconds
        self.interpolated: set[LayerShape] = set()
        self.in_float: dict[LayerShape, str] = {}
        self.stands_timed = 0
        self._progress, self._timer, self._seconds = progress, timer, seconds
        self._spent = 0.0
        self._books = {rig.precision: _Book(rig) for rig in (self.rig, self.rig.in_float())}
        self._grids: dict[LayerShape, Grid] = {}

    def price(self, shapes: Sequence[LayerShape]) -> list[float]:
        """Microseconds of each layer within a network, in this order.

        Raises:
            EngineFailed: the engine takes a layer in no precision.
        """
        wanted = list(dict.fromkeys(shapes))
        left = self._measure(wanted)
        self.interpolated |= set(left)
        self.interpolated -= set(wanted) - set(left)
        prices = {s: self._between(s) if s in left else self._exact(s) for s in wanted}
        return [prices[shape] for shape in shapes]

    @property
    def said(self) -> list[str]:
        """What prices stand for that is not as asked, a sentence each."""
        found = []
        if self.interpolated:
            found.append(
                f"{len(self.interpolated)} layer shapes were not timed on {self.rig.engine}: their"
                " prices stand between those of a grid of widths"
            )
        if self.in_float:
            reasons = "; ".join(sorted(set(self.in_float.values())))
            found.append(
                f"{len(self.in_float)} layer shapes were timed in float on {self.rig.engine}:"
                f" {reasons}"
            )
        return found

    def _measure(self, wanted: Sequence[LayerShape]) -> set[LayerShape]:
        """Time layers that were not, as far as the time goes; what is left lies within grids."""
        missing = [s for s in wanted if not self._is_timed(s) and not self._is_covered(s)]
        families: dict[LayerShape, list[LayerShape]] = {}
        for shape in wanted:
            families.setdefault(family_of(shape), []).append(shape)
        if missing and not self._time_within(missing):
            missing = [shape for shape in missing if not self._is_timed(shape)]
            for count in LEVELS:
                for family in dict.fromkeys(family_of(shape) for shape in missing):
                    self._refine(families[family], count)
            self._time_within(missing)
        self._time_around([shape for shape in wanted if self._is_timed(shape)])
        return {shape for shape in wanted if not self._is_timed(shape)}

    def _refine(self, shapes: Sequence[LayerShape], count: int) -> None:
        """Time the points of a family's grid; all of the coarsest, of a finer one while there is
        time for them all."""
        grid = Grid.around(shapes).level(count)
        points = grid.points
        if count == LEVELS[0]:
            self._time(_stands_of([p for p in points if not self._is_timed(p)]))
        elif not self._time_within([p for p in points if not self._is_timed(p)]):
            return
        self._time_around(points)
        self._grids[grid.family] = grid

    def _time_within(self, shapes: Sequence[LayerShape]) -> bool:
        """Time all of these layers, or stop where there is no time for those that are left."""
        stands = _stands_of(shapes)
        for start in range(0, len(stands), BATCH):
            if self._spent + self._pace * (len(stands) - start) > self.most_seconds:
                return False
            self._time(stands[start : start + BATCH])
        return True

    @property
    def _pace(self) -> float:
        return self._spent / self.stands_timed if self.stands_timed else PACE_SECONDS

    def _time_around(self, shapes: Sequence[LayerShape]) -> None:
        """Time what stands around these layers, each in the precision that it computes in."""
        for precision, book in self._books.items():
            mine = [s for s in shapes if self._precision(s) == precision]
            self._time([stand for stand in _around(mine) if stand not in book.taken], precision)

    def _time(self, stands: Sequence[Stand], precision: str | None = None) -> None:
        """Time stands, and keep what was found, a batch at a time."""
        book = self._books[precision or self.rig.precision]
        for start in range(0, len(stands), BATCH):
            batch = stands[start : start + BATCH]
            self._progress(f"timing layers on {self.rig.engine}", start, len(stands))
            began = self._seconds()
            book.add(batch, self._timer(book.rig, batch))
            self._spent += self._seconds() - began
            self.stands_timed += len(batch)

    def _is_timed(self, shape: LayerShape) -> bool:
        return all(stand in self._books[self.rig.precision].taken for stand in _own(shape))

    def _is_covered(self, shape: LayerShape) -> bool:
        """Whether there is no time left to measure more, and no need."""
        grid = self._grids.get(family_of(shape))
        return grid is not None and self._spent >= self.most_seconds and grid.holds(shape)

    def _precision(self, shape: LayerShape) -> str:
        """What a timed layer computed in."""
        taken = self._books[self.rig.precision].taken[_own(shape)[0]]
        return self.rig.in_float().precision if taken.refused else self.rig.precision

    def _between(self, shape: LayerShape) -> float:
        return self._grids[family_of(shape)].between(shape, self._exact)

    def _exact(self, shape: LayerShape) -> float:
        taken = self._books[self.rig.precision].taken
        own = _own(shape)
        if taken[own[0]].refused:
            self.in_float[shape] = taken[own[0]].refused
        if shape.kind in GATES:
            few, many = own
            book = self._books[self.rig.precision]
            us = (book.us(many) - book.us(few)) / (many.rows - few.rows)
            return max(LEAST_US, us)
        book = self._books[self._precision(shape)]
        [stand] = own
        call = _at(shape, shape.inputs, True, book).call
        read = _at(shape, shape.outputs, False, book).read
        return max(LEAST_US, (self._books[self.rig.precision].us(stand) - call) / stand.rows - read)


class _Book:
    """Times of stands in one precision, and the ledger that they are kept in."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self._ledger = Ledger.of(
            "layers",
            machine=machine_parts(),
            engine=rig.engine,
            version=engine_of(rig.engine).version,
            precision=rig.precision,
            settings=dict(rig.settings),
            scheme=rig.scheme,
            threads=rig.threads,
        )
        self.taken: dict[Stand, Taken] = dict(_read(self._ledger))
        self._beside_us = min((t.beside_us for t in self.taken.values()), default=float("inf"))

    def us(self, stand: Stand) -> float:
        """What a call takes while the machine is as fast as it was seen at its fastest."""
        taken = self.taken[stand]
        return taken.us / taken.beside_us * self._beside_us

    def add(self, stands: Sequence[Stand], found: Sequence[Taken]) -> None:
        rows = []
        for stand, taken in zip(stands, found, strict=True):
            us, beside_us = (round(float(us), 3) for us in (taken.us, taken.beside_us))
            self.taken[stand] = Taken(us, taken.refused, beside_us)
            self._beside_us = min(self._beside_us, beside_us)
            rows.append({**asdict(stand), **asdict(self.taken[stand])})
        self._ledger.add(rows)


def _read(ledger: Ledger) -> Iterator[tuple[Stand, Taken]]:
    for row in ledger.rows():
        with contextlib.suppress(KeyError, TypeError, ValueError):
            fields: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in row["shape"].items()
            }
            stand = Stand(LayerShape(**fields), int(row["rows"]), int(row["depth"]))
            yield stand, Taken(float(row["us"]), str(row["refused"]), float(row["beside_us"]))


def _own(shape: LayerShape) -> tuple[Stand, ...]:
    """The models in which a layer is timed."""
    if shape.kind in GATES:
        return Stand(shape, 2), Stand(shape, 4)
    rows = min(max(MODEL_US / (shape.macs / MACS_PER_US + 2), LEAST_ROWS), MOST_ROWS)
    weights = shape.inputs * shape.outputs // shape.groups
    for length in shape.kernel:
        weights *= length
    return (Stand(shape, max(2, int(min(rows, MOST_WEIGHTS / weights)))),)


def _stands_of(shapes: Iterable[LayerShape]) -> list[Stand]:
    return [stand for shape in shapes for stand in _own(shape)]


def _neighbour(shape: LayerShape, channels: int, before: bool) -> LayerShape:
    """A cheap layer that reads and makes what stands before a layer, or behind it."""
    size = shape.size if before else shape.out_size
    if shape.kind == "linear":
        return LayerShape("linear", channels, channels, size)
    ones = (1,) * len(size)
    return LayerShape(
        "conv", channels, channels, size, (3,) * len(size), ones, ones * 2, ones, channels
    )


def _channels(width: int) -> tuple[int, ...]:
    """The one or two widths between which what stands around a layer is looked up."""
    if width in CHANNELS or width > CHANNELS[-1]:
        return (width,)
    right = bisect_right(CHANNELS, width)
    return CHANNELS[right - 1 : right + 1]


def _stands_around(neighbour: LayerShape) -> tuple[Stand, ...]:
    if neighbour.kind == "linear":
        return Stand(neighbour, 4, 0), Stand(neighbour, 8, 0)
    return tuple(Stand(neighbour, rows, depth) for rows, depth in (FEW, MANY, FEW_DEEP))


def _around(shapes: Iterable[LayerShape]) -> list[Stand]:
    """The models that tell what stands around these layers."""
    found: dict[Stand, None] = {}
    for shape in shapes:
        if shape.kind in GATES:
            continue
        for width, before in ((shape.inputs, True), (shape.outputs, False)):
            for channels in _channels(width):
                found |= dict.fromkeys(_stands_around(_neighbour(shape, channels, before)))
    return list(found)


def _at(shape: LayerShape, width: int, before: bool, book: _Book) -> Around:
    """What stands around a layer of this width, between the widths that were timed."""
    found = [
        (channels, _told(book, _neighbour(shape, channels, before)))
        for channels in _channels(width)
    ]
    for (low, left), (high, right) in pairwise(found):
        share = (width - low) / (high - low)
        call = left.call + share * (right.call - left.call)
        return Around(call, left.read + share * (right.read - left.read))
    return found[0][1]


def _told(book: _Book, neighbour: LayerShape) -> Around:
    """What a call of few rows, of many, and of many that are deeper tells."""
    us = [book.us(stand) for stand in _stands_around(neighbour)]
    row = (us[1] - us[0]) / 4
    layer = (us[2] - us[1]) / 8 if len(us) > 2 else 0.0
    return Around(max(0.0, 2 * us[0] - us[1]), max(0.0, row - layer))
