"""In words: what int8 won, what stayed float and what that costs, where the time goes now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from edgedl.benchmark.machine import this_machine
from edgedl.core.errors import Unsupported
from edgedl.core.target import SCHEMES
from edgedl.core.units import format_ms, plural
from edgedl.passes.crossings import choices
from edgedl.passes.plan import Cost
from edgedl.passes.saturation import at_risk, saturates
from edgedl.runtime.session import Operator
from edgedl.search.candidates import Candidate, Trial
from edgedl.search.choose import BUSY
from edgedl.search.costs import account
from edgedl.search.tuned import TUNED

PRODUCTS = (
    "Conv", "Gemm", "MatMul", "FullyConnected", "Deconvolution", "Attention", "LSTM", "GRU", "RNN",
)  # fmt: skip
WORTH_NAMING = 0.03
# A hundredth, in the worst product, cost MobileNetV2 8 points of top-1.
WORTH_WARNING = 1e-4
MOST_NAMED = 4


def reasons(
    winner: Candidate, operators: Sequence[Operator], latency_ms: Mapping[str, float]
) -> tuple[str, ...]:
    """Sentences about the model that ships.

    Args:
        operators: the kernels that its engine runs, timed.
        latency_ms: what every candidate took, by name.
    """
    found: list[str] = []
    found += _costs(winner.costs)
    total_us = sum(operator.us or 0.0 for operator in operators)
    if total_us > 0:
        found += _shares(operators, total_us, winner.engine)
        found += _next(operators, total_us)
    found += _elsewhere(winner, latency_ms)
    found += before_vnni(winner)
    return tuple(found)


def computed_in_float(
    winner: Candidate, operators: Sequence[Operator], names: Mapping[str, str]
) -> list[str]:
    """Which operators are int8 in the plan, and float in the graph that the engine makes of it.

    Args:
        operators: the kernels that its engine runs, timed.
        names: the model's names by those of the file that ships.
    """
    if winner.plan is None or winner.prepared is None:
        return []
    found = choices(winner.prepared.model, SCHEMES[winner.plan.scheme])
    try:
        spent = account(operators, names, found, winner)
    except Unsupported:
        return []
    lost = [node for node in winner.plan.int8 if node in spent.lost]
    if not lost:
        return []
    named = ", ".join(f"{found.operators[node]} `{node}`" for node in lost[:MOST_NAMED])
    more = f" and {len(lost) - MOST_NAMED} more" if len(lost) > MOST_NAMED else ""
    share = sum(spent.operators.get(node, 0.0) for node in lost) / max(spent.total_us, 1e-9)
    return [
        f"{winner.engine} computes in float what the plan has in int8: {named}{more}, which take"
        f" {100 * share:.0f} % of the time, their conversions not counted; kept in float by the"
        " plan, they are faster"
    ]


def before_vnni(winner: Candidate) -> list[str]:
    """Which products would overflow on x86 processors before VNNI, where this one is x86 too, and
    is a later one; nothing of plans whose ranges are not known."""
    plan, prepared = winner.plan, winner.prepared
    here = this_machine().to_json()
    there = {**here, "isa": [], "isa_cap": None}
    if plan is None or prepared is None or not prepared.histograms:
        return []
    if saturates(here, winner.engine) or not saturates(there, winner.engine):
        return []
    risk = at_risk(plan, prepared.model, prepared.histograms)
    risky = {node: share for node, share in risk.items() if node not in plan.narrow}
    if max(risky.values(), default=0.0) < WORTH_WARNING:
        return []
    return [
        f"on x86 before VNNI sums of {len(risky)} products overflow, in up to"
        f" {100 * max(risky.values()):.2g} % of their pairs: --target x86-avx2 foretells that, and"
        " gives weights 7 bits"
    ]


def too_busy(
    winner: Candidate,
    candidates: Sequence[Candidate],
    latency_ms: Mapping[str, float],
    noise_floor: float,
) -> tuple[str, ...]:
    """Why the rules' plan ships where one that was placed by costs seemed faster."""
    placed = [c for c in candidates if (c.origin, c.engine) == ("costs", winner.engine)]
    if winner.origin != "rules" or not placed or noise_floor <= BUSY:
        return ()
    fastest = min(placed, key=lambda candidate: latency_ms[candidate.name])
    faster = 1 - latency_ms[fastest.name] / latency_ms[winner.name]
    if not 0 < faster <= noise_floor:
        return ()
    return (
        f"the rules' plan ships: `{fastest.label}` took {100 * faster:.1f} % less, and the machine"
        f" was too busy to tell, since the same model differed from itself by"
        f" {100 * noise_floor:.0f} %",
    )


