"""A chosen model into a bundle, opened again and proven."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.backends import backend
from edgedl.benchmark.machine import this_machine
from edgedl.benchmark.metrics.metric import Metric
from edgedl.core.engines import ON_GPU
from edgedl.core.errors import EngineFailed, Unsupported, WrongAnswers
from edgedl.core.model import Model
from edgedl.core.samples import Samples
from edgedl.core.store import atomic_write
from edgedl.passes.graph import to_ship
from edgedl.runtime import engine, installed_engines
from edgedl.runtime.apart import tried_apart
from edgedl.runtime.bundle import read_bundle
from edgedl.runtime.check import check
from edgedl.runtime.deflate import PLAIN
from edgedl.runtime.golden import Answer, Golden, coarse
from edgedl.runtime.layout import padded_bytes
from edgedl.runtime.payload import Payload, stored
from edgedl.runtime.process import Processing
from edgedl.runtime.session import Operator
from edgedl.runtime.sign.admit import ANYBODY
from edgedl.runtime.writing import Contents, write_bundle
from edgedl.search.candidates import Candidate, Trial, shipped_settings
from edgedl.search.memory import key_of_candidate
from edgedl.search.ways import Ways

GOLDEN_SHARE = 0.03
MOST_GOLDEN = 8
PROFILE_RUNS = 15
LONGEST_FIGURE = 0.012345678901234567
PRODUCTS = (
    "Conv", "Gemm", "MatMul", "FullyConnected", "Deconvolution", "Attention", "LSTM", "GRU", "RNN",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Shipped:
    """What was written: the candidate, its payload and the bytes of that one's part, its golden
    answers, the operators that the engine really runs, timed, the model's names by the short ones
    in that part, and the payloads of other engines that share it; None where these were not looked
    for."""

    candidate: str
    payload: Payload
    part: bytes
    golden: Golden
    operators: tuple[Operator, ...]
    names: Mapping[str, str]
    fallbacks: tuple[Payload, ...] | None = None


@dataclass(frozen=True, eq=False)
class Order:
    """What is to be made, and where it goes.

    Attributes:
        ways: what candidates are made from.
        choice, report: the samples that choices are made on, and those of the report.
        metric: what is reported of labelled samples.
        model, output: the files as the user named them.
        notes: what the bundle says of how it was made.
        processing: what stands before and behind the network, bound to it.
        began: when the work began, on `time.perf_counter`, in seconds.
        doubts: those that are known already.
    """

    ways: Ways
    choice: Samples
    report: Samples
    metric: Metric | None
    model: Path
    output: Path
    notes: Mapping[str, Any]
    processing: Processing | None
    began: float
    doubts: tuple[str, ...]


def ship(
    winner: Trial,
    samples: Samples,
    output: Path,
    threads: int,
    notes: Mapping[str, Any],
    processing: Processing | None = None,
    before: Shipped | None = None,
    *,
    fallbacks: bool = True,
    ahead: Payload | None = None,
) -> Shipped:
    """Write the winner's bundle, open it again, and check its golden answers.

    What stood at `output` is replaced by a bundle that was proven, or not at all.

    Behind the winner's payload stands one for each other engine that is installed and opens the
    very same ONNX file within the tolerance of the golden answers, all of them, in a process of its
    own. It names the same part, so that it takes some hundred bytes of the manifest and no more.
    An engine that refuses the file, answers otherwise or is not installed gets none.

    Args:
        before: what was written last; where it was the same candidate, only the notes are new.
        fallbacks: look for these other engines.
        ahead: a payload of the same model for an engine that is not here, which stands first and is
            not tried.

    Raises:
        EdgeError: the file cannot be written. WrongAnswers: the bundle answers otherwise.
    """
    chosen, key = winner.candidate, key_of_candidate(winner.candidate)
    same = before if before is not None and before.candidate == key else None
    golden = same.golden if same is not None else _answers(winner, samples, threads)
    data, names = to_ship(chosen.model)
    if same is not None:
        payload, part = same.payload, same.part
    else:
        settings = shipped_settings(chosen.settings, names)
        precision = "int8" if chosen.coded else chosen.precision
        compiled = backend(chosen.engine).compile(data, precision, settings)
        payload, part = stored(compiled, data)
    others = same.fallbacks if same is not None else None
    first = () if ahead is None else (_sharing(ahead, payload),)

    def contents(behind: Sequence[Payload]) -> Contents:
        return Contents(
            signature=chosen.model.signature,
            payloads=[(one, part) for one in (*first, payload, *behind)],
            golden=golden,
            history=chosen.model.history,
            notes=notes,
            names=names,
            processing=processing,
        )

    with atomic_write(output) as work:
        if others is None and fallbacks:
            likely = _likely(payload)
            write_bundle(work, contents(likely))
            place = len(first) + 1
            others = tuple(one for i, one in enumerate(likely, place) if _answers_apart(work, i))
        write_bundle(work, contents(others or ()))
        proof = check(work, threads=threads, trust=ANYBODY)
        if not proof.ok:
            raise WrongAnswers(
                f"the bundle does not answer as its model did ({proof.payloads[0].problem})",
                where=str(output),
                hint="please report this, with the model",
            )
    if same is not None:
        return same if same.fallbacks == others else replace(same, fallbacks=others)
    run = engine(payload.engine).operators(
        data, golden.inputs[0], settings=payload.settings, threads=threads, runs=PROFILE_RUNS
    )
    return Shipped(key, payload, part, golden, tuple(run), names, others)


def _sharing(ahead: Payload, payload: Payload) -> Payload:
    """A payload that names another's part, as that lies there."""
    format_ = payload.format if ahead.format == PLAIN else ahead.format
    return replace(ahead, part=payload.part, inflated=payload.inflated, format=format_)


