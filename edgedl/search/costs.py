"""What each operator costs in float and in int8 on this machine, from the engine's own profile."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from edgedl.core.errors import Unsupported
from edgedl.core.ledger import Ledger
from edgedl.passes.crossings import Choices
from edgedl.passes.graph import short_named
from edgedl.passes.plan import Cost, Plan, State
from edgedl.runtime import engine
from edgedl.runtime.session import Operator
from edgedl.search.candidates import Candidate, shipped_settings
from edgedl.search.cut import Price, cheapest

STATES = ("float", "int8", "shifted")
WORD = re.compile(r"[A-Za-z0-9.]+")
# Put between two operators by OpenVINO, whose names make its own: it stands for neither.
LAYOUT = frozenset({"Reorder"})
# What OpenVINO calls a recurrent operator; it counts up as it reads the graph.
SEQUENCE = re.compile(r"(?:LSTM|GRU|RNN)Sequence_(\d+)")
MOST_ROWS = 15
FLOATS = frozenset({"float32", "float64", "bf16", "float16"})
# What placing calls the conversion that expands a constant's codes.
EXPANDS = "_dequantize"
NEVER_NS = 10**12


@dataclass(frozen=True)
class Spent:
    """Where the microseconds of one call went, by the engine's account.

    Attributes:
        operators: by operator that may compute in int8, with all that was fused into it.
        fused: by operator that may compute in int8, the one whose kernel computed it as well.
        quantize, dequantize: conversions that stayed apart, by tensor.
        rest_us: everything else, conversions of layout among it.
        lost: operators that were planned int8, and that the engine computed in float all the same,
            weights expanded in every call.
    """

    operators: Mapping[str, float]
    fused: Mapping[str, str]
    quantize: Mapping[str, float]
    dequantize: Mapping[str, float]
    rest_us: float
    lost: frozenset[str] = frozenset()

    @property
    def total_us(self) -> float:
        parts = (self.operators, self.quantize, self.dequantize)
        return self.rest_us + sum(sum(part.values()) for part in parts)


def spend(
    candidate: Candidate,
    found: Choices,
    feed: Mapping[str, np.ndarray],
    threads: int | None,
    runs: int,
) -> Spent:
    """Run a candidate under its engine's profiler, and say where its time went in a call.

    Args:
        runs: calls that are profiled, 2 at least.

    Raises:
        EngineFailed: the engine refuses the model. Unsupported: the engine does not tell which
            operators its kernels stand for.
    """
    run = engine(candidate.engine)
    with short_named(candidate.model) as (path, names):
        settings = shipped_settings(candidate.settings, names)
        kernels = run.operators(path, feed, settings=settings, threads=threads, runs=runs)
    return account(kernels, names, found, candidate)


def account(
    kernels: Sequence[Operator], names: Mapping[str, str], found: Choices, candidate: Candidate
) -> Spent:
    """Where the microseconds of a candidate's kernels belong.

    Args:
        names: the model's names by the short ones that it was given to the engine with.

    Raises:
        Unsupported: the engine does not tell which operators its kernels stand for.
    """
    tensors = list(candidate.plan.activations) if candidate.plan is not None else []
    spent: dict[str, defaultdict[str, float]] = {
        kind: defaultdict(float) for kind in ("operators", "quantize", "dequantize", "rest")
    }
    fused: dict[str, str] = {}
    precisions: defaultdict[str, set[str]] = defaultdict(set)
    known = found.owners.keys() - names.keys()
    sequences = sequences_by_kernel((kernel.name for kernel in kernels), found.sequences)
    for kernel in kernels:
        if kernel.kind in LAYOUT and not kernel.layers:
            spent["rest"][""] += kernel.us or 0.0
            continue
        said = original_names((kernel.name, *kernel.layers), names, known)
        said |= sequences.get(kernel.name, frozenset())
        computed = found.computed_by(said)
        if computed:
            spent["operators"][computed[0]] += kernel.us or 0.0
            # What a kernel of several operators computes in is not known of each.
            for node in computed:
                precisions[node].add(kernel.precision if len(computed) == 1 else "")
            # No kernel computes a sequence as well: it only quantizes what that one reads.
            others = (node for node in computed[1:] if node not in found.sequences)
            fused |= dict.fromkeys(others, computed[0])
            continue
        apart = kernel.precision == "conversion"
        if apart and (expanded := _expanded(said, found.weights)) is not None:
            spent["operators"][expanded] += kernel.us or 0.0
            continue
        kind, tensor = _conversion(said, tensors) if apart else ("rest", "")
        spent[kind][tensor] += kernel.us or 0.0
    if not spent["operators"]:
        raise Unsupported(f"{candidate.engine} does not tell what its operators take")
    planned = candidate.plan.int8 if candidate.plan is not None else ()
    return Spent(
        dict(spent["operators"]),
        fused,
        dict(spent["quantize"]),
        dict(spent["dequantize"]),
        sum(spent["rest"].values()),
        frozenset(node for node in planned if precisions[node] and precisions[node] <= FLOATS),
    )


def _expanded(said: frozenset[str], weights: Mapping[str, str]) -> str | None:
    """The operator whose weights a conversion expands, None where it converts no weights."""
    for name in said:
        if EXPANDS in name:
            for weight in _longest(name, weights.keys()):
                return weights[weight]
    return None


def original_names(
    said: Iterable[str], names: Mapping[str, str], known: Collection[str]
) -> frozenset[str]:
    """Names of the model's own nodes and tensors in what an engine calls a kernel.

    Args:
        names: the model's names by the short ones that it was given to the engine with.
        known: the model's names that matter, for those that were not shortened.
    """
    found: set[str] = set()
    for text in said:
        found.add(names.get(text, text))
        found |= {names[word] for word in WORD.findall(text) if word in names}
        found |= _longest(text.removeprefix("fused "), known)
    return frozenset(found)


def sequences_by_kernel(kernels: Iterable[str], nodes: Sequence[str]) -> dict[str, frozenset[str]]:
    """The recurrent operators that kernels stand for whose engine names them by number, and not as
    the model does; none where there are more or fewer than in the model.

    Args:
        nodes: the model's recurrent operators in graph order, once for each direction.
    """
    numbers = {name: int(m[1]) for name in kernels if (m := SEQUENCE.fullmatch(name))}
    if len(numbers) != len(nodes):
        return {}
    order = sorted(numbers, key=lambda name: numbers[name])
    return {name: frozenset({node}) for name, node in zip(order, nodes, strict=True)}


def _longest(text: str, known: Collection[str]) -> set[str]:
    """The longest known name that a text begins with, up to the end of a word."""
    ends = [i for i in range(len(text), 0, -1) if i == len(text) or not text[i].isalnum()]
    return set([text[:end] for end in ends if text[:end] in known][:1])


def _conversion(said: frozenset[str], tensors: list[str]) -> tuple[str, str]:
    for name in sorted(said):
        match = re.search(r"quantized_(\d+)_(quantize|dequantize)", name)
        if match and int(match[1]) < len(tensors):
            return match[2], tensors[int(match[1])]
    return "rest", ""


@dataclass
class CostTable:
    """Rows of one engine in one of its settings, on one machine; kept in a file of JSON lines.

    Attributes:
        times: microseconds by operator signature and state, one for each time it was seen.
        together: signatures of operators that one kernel computed, which are therefore kept
            in one precision.
        float_shares: by model, the share of its full plan's time that no row accounts for.
        conversions: by direction, pairs of elements and microseconds.
        spread: for each profile the elements that crossed to or from operators that are always
            float, those that crossed between two that could have agreed, and the microseconds by
            which everything that has no row took longer than in the float model: conversions of
            layout, and what was fused before. Less than 0 where the float model needs more.
    """

    ledger: Ledger
    times: defaultdict[tuple[str, str], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    together: set[frozenset[str]] = field(default_factory=set)
    float_shares: dict[str, float] = field(default_factory=dict)
    conversions: defaultdict[str, list[tuple[int, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    spread: list[tuple[int, int, float]] = field(default_factory=list)

    @classmethod
    def of(cls, **parts: Any) -> CostTable:
        """The table that is kept for this machine, engine, and way of running it."""
        table = cls(Ledger.of("costs", **parts))
        for row in table.ledger.rows():
            with contextlib.suppress(KeyError, TypeError, ValueError):
                table._take(row)
        return table

    def _take(self, row: Mapping[str, Any]) -> None:
        us = float(row["us"])
        if row["what"] == "float share":
            self.float_shares[str(row["model"])] = us
        elif row["what"] == "spread":
            self.spread.append((int(row["edge"]), int(row["inside"]), us))
        elif row["what"] in ("quantize", "dequantize"):
            self.conversions[row["what"]].append((int(row["elements"]), us))
        elif row["state"] in STATES:
            self.times[str(row["what"]), row["state"]].append(us)
            if row.get("with"):
                self.together.add(frozenset((str(row["what"]), str(row["with"]))))

    def knows(self, found: Choices, state: State) -> bool:
        """Whether every operator has been timed in this precision."""
        return all(self.times[s, state] for s in found.signatures.values())

    def add(self, spent: Spent, found: Choices, plan: Plan | None, rest_us: float | None) -> None:
        """Take a profile's rows, and keep them.

        Args:
            plan: what was profiled; None for the float model.
            rest_us: what the float model spent on everything that has no row.
        """
        int8 = frozenset(plan.int8) if plan is not None else frozenset()
        rows: list[dict[str, Any]] = []
        for node, signature in found.signatures.items():
            state: State = "int8" if node in int8 else "float"
            us = spent.operators.get(node, 0.0)
            main = found.signatures.get(spent.fused.get(node, ""), "")
            rows.append({"what": signature, "state": state, "us": round(us, 3), "with": main})
        size = {crossing.tensor: crossing.elements for crossing in found.crossings}
        for kind, seen in (("quantize", spent.quantize), ("dequantize", spent.dequantize)):
            for tensor, us in seen.items():
                if size.get(tensor):
                    rows.append({"what": kind, "elements": size[tensor], "us": round(us, 3)})
        edge, inside = _crossed(found, int8)
        if rest_us is not None and edge + inside:
            us = round(spent.rest_us - rest_us, 3)
            rows.append({"what": "spread", "edge": edge, "inside": inside, "us": us})
        for row in rows:
            self._take(row)
        self.ledger.add(rows)

    def add_share(self, model: str, share: float) -> None:
        """Keep which share of a model's full plan is spent on what has no row."""
        row = {"what": "float share", "model": model, "us": share}
        self._take(row)
        self.ledger.add([row])

    def add_shifted(self, spent: Spent, found: Choices, nodes: Collection[str]) -> None:
        """Take and keep what operators took with their weights shifted by one."""
        rows = [
            {"what": found.signatures[n], "state": "shifted", "us": spent.operators.get(n, 0.0)}
            for n in nodes
        ]
        for row in rows:
            self._take(row)
        self.ledger.add(rows)

    def us(self, signature: str, state: str) -> float | None:
        """The median of the latest rows, None where there is none."""
        seen = self.times[signature, state][-MOST_ROWS:]
        return median(seen) if seen else None

    def crossing_us(self, direction: str, elements: int, *, inside: bool) -> float:
        """What a conversion of so many elements is expected to take.

        Args:
            inside: whether the operators on both of its sides could have agreed.
        """
        if not elements:
            return 0.0
        latest = self.spread[-MOST_ROWS:]
        spread = _rate([(edge, us) for edge, inner, us in latest if not inner])
        if inside:
            beyond = [(inner, us - spread * edge) for edge, inner, us in latest if inner]
            spread = max(0.0, spread, _rate(beyond))
        return max(0.0, 1.0 + elements * (_rate(self.conversions[direction]) + spread))

    def best(
        self, found: Choices, free_outputs: Collection[str], barred: Collection[str] = ()
    ) -> frozenset[str]:
        """The operators to compute in int8 where the sum of all costs is least.

        Args:
            free_outputs: kinds of operators whose int8 kernels give float for nothing.
            barred: operators that the engine does not compute in int8 where they are.
        """
        lead = self._leads(found)
        costs: dict[str, tuple[int, int]] = {}
        for node, signature in found.signatures.items():
            in_float, in_int8 = costs.get(lead[node], (0, 0))
            costs[lead[node]] = (
                in_float + _ns(self.us(signature, "float")),
                in_int8 + (NEVER_NS if node in barred else _ns(self.us(signature, "int8"))),
            )
        prices = [
            Price(
                lead.get(c.producer or ""),
                tuple(
                    dict.fromkeys(
                        lead[r] for r in c.readers if lead[r] != lead.get(c.producer or "")
                    )
                ),
                c.read_in_float,
                _ns(self.crossing_us("quantize", c.elements, inside=c.producer is not None)),
                0
                if found.operators.get(c.producer or "") in free_outputs
                else _ns(self.crossing_us("dequantize", c.elements, inside=not c.read_in_float)),
            )
            for c in found.crossings
        ]
        chosen = cheapest(costs, prices)
        return frozenset(node for node in found.signatures if lead[node] in chosen)

    def _leads(self, found: Choices) -> dict[str, str]:
        """For every operator the one that stands for it and all that share its kernel."""
        lead = {node: node for node in found.signatures}

        def find(node: str) -> str:
            while lead[node] != node:
                node = lead[node]
            return node

        for crossing in found.crossings:
            if crossing.producer is None:
                continue
            made = found.signatures[crossing.producer]
            for reader in crossing.readers:
                if frozenset((made, found.signatures[reader])) in self.together:
                    lead[find(reader)] = find(crossing.producer)
        return {node: find(node) for node in lead}

    def rows(self, found: Choices, int8: Collection[str]) -> tuple[Cost, ...]:
        """The table of one model, in graph order."""
        return tuple(
            Cost(
                node,
                found.operators[node],
                self.us(signature, "float"),
                self.us(signature, "int8"),
                "int8" if node in int8 else "float",
            )
            for node, signature in found.signatures.items()
        )


def _crossed(found: Choices, int8: Collection[str]) -> tuple[int, int]:
    """The elements that cross to or from operators that are always float, and all others."""
    edge = inside = 0
    for crossing in found.crossings:
        made_in_int8 = crossing.producer in int8
        if not made_in_int8 and any(reader in int8 for reader in crossing.readers):
            if crossing.producer is None:
                edge += crossing.elements
            else:
                inside += crossing.elements
        if made_in_int8 and crossing.read_in_float:
            edge += crossing.elements
        elif made_in_int8 and any(reader not in int8 for reader in crossing.readers):
            inside += crossing.elements
    return edge, inside


def _rate(seen: list[tuple[int, float]]) -> float:
    """Microseconds an element."""
    elements = sum(count for count, _ in seen)
    return sum(us for _, us in seen) / elements if elements else 0.0


def _ns(us: float | None) -> int:
    return 0 if us is None else round(1000 * us)