def trained(winner: Trial, trials: Sequence[Trial]) -> tuple[str, ...]:
    """What training won, where the winner was trained."""
    candidate = winner.candidate
    if not candidate.is_trained:
        return ()
    untrained = f"{candidate.engine} {candidate.label.partition(TUNED)[0]}"
    before = [t.agreement.sqnr_db for t in trials if t.candidate.name == untrained]
    after = [t.agreement.sqnr_db for t in trials if t.candidate.name == f"{untrained}{TUNED}"] or [
        winner.agreement.sqnr_db
    ]
    won = f": {before[0]:.1f} dB before, {after[0]:.1f} dB after" if before else ""
    return (f"weights, biases and scales were trained towards float's answers{won}",)


def _costs(costs: Sequence[Cost]) -> list[str]:
    known = [c for c in costs if c.float_us is not None and c.int8_us is not None]
    int8 = [c for c in known if c.chosen == "int8"]
    kept = [c for c in known if c.chosen == "float"]
    found = []
    if int8:
        found.append(
            f"{len(int8)} operators compute in int8: {_us(c.int8_us for c in int8)} where float"
            f" takes {_us(c.float_us for c in int8)}"
        )
    if kept:
        more = sum((c.int8_us or 0) - (c.float_us or 0) for c in kept)
        why = (
            f"in int8 they take {format_ms(more / 1e3)} more"
            if more >= 0
            else f"int8 saves {format_ms(-more / 1e3)} and the conversions around them cost more"
        )
        kinds = _kinds([c.operator for c in kept])
        found.append(f"{len(kept)} that could be int8 stay float ({kinds}): {why}")
    return found


def _us(times: Iterable[float | None]) -> str:
    return format_ms(sum(time or 0.0 for time in times) / 1e3)


def _kinds(names: Sequence[str]) -> str:
    count: defaultdict[str, int] = defaultdict(int)
    for name in names:
        count[name] += 1
    order = sorted(count.items(), key=lambda entry: -entry[1])
    rest = sum(n for _, n in order[MOST_NAMED:])
    listed = [f"{n} {name}" for name, n in order[:MOST_NAMED]]
    return ", ".join([*listed, *([f"{rest} others"] if rest else [])])


def _shares(operators: Sequence[Operator], total_us: float, engine: str) -> list[str]:
    by_kind: defaultdict[tuple[str, str], float] = defaultdict(float)
    for operator in operators:
        by_kind[operator.kind, operator.precision] += operator.us or 0.0
    order = sorted(by_kind.items(), key=lambda entry: -entry[1])
    named = [
        f"{kind} in {precision} {100 * us / total_us:.0f} %"
        for (kind, precision), us in order[:MOST_NAMED]
        if us / total_us >= WORTH_NAMING and precision != "conversion"
    ]
    converted = [o for o in operators if o.precision == "conversion"]
    share = sum(o.us or 0.0 for o in converted) / total_us
    if share >= WORTH_NAMING:
        named.append(f"{plural(len(converted), 'conversion')} {100 * share:.0f} %")
    return [f"the time goes to {', '.join(named)} (by {engine}'s profile)"] if named else []


def _next(operators: Sequence[Operator], total_us: float) -> list[str]:
    """What could help further, by where the time goes."""
    shares: defaultdict[str, float] = defaultdict(float)
    kinds: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for operator in operators:
        product = any(name in operator.kind for name in PRODUCTS)
        int8 = operator.precision == "int8"
        kind = ("product" + " int8" * int8) if product else "other"
        place = "conversion" if operator.precision == "conversion" else kind
        shares[place] += (operator.us or 0.0) / total_us
        kinds[place][operator.kind] += (operator.us or 0.0) / total_us
    largest = max(shares, key=lambda place: shares[place])
    percent = f"{100 * shares[largest]:.0f} %"
    if largest in ("product int8", "product"):
        what = "int8 products" if largest == "product int8" else "float products"
        return [f"next: {percent} are {what}; only a smaller network or a faster processor helps"]
    if largest == "conversion":
        return [f"next: {percent} are conversions; an engine that fuses more of them would help"]
    others = kinds["other"]
    worst = max(others, key=lambda kind: others[kind])
    return [
        f"next: {percent} are operators between the products, {worst} alone"
        f" {100 * others[worst]:.0f} %; a network trained without it would be faster"
    ]


def _elsewhere(winner: Candidate, latency_ms: Mapping[str, float]) -> list[str]:
    """The best of each other engine."""
    best: dict[str, tuple[float, str]] = {}
    for name, milliseconds in latency_ms.items():
        engine = name.split(" ", 1)[0]
        best[engine] = min(best.get(engine, (milliseconds, name)), (milliseconds, name))
    own = latency_ms.get(winner.name)
    return [
        f"on {engine} the fastest takes {format_ms(milliseconds)}, {milliseconds / own:.2f} times"
        f" as long ({name.removeprefix(engine).strip()})"
        for engine, (milliseconds, name) in best.items()
        if engine != winner.engine and own
    ]
