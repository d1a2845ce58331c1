"""The cheapest of all ways to give each operator one of two precisions, found exactly."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

NEVER = 1 << 60


@dataclass
class Network:
    """A directed network with integer capacities; node 0 is the source and node 1 the sink."""

    heads: list[int] = field(default_factory=list)
    room: list[int] = field(default_factory=list)
    leaving: list[list[int]] = field(default_factory=lambda: [[], []])

    def node(self) -> int:
        self.leaving.append([])
        return len(self.leaving) - 1

    def arc(self, tail: int, head: int, capacity: int) -> None:
        """An arc, and beside it the one that takes its flow back."""
        for start, end, space in ((tail, head, capacity), (head, tail, 0)):
            self.leaving[start].append(len(self.heads))
            self.heads.append(end)
            self.room.append(space)

    def source_side(self) -> list[bool]:
        """For every node whether it lies on the source's side of a minimum cut.

        Dinic's algorithm (Soviet Math. Doklady 11, 1970), without recursion.
        """
        while True:
            levels = self._levels()
            if levels[1] < 0:
                return [level >= 0 for level in levels]
            self._saturate(levels)

    def _levels(self) -> list[int]:
        levels = [-1] * len(self.leaving)
        levels[0] = 0
        queue = deque([0])
        while queue:
            tail = queue.popleft()
            for arc in self.leaving[tail]:
                head = self.heads[arc]
                if self.room[arc] and levels[head] < 0:
                    levels[head] = levels[tail] + 1
                    queue.append(head)
        return levels

    def _saturate(self, levels: list[int]) -> None:
        """Augment along shortest paths until none is left."""
        turn = [0] * len(self.leaving)
        path: list[int] = []
        place = 0
        while True:
            if place == 1:
                flow = min(self.room[arc] for arc in path)
                for arc in path:
                    self.room[arc] -= flow
                    self.room[arc ^ 1] += flow
                first = next(i for i, arc in enumerate(path) if not self.room[arc])
                place = self.heads[path[first] ^ 1]
                del path[first:]
            arcs = self.leaving[place]
            while turn[place] < len(arcs):
                arc = arcs[turn[place]]
                if self.room[arc] and levels[self.heads[arc]] == levels[place] + 1:
                    break
                turn[place] += 1
            if turn[place] < len(arcs):
                path.append(arcs[turn[place]])
                place = self.heads[path[-1]]
            elif path:
                place = self.heads[path.pop() ^ 1]
                turn[place] += 1
            else:
                return


@dataclass(frozen=True)
class Price:
    """What it costs where a tensor crosses between precisions, once for all of its readers.

    Attributes:
        producer: the operator that makes the tensor, None where that always computes in float.
        readers: operators that would read it in their own precision.
        read_in_float: whether anything else reads it, always in float.
        quantize, dequantize: nanoseconds from float to int8, and back.
    """

    producer: str | None
    readers: tuple[str, ...]
    read_in_float: bool
    quantize: int
    dequantize: int


def cheapest(
    costs: Mapping[str, tuple[int, int]],
    crossings: Collection[Price],
    fixed: Collection[str] = (),
) -> frozenset[str]:
    """The operators that compute in int8 where the sum of all costs is least.

    The sum is that of each operator's time in its precision and of each crossing's price. Since a
    crossing costs nothing where both sides agree, the least sum is a minimum cut of a network
    (Greig, Porteous and Seheult, J. R. Stat. Soc. B 51, 1989), which is found exactly. Of equal
    sums, that with the fewest operators in int8.

    Args:
        costs: nanoseconds in float and in int8, by operator.
        fixed: operators that stay float.
    """
    network = Network()
    places = {name: network.node() for name in costs}
    for name, (in_float, in_int8) in costs.items():
        network.arc(0, places[name], NEVER if name in fixed else max(0, in_int8))
        network.arc(places[name], 1, max(0, in_float))
    for price in crossings:
        readers = [places[name] for name in price.readers if name in places]
        made = places.get(price.producer or "", 0)
        if readers and price.quantize > 0:
            codes = network.node()
            network.arc(made, codes, price.quantize)
            for reader in readers:
                network.arc(codes, reader, NEVER)
        if made and price.dequantize > 0:
            if price.read_in_float:
                network.arc(0, made, price.dequantize)
            elif readers:
                real = network.node()
                network.arc(real, made, price.dequantize)
                for reader in readers:
                    network.arc(reader, real, NEVER)
    # The sink's side is as small as a minimum cut allows when it is what still reaches the sink.
    return frozenset(
        name for name, side in zip(costs, _beyond(network, places), strict=True) if side
    )


def _beyond(network: Network, places: Mapping[str, int]) -> list[bool]:
    """For each operator whether it is in int8: beyond the cut that lies nearest to the sink."""
    network.source_side()
    reaches = [False] * len(network.leaving)
    reaches[1] = True
    queue = deque([1])
    while queue:
        head = queue.popleft()
        for arc in network.leaving[head]:
            tail = network.heads[arc]
            if network.room[arc ^ 1] and not reaches[tail]:
                reaches[tail] = True
                queue.append(tail)
    return [reaches[place] for place in places.values()]
