"""The whole line: a model and samples in, one proven bundle out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from edgedl.backends import Backend
from edgedl.backends.emulated import Emulated
from edgedl.benchmark.accuracy import check_labels, metric_for
from edgedl.benchmark.compare import Comparison
from edgedl.benchmark.machine import processor_of, this_machine
from edgedl.core.errors import Unsupported
from edgedl.core.kept import kept, read_ahead
from edgedl.core.memory import peak_rss_bytes
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Arrays, Samples
from edgedl.core.stats import Agreement
from edgedl.core.store import check_writable
from edgedl.core.target import target_of
from edgedl.inputs import (
    ProcessingSource,
    SampleSource,
    find_processing,
    load_model,
    load_samples,
    split,
)
from edgedl.passes.plan_file import fit, from_document
from edgedl.report.compressed import Choice, Compressed
from edgedl.runtime import ENGINES, how_to_get, installed_engines
from edgedl.runtime.process import Processing
from edgedl.runtime.process.postprocess import Postprocess
from edgedl.search.candidates import (
    Ask,
    Reference,
    Trial,
    reference,
)
from edgedl.search.choose import BUSY, confirm
from edgedl.search.effort import effort_of
from edgedl.search.find import Search, find, in_order
from edgedl.search.foretold import foretold
from edgedl.search.limits import Limits
from edgedl.search.outcome import MOST_AGREEMENT, outcome
from edgedl.search.prepared import as_planned
from edgedl.search.ready import (
    backends_of,
    float_session,
    for_shapes,
    of_one_mind,
    prepare,
    proven_clean,
    unquantized,
    widened,
    with_shapes,
)
from edgedl.search.told import float_reasons, plan_text
from edgedl.search.ways import Ways
from edgedl.search.why import reasons, too_busy, trained
from edgedl.ship import Shipped, bundle_sizes, count_operators, precision_of, ship
from edgedl.untimed import untimed
from edgedl.yamls import read_yaml

MOST_FEEDS = 32
MOST_PLAN_BYTES = 20_000_000


def compress(
    model: str | Path,
    samples: SampleSource,
    output: str | Path,
    *,
    ask: Ask = "int8",
    plan: str | Path | None = None,
    target: str = "cpu",
    test: SampleSource | None = None,
    validation: SampleSource | None = None,
    preprocess: ProcessingSource | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    max_drop: float | None = None,
    max_latency_ms: float | None = None,
    max_bytes: int | None = None,
    metric: str | None = None,
    threads: int = 1,
    seed: int = 0,
    seconds: float = 4.0,
    force: bool = False,
    effort: str = "fast",
    unmeasured: bool = False,
    progress: Progress = silent,
) -> Compressed:
    """Make the smallest and fastest model for a target that keeps the limits, and prove it.

    Every installed engine of the target is tried with the model in float32, in the reduced float
    precisions that are fast here, and in int8 as far as its rules go and as its costs say. What is
    fastest, measured interleaved, and keeps the limits is written to `output`, opened again and
    checked.

    Args:
        model: an ONNX file, a bundle, or a folder that holds one of them.
        samples: inputs by name with a leading sample axis, and `labels` where there are any. Half
            of them, 512 at most, calibrate; the others are for choosing and for the report.
        output: the bundle to write.
        ask: what may ship: `int8` or `auto` anything, `weights` what computes in float and stores
            its weights in 8 bits, `bf16`, `float16` and `float32` what computes in that,
            `dynamic` what quantizes activations in each call.
        plan: a YAML file that says which operators compute in int8; nothing else may ship then.
        test: samples for choosing and for the report; all of `samples` may then calibrate.
        validation: samples for choosing; the report is then on all of `test`.
        preprocess: what turns raw files into inputs, as a YAML file or a value, where samples are
            a folder of them; the bundle carries it. A bundle's own where `model` is one.
        shapes: dimensions to fix, by input.
        max_drop: the most that the metric may fall, as a fraction. Without labels, what may be
            missing to float's own figure of a named metric, else to a top-1 agreement of 1.
        metric: a name of `edgedl.benchmark.metrics.METRICS` with its settings, or `module:function`
            of your own; where None, what the labels suggest.
        threads: processor threads that a call takes while it is timed.
        seconds: the budget of the last, decisive timing.
        effort: how much time and speed may go into answers like float's: `fast`, `normal`
            (weights and scales of the fastest plan are trained, where torch is installed; operators
            go back to float for 10 % of the speed, where fewer than 98 of 100 classes are float's),
            or `max`, which searches and trains longer.
        force: quantize a model anew that is quantized already, its quantizers taken out first; and
            ship what the only engine of the target computes otherwise than onnxruntime in float32.
        unmeasured: for the engine of a GPU that this machine has not, choose by answers alone,
            computed by onnxruntime from the same graph; what ships was never timed.

    Raises:
        BadValue: the plan is none, or does not fit the model. WrongAnswers: the only engine of the
            target computes the model wrongly in float32. EdgeError: the inputs are unsound,
            or nothing that was built could be run.
    """
    began = perf_counter()
    check_writable(Path(output), model, samples, test, validation, plan, preprocess)
    tried = effort_of(effort)
    chosen = target_of(target)
    processor = processor_of(chosen.name)
    processing = find_processing(preprocess, [model])
    backends, doubts = backends_of(chosen, unmeasured)
    machine_there = None if processor is None else processor.machine()
    written = None if plan is None else read_yaml(plan, MOST_PLAN_BYTES)
    planned = None
    if written is not None and plan is not None:
        planned = written.read(lambda one: from_document(one).with_constants(Path(plan).parent))
    if planned is not None:
        ask, backends = "plan", [b for b in backends if _engine_of(b) == planned.engine]
        if not backends:
            raise Unsupported(
                f"the plan is for {planned.engine}, which target `{target}` does not run here",
                where=str(plan),
                hint=_way_to(planned.engine),
            )
    given, odd_model = unquantized(load_model(model)) if force else (load_model(model), [])
    check_writable(Path(output), *given.files)
    given, shapes, odd_shapes = with_shapes(given, shapes or {}, backends)
    clean, odd_types = widened(prepare(given, shapes))
    doubts += [*odd_model, *odd_shapes, *odd_types]
    bound = kept(load_samples(samples, processing).bind(clean.signature))
    tested, validated = (
        None if one is None else kept(load_samples(one, processing).bind(clean.signature))
        for one in (test, validation)
    )
    groups = split(bound, tested, seed, validated)
    named = metric_for(groups.report, metric, None if processing is None else processing.boxes)
    compared = _first(groups.report, MOST_AGREEMENT)
    for group in (groups.calibration, groups.choice, groups.report if named else compared):
        read_ahead(group, progress)

    clean, odd_clean = proven_clean(given, clean, groups.choice)
    backends, odd_engines = of_one_mind(backends, given, clean, groups.choice, force=force)
    backends = [for_shapes(built, clean, groups.choice) for built in backends]
    doubts += odd_engines
    with float_session(backends, given, clean, next(iter(groups.choice))) as session:
        expected = replace(reference(session, groups.choice, named), machine=machine_there)
        if processing is not None:
            processing = processing.bind(clean.signature)
            processing.after(expected.answers[0])
            processing = _named(processing, bound, expected.answers[0])
            doubts += _untried(processing, bound)
        if named is not None:
            check_labels(session, groups.report, named)
            expected.check_metric()

    if written is not None and planned is not None:
        written.read(lambda _: fit(planned, as_planned(clean, planned, groups.calibration).model))
    notes: dict[str, Any] = {"target": target, "threads": threads}
    sizes = bundle_sizes(groups.report, expected.answers[0], notes, processing)
    limits = Limits(max_drop, max_latency_ms, max_bytes, sizes)
    ways = Ways(
        given, clean, groups.calibration, expected, limits, threads, progress, ask, planned, tried
    )  # fmt: skip
    if isinstance(backends[0], Emulated):
        return untimed(
            backends[0], ways, groups, named, Path(model), Path(output), notes, processing, began,
            (*doubts, *groups.doubts, *odd_clean, *_odd_answers(expected)),
        )  # fmt: skip
    feeds = list(_first(groups.choice, MOST_FEEDS))

    shipped: Shipped | None = None

    def keep(trial: Trial, **more: Any) -> Shipped:
        nonlocal shipped
        shipped = ship(
            trial, groups.report, Path(output), threads, {**notes, **more}, processing, shipped,
            fallbacks="unconfirmed" not in more,
        )  # fmt: skip
        return shipped

    search = find(backends, ways, feeds, seed, partial(keep, unconfirmed=True))
    winner, comparison, baseline = confirm(
        in_order(search, ways), search.timed.candidates, feeds, threads, seconds, seed, progress,
        search.timed.latency_ms,
    )  # fmt: skip
    noise = max(search.timed.noise_floor, comparison.noise_floor)
    timed = search.timed

    ratio = comparison.ratio("baseline", "result")
    machine = this_machine().to_json()
    operators = keep(winner, speedup=ratio.to_json(), machine=machine).operators
    judged = outcome(
        baseline, winner.candidate, groups.report, named, threads, progress, machine_there
    )
    alike, drop = judged.agreement, judged.beside(winner.drop, len(expected.feeds))
    size = Path(output).stat().st_size
    result_ms = comparison.measurements["result"].latency_ms()
    p50_ms = float(np.median(comparison.measurements["result"].samples_ns)) / 1e6
    return Compressed(
        source=Path(model),
        output=Path(output),
        engine=winner.candidate.engine,
        target=target,
        precision=precision_of(operators),
        threads=threads,
        bytes=size,
        baseline_bytes=given.bytes,
        baseline_ms=comparison.measurements["baseline"].latency_ms(),
        result_ms=result_ms,
        speedup=ratio,
        verdict=ratio.verdict(comparison.noise_floor),
        noise_floor=comparison.noise_floor,
        agreement=alike,
        accuracy=judged.accuracy,
        against_float=judged.against_float,
        failed=judged.failed,
        operators=count_operators(operators),
        choices=_choices(search, limits, winner),
        float_reasons=float_reasons(winner),
        why=(
            *too_busy(winner.candidate, timed.candidates, timed.latency_ms, noise),
            *trained(winner, search.trials),
            *reasons(winner.candidate, operators, timed.latency_ms),
        ),
        costs=tuple(cost.to_json() for cost in winner.candidate.costs),
        plan=plan_text(winner.candidate, clean),
        tuned=None if winner.candidate.prepared is None else winner.candidate.prepared.tuned,
        doubts=(
            *doubts,
            *foretold(processor, winner.candidate.engine),
            *groups.doubts,
            *odd_clean,
            *_odd_answers(expected),
            *_late_doubts(winner, alike, comparison, noise, ask),
            *([doubt] if (doubt := drop.doubt(max_drop)) else []),
        ),
        broken=limits.broken(drop.reported, p50_ms, size, drop.about),
        seconds=perf_counter() - began,
        peak_rss_bytes=peak_rss_bytes(),
        machine=machine,
    )


def _engine_of(built: Backend) -> str:
    return built.stands_for if isinstance(built, Emulated) else built.engine


def _way_to(engine_name: str) -> str:
    """The hint for who wants an engine that the target has not, or this machine."""
    if engine_name in installed_engines():
        return f"--target {engine_name}"
    known = ", ".join(ENGINES)
    return how_to_get(engine_name) if engine_name in ENGINES else f"known: {known}"


def _named(
    processing: Processing, samples: Samples, answers: Mapping[str, np.ndarray]
) -> Processing:
    """With the names of the samples' classes as labels, where they are as many as the model's."""
    after = processing.postprocess
    axis = getattr(after, "axis", None)
    if after is None or axis is None or after.labels or after.output is None:
        return processing
    if answers[after.output].shape[axis] != len(samples.classes):
        return processing
    # whatever has an axis of classes has names for them
    named: Postprocess = replace(after, labels=samples.classes)  # type: ignore[type-var]
    return replace(processing, postprocess=named)


def _untried(processing: Processing, samples: Samples) -> list[str]:
    if isinstance(samples.source, Arrays):
        kind = processing.preprocess.kind
        return [f"the bundle's pre-processing ({kind}) was not run: the samples came as arrays"]
    return []


def _odd_answers(expected: Reference) -> list[str]:
    doubts = []
    flat = [
        np.concatenate([a.ravel().astype(np.float64) for a in one.values()])
        for one in expected.answers
    ]
    if not all(np.isfinite(answer).all() for answer in flat):
        doubts.append("the float model's answers are not all finite")
    elif len(flat) > 1 and all(
        a.shape == flat[0].shape and np.array_equal(a, flat[0]) for a in flat
    ):
        doubts.append(
            "the float model answers every sample alike: are the samples what it expects?"
        )
    return doubts


def _first(samples: Samples, most: int) -> Samples:
    return samples.take(range(min(most, len(samples))))


def _choices(search: Search, limits: Limits, winner: Trial) -> tuple[Choice, ...]:
    rows = []
    trials = {trial.candidate.name: trial for trial in (*search.trials, winner)}
    for candidate in search.timed.candidates:
        milliseconds = search.timed.latency_ms[candidate.name]
        trial = trials.get(candidate.name)
        broken = limits.broken_by(trial, milliseconds) if trial else ()
        unfit = (candidate.unfit,) if candidate.unfit else ()
        outcome = "ships" if trial is winner else "; ".join((*unfit, *broken))
        rows.append(
            Choice(
                candidate.name,
                milliseconds,
                trial.agreement if trial else None,
                trial.drop if trial else None,
                candidate.model.bytes,
                outcome,
            )
        )
    rows += [Choice(r.name, None, None, None, None, r.reason) for r in search.refusals]
    return tuple(rows)


def _late_doubts(
    winner: Trial, alike: Agreement, comparison: Comparison, noise: float, ask: Ask
) -> list[str]:
    doubts = []
    if alike.cosine < 0.98 or (alike.top1 is not None and alike.top1 < 0.95):
        top1 = "" if alike.top1 is None else f"top-1 agreement {alike.top1:.3f}, "
        doubts.append(
            f"the answers moved ({top1}cosine {alike.cosine:.4f}); `--effort normal` looks for"
            " closer ones, `--max-drop 1%` sets a limit"
        )
    if comparison.unsteady:
        doubts.append(
            "the timings did not become steady: the machine is busy, or its clock changes"
        )
    if noise > BUSY:
        doubts.append(
            "the machine was too busy to measure on: the same model differed from itself by"
            f" {100 * noise:.0f} %, and ways that are nearer to one another were not told apart"
        )
    if winner.candidate.precision != "int8" and ask in ("int8", "auto"):
        doubts.append(f"computing in int8 did not win here; {winner.candidate.label} ships")
    return doubts