def _likely(payload: Payload) -> tuple[Payload, ...]:
    """The same part for the other engines that are installed, in settings that compute it in the
    payload's own precision, or else in float32."""
    found = []
    # a GPU is faster where there is one, and is passed over where there is none
    for name in sorted(installed_engines(), key=lambda one: one not in ON_GPU):
        if name != payload.engine:
            other = backend(name)
            able = payload.precision == "int8" or payload.precision in other.floats()
            precision = payload.precision if able else "float32"
            settings = dict(other.settings(precision))
            found.append(replace(payload, engine=name, precision=precision, settings=settings))
    return tuple(found)


def _answers_apart(bundle: Path, place: int) -> bool:
    """Whether a payload opens, and gives all golden answers, in a process of its own."""
    identity = read_bundle(bundle, sparing=True).identity
    try:
        tried_apart(bundle, place, threads=1, golden="all", identity=identity)
    except EngineFailed:
        return False
    return True


def _answers(winner: Trial, samples: Samples, threads: int) -> Golden:
    with winner.candidate.open(threads) as session:
        return _golden(winner.candidate.model, samples, session.run, _tolerance(winner))


def bundle_sizes(
    samples: Samples,
    answer: Mapping[str, np.ndarray],
    notes: Mapping[str, Any],
    processing: Processing | None = None,
) -> Callable[[Candidate], int]:
    """How many bytes the bundle of a candidate will have, found once for each.

    The bundle is put together as `ship` does it, with `answer`, the float model's to one sample, in
    place of the candidate's own: what is stored of an answer depends on its shape alone. Figures
    that are not known before the last timing are taken to be as long as figures get, and every
    other engine to open the model.
    """
    found: dict[str, int] = {}
    longest = dict.fromkeys(("ratio", "low", "high"), LONGEST_FIGURE)
    machine = this_machine().to_json()

    def size(candidate: Candidate) -> int:
        model, key = candidate.model, key_of_candidate(candidate)
        if key in found:
            return found[key]
        try:
            data, names = to_ship(model)
        except Unsupported:
            return model.bytes
        part = f"models/{candidate.engine}.onnx"
        settings = shipped_settings(candidate.settings, names)
        plain = Payload(candidate.engine, "onnx", part, candidate.precision, settings)
        payload, lying = stored(plain, data)
        blocks = Contents(
            signature=model.signature,
            payloads=[(one, lying) for one in (payload, *_likely(payload))],
            golden=_golden(model, samples, lambda _: answer, LONGEST_FIGURE),
            history=model.history,
            notes={**notes, "speedup": longest, "machine": machine},
            names=names,
            processing=processing,
        ).blocks()
        found[key] = padded_bytes(*map(len, blocks))
        return found[key]

    return size


def _golden(
    model: Model,
    samples: Samples,
    run: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]],
    tolerance: float,
) -> Golden:
    """Samples with a session's answers, within 3 % of the model's bytes, one at least."""
    room = GOLDEN_SHARE * model.bytes
    inputs, answers = [], []
    for feed in samples.take(range(min(MOST_GOLDEN, len(samples)))):
        stored = coarse(feed)
        inputs.append(stored)
        answers.append({name: Answer.of(output) for name, output in run(stored).items()})
        room -= sum(a.size for a in stored.values()) + sum(
            a.values.nbytes for a in answers[-1].values()
        )
        if room <= 0:
            break
    return Golden(tuple(inputs), tuple(answers), tolerance)


def _tolerance(winner: Trial) -> float:
    error = 10 ** (-winner.agreement.sqnr_db / 20)
    return float(np.clip(2 * error, 0.01, 0.5))


def precision_of(operators: Sequence[Operator]) -> str:
    """What the operators that do the work compute in: one precision, or `mixed`."""
    working = [o for o in operators if o.precision not in ("conversion", "integer")]
    products = [o.precision for o in working if any(name in o.kind for name in PRODUCTS)]
    kinds = set(products or [o.precision for o in working])
    if not kinds:
        return "float32"
    return kinds.pop() if len(kinds) == 1 else "mixed"


def count_operators(operators: Sequence[Operator]) -> dict[str, int]:
    """How many operators compute in int8, how many in float, and the conversions between."""
    found = Counter(o.precision for o in operators)
    floats = sum(found[name] for name in ("float32", "float64", "bf16", "float16"))
    return {"int8": found["int8"], "float": floats, "conversions": found["conversion"]}
