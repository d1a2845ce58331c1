"""The verdict in words, from figures alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgedl.core.memory import peak_rss_bytes
from edgedl.core.stats import Agreement, decibels
from edgedl.core.units import plural
from edgedl.diagnosis.losses import Bounded, bounded_mean, bounded_share
from edgedl.diagnosis.shares import LEAST_SHARE
from edgedl.report.diagnosed import Cause, Diagnosis, Status

if TYPE_CHECKING:
    from edgedl.diagnosis.pair import Compared, Looked, Pair

FEWEST = 8
TOLERANCE = 0.015
MUCH = 0.1
ENOUGH_SHARE = 0.25
# Samples from which on classes tell that answers are float's, up to this share of noise.
ENOUGH_TO_VOTE, OUTVOTED = 32, 0.05


def judge(pair: Pair, compared: Compared, found: Looked, count: int, seconds: float) -> Diagnosis:
    """The diagnosis, its causes ranked and its verdict written."""
    whole = bounded_mean(compared.losses)
    accuracy = _accuracy(compared)
    causes = [
        Cause(p.cause, p.sentence, (s.value, s.low, s.high), p.evidence, p.command)
        for p, s in found.causes
    ]
    if found.engine is not None and found.engine.low > ENOUGH_SHARE:
        causes.append(_engine(pair, found.engine))
    warnings: tuple[Cause, ...] = ()
    if (saturation := _saturation(pair, found)) is not None:
        if found.saturates:
            causes.append(saturation)
        else:
            warnings = (saturation,)
    causes += found.told
    causes.sort(key=lambda cause: -(cause.share or (2.0,))[0])
    status = _status(whole, accuracy, compared.agreement, causes, count)
    verdict = _sentence(status, whole, accuracy, compared, found, count)
    return Diagnosis(
        model=pair.model.path.name if pair.given == "" else pair.given.rpartition("/")[2],
        compressed=pair.artifact.path.name,
        engine=pair.artifact.engine,
        status=status,
        verdict=verdict,
        causes=tuple(causes) if status == "faults" else (),
        warnings=warnings,
        loss=(whole.value, whole.low, whole.high),
        agreement=compared.agreement,
        accuracy=accuracy,
        quantizers=found.kinds,
        operators=found.operators,
        tensors=found.tensors,
        faithful_db=_faithful_db(found),
        samples={"answers": count, "walked": found.walked, "switched": found.switched},
        doubts=_doubts(found, count),
        seconds=seconds,
        peak_rss_bytes=peak_rss_bytes(),
    )


def _accuracy(compared: Compared) -> dict[str, Any] | None:
    metric = compared.metric
    if metric is None:
        return None
    first, second = (metric.score(rows) for rows in compared.rows)
    change = metric.compare(*compared.rows)
    return {
        "metric": metric.name,
        "share": metric.perfect in (None, 1),
        "baseline": first,
        "result": second,
        "drop": -change.value,
        "drop_low": -change.high,
        "drop_high": -change.low,
    }


def _engine(pair: Pair, share: Bounded) -> Cause:
    return Cause(
        "engine_arithmetic",
        f"{pair.artifact.engine} computes otherwise than the graph says: a fusion, or sums that"
        " saturate",
        (share.value, share.low, share.high),
        ("the same graph computed in float, every quantizer as given, is nearer to the model",),
        f"edgedl bench {pair.artifact.path.name} --profile",
    )


def _saturation(pair: Pair, found: Looked) -> Cause | None:
    """What saturating sums cost beside everything else; None where less than a tenth of it all."""
    what = found.saturated
    if what is None or not what.operators:
        return None
    exact, saturating = float(what.exact.mean()), float(what.saturating.mean())
    if saturating - exact <= TOLERANCE:
        return None
    share = bounded_share(what.saturating - what.exact, what.saturating)
    if share.value < LEAST_SHARE:
        return None
    where = f"{found.processor} has" if found.saturates else "a processor without VNNI has"
    names = [f"`{pair.names.get(node, node)}`" for node, _ in what.operators[:2]]
    more = len(what.operators) - len(names)
    lines = [
        f"emulated: {100 * saturating:.2g} % of the answers' power would be noise, not"
        f" {100 * exact:.2g} %"
    ]
    lines += [
        f"`{pair.names.get(node, node)}`: saturation makes {100 * ratio:.2g} % noise in its result"
        for node, ratio in what.operators[:4]
    ]
    return Cause(
        "saturation",
        f"{where} sums of 16 bits only, and u8 x s8 products pass them in {', '.join(names)}"
        + (f" and {more} more" if more > 0 else ""),
        (share.value, share.low, share.high) if found.saturates else None,
        tuple(lines),
        f"{pair.command} --target x86-avx2   # 7-bit weights where it matters",
    )


def _status(
    whole: Bounded,
    accuracy: dict[str, Any] | None,
    agreement: Agreement,
    causes: list[Cause],
    count: int,
) -> Status:
    if any(cause.share is None or cause.name == "saturation" for cause in causes):
        return "faults"
    if whole.high <= TOLERANCE:
        return "healthy"
    lost = accuracy is not None and accuracy["drop_low"] > 0
    votes = agreement.is_faithful and count >= ENOUGH_TO_VOTE and not lost
    if votes and whole.value <= OUTVOTED:
        return "healthy"
    if accuracy is not None and accuracy["share"] and accuracy["drop_high"] <= TOLERANCE:
        return "healthy"
    if count < FEWEST:
        return "too few samples"
    if causes:
        return "faults"
    return "healthy" if whole.value <= TOLERANCE else "spread"


def _sentence(
    status: Status,
    whole: Bounded,
    accuracy: dict[str, Any] | None,
    compared: Compared,
    found: Looked,
    count: int,
) -> str:
    figures = _figures(whole, accuracy, compared)
    if status == "healthy":
        return f"healthy: nothing is wrong with it; {figures}"
    if status == "too few samples":
        return f"too few samples for a verdict ({count}, {FEWEST} are needed); {figures}"
    if status == "spread":
        top = sum(row.share for row in found.operators[:3])
        return (
            f"no single fault: 8 bits cost this much here, spread over {len(found.operators)}"
            f" operators, the worst three make {100 * top:.0f} % of it; {figures}"
        )
    if whole.value <= TOLERANCE:
        return f"int8 answers as float does, but something is wrong: {figures}"
    if accuracy is not None and accuracy["drop_low"] >= 0 and accuracy["drop"] > TOLERANCE:
        return f"int8 lost accuracy: {figures}"
    much = "much" if whole.value > MUCH else "a little"
    return f"int8 lost {much}: {figures}"


def _figures(whole: Bounded, accuracy: dict[str, Any] | None, compared: Compared) -> str:
    parts = []
    if accuracy is not None and accuracy["share"]:
        drop, low, high = (100 * accuracy[key] for key in ("drop", "drop_low", "drop_high"))
        name = accuracy["metric"]
        parts.append(
            f"{name} falls by {drop:.1f} points [{low:.1f}, {high:.1f}]"
            if drop >= 0
            else f"{name} rises by {-drop:.1f} points [{-high:.1f}, {-low:.1f}]"
        )
    agreement = compared.agreement
    if agreement.top1 is not None:
        parts.append(f"top-1 agrees in {agreement.top1:.3f}")
    parts.append(f"cosine {agreement.cosine:.4f}")
    if agreement.equal is not None:
        parts.append(f"{agreement.equal:.3f} of integers equal")
    low, value, high = (100 * part for part in (whole.low, whole.value, whole.high))
    parts.append(f"{value:.2g} % of the answers' power is noise [{low:.2g}, {high:.2g}]")
    return ", ".join(parts)


def _faithful_db(found: Looked) -> float | None:
    if found.faithful is None:
        return None
    mean = float(np.mean(found.faithful))
    return decibels(1.0 - mean, mean)


def _doubts(found: Looked, count: int) -> tuple[str, ...]:
    doubts = list(found.doubts)
    if found.left:
        doubts.append(
            f"{len(found.left)} operators compute on codes and were not taken apart:"
            f" {', '.join(found.left[:3])}; what they lose is not split"
        )
    faithful = _faithful_db(found)
    if faithful is not None and faithful < 20:
        doubts.append(
            f"with all quantizers off the graph is {faithful:.0f} dB from the float model: it was"
            " made from another one, or weights were changed before they were rounded"
        )
    if found.changed:
        doubts.append(
            "weights were changed before they were rounded (evened out across layers, or trained):"
            " what their own rounding adds is not told apart"
        )
    elif found.unmatched:
        doubts.append(
            f"{len(found.unmatched)} constants are not in the float model and count as unrounded:"
            f" {', '.join(f'`{name}`' for name in found.unmatched[:3])}"
        )
    if count < 16:
        doubts.append(f"{plural(count, 'sample')}; 64 or more give narrow intervals")
    if 0 < found.switched < min(8, count):
        doubts.append(
            f"operators were measured one by one on {plural(found.switched, 'sample')};"
            " --seconds 60 takes more"
        )
    if found.unmeasured:
        doubts.append(
            f"{found.unmeasured} operators that add least were not measured one by one;"
            " --seconds 60 measures more"
        )
    strange = sum(row.matched == "no" for row in found.tensors)
    if strange:
        doubts.append(
            f"{strange} of {len(found.tensors)} tensors have no likeness in the float model"
        )
    return tuple(doubts)
