"""The whole line: a model and samples in, one proven bundle out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import edgedl
from edgedl.backends import Backend, backend
from edgedl.benchmark.accuracy import agreement, check_labels, metric_for, score
from edgedl.benchmark.bench import BenchReport
from edgedl.benchmark.bench import bench as run_bench
from edgedl.benchmark.compare import Comparison, compare
from edgedl.benchmark.machine import INT8_FLAGS, energy_counters, this_machine
from edgedl.core.errors import BadSamples, EdgeError, EngineFailed, Missing, WrongAnswers
from edgedl.core.memory import peak_rss_bytes
from edgedl.core.model import Model
from edgedl.core.progress import Progress, silent
from edgedl.core.registry import version
from edgedl.core.samples import Samples, from_arrays, open_npz
from edgedl.core.stats import Agreement
from edgedl.core.store import atomic_write, default_store, key_of
from edgedl.core.target import Target, target_of
from edgedl.core.units import format_bytes
from edgedl.passes.calibrate import calibrate, forecast
from edgedl.passes.clean import Clean
from edgedl.passes.fold import Fold
from edgedl.passes.graph import FILE_NAME, open_model, quantized_already, rewrite, to_ship
from edgedl.passes.inspect import inspect as inspect_model
from edgedl.passes.ranges import METHODS, Histogram, Method
from edgedl.passes.shapes import Shapes
from edgedl.report.compressed import Accuracy, Choice, Compressed
from edgedl.runtime import ENGINES, engine, installed_engines
from edgedl.runtime.artifact import engine_of_target, find_artifact, find_model
from edgedl.runtime.bundle import is_bundle, open_bundle, write_bundle
from edgedl.runtime.check import check
from edgedl.runtime.golden import Answer, Golden, coarse
from edgedl.runtime.session import Operator, Session
from edgedl.search.candidates import (
    Candidate,
    Reference,
    Refusal,
    Trial,
    float_candidates,
    int8_candidates,
    reference,
    tensors_to_watch,
    try_out,
)
from edgedl.search.limits import Limits, relieve

MOST_CALIBRATION = 512
MOST_CHOICE = 256
MOST_AGREEMENT = 256
MOST_FEEDS = 32
GOLDEN_SHARE = 0.03
MOST_GOLDEN = 8
TIE = 0.03
SAME_ANSWERS = 0.999
UNRELATED = 0.6
PRODUCTS = frozenset(
    {"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul",
     "Convolution", "FullyConnected", "Deconvolution"}
)  # fmt: skip


@dataclass(frozen=True)
class Groups:
    """Samples for each purpose, disjoint where there are enough."""

    calibration: Samples
    choice: Samples
    report: Samples
    doubts: tuple[str, ...]


def load_samples(source: str | Path | Samples | Mapping[str, np.ndarray]) -> Samples:
    """Samples from an `.npz` file, or from arrays by input name.

    Raises:
        BadSamples: they are unsound.
    """
    if isinstance(source, Samples):
        return source
    if isinstance(source, Mapping):
        return from_arrays(source)
    return open_npz(source)


def load_model(path: str | Path) -> Model:
    """The ONNX model in a file, a bundle, or a folder that holds one of them.

    Raises:
        BadModel, BadBundle: the file is missing or unsound.
    """
    path = find_model(path)
    if not is_bundle(path):
        return open_model(path)
    bundle = open_bundle(path)
    part = bundle.parts[bundle.payloads[0].part]

    def unpack(folder: Path) -> None:
        (folder / FILE_NAME).write_bytes(bundle.read(part.name))

    folder = default_store().make(key_of(part=part.sha256), unpack)
    return replace(open_model(folder / FILE_NAME), history=bundle.history())


def prepare(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    """The same model cleaned, folded, and with these shapes fixed."""
    return rewrite(model, Clean(), Shapes(shapes), Fold(), Shapes())


def compress(
    model: str | Path,
    samples: str | Path | Samples | Mapping[str, np.ndarray],
    output: str | Path,
    *,
    target: str = "cpu",
    test: str | Path | Samples | Mapping[str, np.ndarray] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    max_drop: float | None = None,
    max_latency_ms: float | None = None,
    max_bytes: int | None = None,
    metric: str | None = None,
    threads: int = 1,
    seed: int = 0,
    seconds: float = 10.0,
    progress: Progress = silent,
) -> Compressed:
    """Make the smallest and fastest model for a target that keeps the limits, and prove it.

    Every installed engine of the target is tried with the model in float32, in the reduced float
    precisions that are fast here, and in int8 as far as its rules go and narrower. What is fastest,
    measured interleaved, and keeps the limits is written to `output`, opened again and checked.

    Args:
        model: an ONNX file, a bundle, or a folder that holds one of them.
        samples: inputs by name with a leading sample axis, and `labels` where there are any. Half
            of them, 512 at most, calibrate; the others are for choosing and for the report.
        output: the bundle to write.
        test: samples for choosing and for the report; all of `samples` may then calibrate.
        shapes: dimensions to fix, by input.
        max_drop: the most that the metric may fall, as a fraction. Without labels, what may be
            missing to a top-1 agreement of 1.
        threads: processor threads that a call takes while it is timed.
        seconds: the budget of the last, decisive timing.

    Raises:
        EdgeError: the inputs are unsound, or nothing that was built could be run.
    """
    began = perf_counter()
    chosen = target_of(target)
    limits = Limits(max_drop, max_latency_ms, max_bytes)
    backends, doubts = _backends(chosen)
    given = load_model(model)
    clean = prepare(given, shapes or {})
    if shapes:
        given = rewrite(given, Shapes(shapes))
    bound = load_samples(samples).bind(clean.signature)
    tested = None if test is None else load_samples(test).bind(clean.signature)
    groups = split(bound, tested, seed)
    doubts += groups.doubts
    named = metric_for(groups.report, metric)

    clean, same = _proven_clean(given, clean, groups.choice)
    doubts += same
    with _float_session(backends, given, clean) as session:
        expected = reference(session, groups.choice.take(range(min(MOST_CHOICE, len(groups.choice)))), named)
        if named is not None:
            check_labels(session, groups.report, named)
    doubts += _odd_answers(expected)

    trials, refusals = _trials(backends, given, clean, groups, expected, limits, threads, progress)
    feeds = list(groups.choice.take(range(min(MOST_FEEDS, len(groups.choice)))))
    latency = _time_trials(trials, feeds, threads, seed, progress)
    order = rank(trials, latency, limits)
    winner, comparison, baseline = _confirm(order, trials, feeds, threads, seconds, seed, progress)

    output = Path(output)
    golden = _golden(winner, groups.report, threads)
    built = backend(winner.candidate.engine)
    data, names = to_ship(winner.candidate.model)
    payload = built.compile(data, winner.candidate.precision)
    machine = this_machine().to_json()
    ratio = comparison.ratio("baseline", "result")
    write_bundle(
        output,
        signature=winner.candidate.model.signature,
        payloads=[(payload, data)],
        golden=golden,
        history=winner.candidate.model.history,
        names=names,
        notes={"target": target, "threads": threads, "speedup": ratio.to_json(), "machine": machine},
    )
    proof = check(output, threads=threads)
    if not proof.ok:
        raise WrongAnswers(
            f"the bundle does not answer as its model did ({proof.payloads[0].problem})",
            where=str(output),
            hint="please report this, with the model",
        )
    alike, accuracy = _report_answers(baseline, winner.candidate, groups.report, named, threads, progress)
    operators = engine(winner.candidate.engine).operators(
        data, feeds[0], settings=payload.settings, threads=threads
    )
    result_ms = comparison.measurements["result"].latency_ms()
    drop = accuracy.baseline - accuracy.result if accuracy else _without_labels(alike)
    size = output.stat().st_size
    broken = limits.broken(drop, float(result_ms["p50"] or result_ms["mean"] or 0), size)
    verdict = ratio.verdict(comparison.noise_floor)
    doubts += _late_doubts(winner, alike, comparison, drop)
    return Compressed(
        source=Path(model),
        output=output,
        engine=winner.candidate.engine,
        target=target,
        precision=precision_of(operators),
        threads=threads,
        bytes=size,
        baseline_bytes=given.bytes,
        baseline_ms=comparison.measurements["baseline"].latency_ms(),
        result_ms=result_ms,
        speedup=ratio,
        verdict=verdict,
        noise_floor=comparison.noise_floor,
        agreement=alike,
        accuracy=accuracy,
        operators=_count(operators),
        choices=_choices(trials, refusals, latency, limits, winner),
        float_reasons=_float_reasons(winner, trials),
        doubts=tuple(doubts),
        broken=broken,
        seconds=perf_counter() - began,
        peak_rss_bytes=peak_rss_bytes(),
        machine=machine,
    )


def _backends(target: Target) -> tuple[list[Backend], list[str]]:
    found, doubts = [], []
    for name in target.engines:
        if name not in installed_engines():
            doubts.append(f"{name} was not tried: pip install 'edgedl[{name}]'")
            continue
        built = backend(name)
        built.check(target)
        found.append(built)
    if not found:
        raise Missing(
            f"no engine of target `{target.name}` is installed",
            hint=f"pip install 'edgedl[{target.engines[0]}]'",
        )
    return found, doubts if len(target.engines) > 1 else []


def split(samples: Samples, test: Samples | None, seed: int) -> Groups:
    """Half of the samples, 512 at most, to calibrate, the rest to choose and to report on."""
    count = len(samples)
    if test is not None:
        size = min(MOST_CALIBRATION, count)
        calibration = samples.split([size], seed)[0]
        rest = test
    elif count == 1:
        return Groups(samples, samples, samples, ("one sample served for everything; give more",))
    else:
        size = min(MOST_CALIBRATION, max(1, count // 2))
        calibration, rest = samples.split([size, count - size], seed)
    doubts = () if size >= 16 else (f"{size} calibration samples; 100 or more give safer ranges",)
    if len(rest) < 32:
        few = f"{len(rest)} held-back samples served for choosing and for the report"
        return Groups(calibration, rest, rest, (*doubts, few))
    choice = min(MOST_CHOICE, len(rest) // 2)
    chosen, report = rest.split([choice, len(rest) - choice], seed + 1)
    return Groups(calibration, chosen, report, doubts)


def _proven_clean(given: Model, clean: Model, samples: Samples) -> tuple[Model, list[str]]:
    """The cleaned model, or the given one where cleaning changed the answers."""
    few = samples.take(range(min(4, len(samples))))
    for name in installed_engines():
        open_it = engine(name).open_model
        try:
            with open_it(given.path, settings={}) as before, open_it(clean.path, settings={}) as after:
                alike = agreement(before, after, few)
        except EdgeError:
            continue
        if alike.cosine >= SAME_ANSWERS:
            return clean, []
        note = f"cleaning changed the answers (cosine {alike.cosine:.4f} on {name}), so the graph was left as it is"
        return given, [note]
    return clean, []


def _float_session(backends: Sequence[Backend], given: Model, clean: Model) -> Session:
    """The float model on the first engine that takes it."""
    reasons = []
    for built in backends:
        for model in (given, clean):
            try:
                return engine(built.engine).open_model(model.path, settings=built.settings("float32"))
            except EngineFailed as error:
                reasons.append(error)
    raise reasons[0]


def _odd_answers(expected: Reference) -> list[str]:
    doubts = []
    flat = [np.concatenate([a.ravel().astype(np.float64) for a in one.values()]) for one in expected.answers]
    if not all(np.isfinite(answer).all() for answer in flat):
        doubts.append("the float model's answers are not all finite")
    elif len(flat) > 1 and all(a.shape == flat[0].shape and np.array_equal(a, flat[0]) for a in flat):
        doubts.append("the float model answers every sample alike: are the samples what it expects?")
    return doubts


def _trials(
    backends: Sequence[Backend],
    given: Model,
    clean: Model,
    groups: Groups,
    expected: Reference,
    limits: Limits,
    threads: int,
    progress: Progress,
) -> tuple[list[Trial], list[Refusal]]:
    trials: list[Trial] = []
    refusals: list[Refusal] = []

    def attempt(candidate: Candidate | Refusal) -> Trial | None:
        if isinstance(candidate, Refusal):
            refusals.append(candidate)
            return None
        progress("building " + candidate.engine, len(trials), len(trials) + 4)
        try:
            trials.append(try_out(candidate, expected, threads))
        except EdgeError as error:
            refusals.append(Refusal(candidate.name, error.message))
            return None
        return trials[-1]

    for built in backends:
        for candidate in float_candidates(built, given, clean):
            attempt(candidate)
    if quantized_already(clean):
        refusals.append(Refusal("int8", "the model is quantized already, and left as it is"))
        return trials, refusals
    watched = tensors_to_watch(clean, [built.scheme for built in backends])
    if not watched:
        refusals.append(Refusal("int8", "the graph has no operator that an engine computes in int8"))
        return trials, refusals
    need = forecast(clean, watched, groups.calibration)
    progress(f"calibrating (needs about {format_bytes(need.peak_bytes)})", 0, 1)
    histograms = calibrate(clean, watched, groups.calibration, progress=progress)
    for built in backends:
        first: Trial | None = None
        for found in int8_candidates(built, clean, histograms, expected, threads):
            trial = attempt(found)
            first = first or trial
        if first and limits.max_drop is not None and first.drop > limits.max_drop:
            trials += _relieved(built, clean, histograms, first, expected, limits.max_drop, threads, refusals)
    return trials, refusals


def _relieved(
    built: Backend,
    clean: Model,
    histograms: Mapping[str, Histogram],
    first: Trial,
    expected: Reference,
    max_drop: float,
    threads: int,
    refusals: list[Refusal],
) -> list[Trial]:
    found: list[Trial] = []
    method: Method = next(m for m in METHODS if first.candidate.label.endswith(m))
    try:
        for trial in relieve(built, clean, histograms, method, first.candidate, expected, max_drop, threads):
            found.append(trial)
    except EdgeError as error:
        refusals.append(Refusal(f"{built.engine} int8 with operators in float", error.message))
    return found


def _time_trials(
    trials: Sequence[Trial],
    feeds: Sequence[Mapping[str, np.ndarray]],
    threads: int,
    seed: int,
    progress: Progress,
) -> dict[str, float]:
    """The median latency of every trial in milliseconds, from few rounds of all of them."""
    if not trials:
        raise EngineFailed("no engine could run the model in any way", hint="`edgedl bench` shows why")
    sessions = {trial.candidate.name: trial.candidate.open(threads) for trial in trials}
    try:
        found = compare(
            sessions, feeds, seconds=0.3 * len(sessions), least_rounds=5, seed=seed, progress=progress
        )
    finally:
        for session in sessions.values():
            session.close()
    return {name: float(np.median(medians)) / 1e6 for name, medians in found.medians_ns.items()}


def rank(trials: Sequence[Trial], latency: Mapping[str, float], limits: Limits) -> list[Trial]:
    """Trials, the one to ship first.

    Those that keep the limits come before those that do not, fewer broken limits before more.
    Among them the fastest is first; of those within 3 % of it, the one that answers most like
    float. Answers that have nothing to do with float's come last.
    """

    def troubles(trial: Trial) -> tuple[int, int]:
        candidate = trial.candidate
        broken = limits.broken(trial.drop, latency[candidate.name], candidate.model.bytes)
        same = trial.agreement
        lost = same.cosine < UNRELATED and (same.top1 is None or same.top1 < 0.5)
        return int(lost), len(broken)

    order = sorted(trials, key=lambda trial: (troubles(trial), latency[trial.candidate.name]))
    best = order[0]
    near = [
        trial
        for trial in order
        if troubles(trial) == troubles(best)
        and latency[trial.candidate.name] <= (1 + TIE) * latency[best.candidate.name]
    ]
    if best.candidate.plan is not None:
        near = [trial for trial in near if trial.candidate.plan is not None]
        near.sort(key=lambda trial: -trial.agreement.sqnr_db)
    else:
        near.sort(key=lambda trial: trial.candidate.model.bytes)
    return [*near, *(trial for trial in order if trial not in near)]


def _confirm(
    order: Sequence[Trial],
    trials: Sequence[Trial],
    feeds: Sequence[Mapping[str, np.ndarray]],
    threads: int,
    seconds: float,
    seed: int,
    progress: Progress,
) -> tuple[Trial, Comparison, Candidate]:
    """The first in order that is not slower than its engine's float32 model, as measured at length."""
    for trial in order:
        name = trial.candidate.engine
        floats = [t.candidate for t in trials if t.candidate.engine == name and t.candidate.precision == "float32"]
        baseline = floats[0] if floats else trial.candidate
        with (
            baseline.open(threads) as base,
            baseline.open(threads) as again,
            trial.candidate.open(threads) as result,
        ):
            comparison = compare(
                {"baseline": base, "result": result},
                feeds,
                twin=again,
                seconds=seconds,
                seed=seed,
                progress=progress,
            )
        slower = comparison.ratio("baseline", "result").verdict(comparison.noise_floor) == "slower"
        if not slower or trial.candidate is baseline:
            return trial, comparison, baseline
    return trial, comparison, baseline


def _golden(winner: Trial, samples: Samples, threads: int) -> Golden:
    """A few samples with the winner's answers, in at most 3 % of the model's bytes but one sample."""
    room = GOLDEN_SHARE * winner.candidate.model.bytes
    inputs, answers = [], []
    with winner.candidate.open(threads) as session:
        for feed in samples.take(range(min(MOST_GOLDEN, len(samples)))):
            stored = coarse(feed)
            inputs.append(stored)
            answers.append({name: Answer.of(output) for name, output in session.run(stored).items()})
            room -= sum(a.size for a in stored.values()) + sum(a.values.nbytes for a in answers[-1].values())
            if room <= 0:
                break
    error = 10 ** (-winner.agreement.sqnr_db / 20)
    return Golden(tuple(inputs), tuple(answers), float(np.clip(2 * error, 0.01, 0.5)))


def _report_answers(
    baseline: Candidate,
    result: Candidate,
    samples: Samples,
    metric: str | None,
    threads: int,
    progress: Progress,
) -> tuple[Agreement, Accuracy | None]:
    with baseline.open(threads) as before, result.open(threads) as after:
        alike = agreement(before, after, samples.take(range(min(MOST_AGREEMENT, len(samples)))), progress)
        if metric is None:
            return alike, None
        first = float(np.mean(score(before, samples, metric, progress)))
        second = float(np.mean(score(after, samples, metric, progress)))
    return alike, Accuracy(metric, first, second, len(samples))


def _without_labels(alike: Agreement) -> float:
    return 1 - (alike.cosine if alike.top1 is None else alike.top1)


def precision_of(operators: Sequence[Operator]) -> str:
    """What the operators that do the work compute in: one precision, or `mixed`."""
    working = [o for o in operators if o.precision not in ("conversion", "integer")]
    products = [o.precision for o in working if o.kind in PRODUCTS or o.kind.startswith("QLinear")]
    kinds = set(products or [o.precision for o in working])
    if not kinds:
        return "float32"
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _count(operators: Sequence[Operator]) -> dict[str, int]:
    found = Counter(o.precision for o in operators)
    floats = sum(found[name] for name in ("float32", "float64", "bf16", "float16"))
    counted = {"int8": found["int8"], "float": floats, "conversions": found["conversion"]}
    return counted


def _choices(
    trials: Sequence[Trial],
    refusals: Sequence[Refusal],
    latency: Mapping[str, float],
    limits: Limits,
    winner: Trial,
) -> tuple[Choice, ...]:
    rows = []
    for trial in trials:
        candidate = trial.candidate
        milliseconds = latency[candidate.name]
        broken = limits.broken(trial.drop, milliseconds, candidate.model.bytes)
        outcome = "ships" if trial is winner else "; ".join(broken)
        rows.append(
            Choice(candidate.name, milliseconds, trial.agreement, trial.drop, candidate.model.bytes, outcome)
        )
    rows += [Choice(refusal.name, None, None, None, None, refusal.reason) for refusal in refusals]
    return tuple(rows)


def _float_reasons(winner: Trial, trials: Sequence[Trial]) -> dict[tuple[str, str], int]:
    plan = winner.candidate.plan
    if plan is not None:
        return dict(
            Counter((d.operator, d.reason) for d in plan.decisions if d.precision == "float")
        )
    tried = [t for t in trials if t.candidate.engine == winner.candidate.engine and t.candidate.plan]
    if not tried:
        return {}
    return {("operators", f"{winner.candidate.label} was the fastest that keeps the limits"): 1}


def _late_doubts(winner: Trial, alike: Agreement, comparison: Comparison, drop: float) -> list[str]:
    doubts = []
    if alike.cosine < 0.98 or (alike.top1 is not None and alike.top1 < 0.95):
        top1 = "" if alike.top1 is None else f"top-1 agreement {alike.top1:.3f}, "
        doubts.append(f"the answers moved ({top1}cosine {alike.cosine:.4f}): `--max-drop 1%` holds them closer")
    if comparison.unsteady:
        doubts.append("the timings did not become steady: the machine is busy, or its clock changes")
    if comparison.noise_floor > 0.05:
        doubts.append(f"a noisy machine: the same model differs from itself by {100 * comparison.noise_floor:.0f} %")
    if winner.candidate.plan is None and winner.candidate.precision in ("float32", "bf16", "float16"):
        doubts.append(f"int8 did not win here; {winner.candidate.label} ships, at its size")
    return doubts


def write_report(result: Compressed, folder: str | Path) -> None:
    """Write the report as text and JSON into a folder, which is made where it is missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.txt").write_text(result.text() + "\n")
    (folder / "report.json").write_text(json.dumps(result.to_json(), indent=2) + "\n")


def bench(
    models: Sequence[str | Path],
    *,
    target: str | None = None,
    samples: str | Path | Samples | Mapping[str, np.ndarray] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    threads: int = 1,
    seconds: float = 10.0,
    progress: Progress = silent,
) -> BenchReport:
    """Time models side by side; ONNX files run in float32 on the target's engine.

    Raises:
        EdgeError: a file is unsound, its engine is missing, or the inputs do not fit.
    """
    engine_name = engine_of_target(target)
    paths = [str(_shaped(path, shapes)) if shapes else str(path) for path in models]
    given = None if samples is None else load_samples(samples)
    return run_bench(
        paths, engine=engine_name, samples=given, threads=threads, seconds=seconds, progress=progress
    )


def _shaped(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    found = find_model(path)
    return found if is_bundle(found) else rewrite(open_model(found), Shapes(shapes)).path


def evaluate(
    models: Sequence[str | Path],
    samples: str | Path | Samples | Mapping[str, np.ndarray],
    *,
    target: str | None = None,
    metric: str | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """A metric of each model on labelled samples, and how alike it answers to the first.

    Returns:
        `metric` and `rows`, each with `artifact`, `engine`, `value`, `samples`, `agreement`.

    Raises:
        EdgeError: a file is unsound, its engine is missing, or the samples do not fit.
    """
    engine_name = engine_of_target(target)
    artifacts = [find_artifact(path, engine_name) for path in models]
    given = load_samples(samples)
    named = metric_for(given, metric)
    rows: list[dict[str, Any]] = []
    with artifacts[0].open(threads) as first:
        bound = given.bind(first.signature)
        for i, artifact in enumerate(artifacts):
            with artifact.open(threads) as session:
                value = None
                if named is not None:
                    check_labels(session, bound, named)
                    value = float(np.mean(score(session, bound, named, progress)))
                alike = agreement(first, session, bound, progress) if i else None
            rows.append(
                {
                    "artifact": str(artifact.path),
                    "engine": artifact.engine,
                    "precision": artifact.precision,
                    "value": value,
                    "samples": len(bound),
                    "agreement": None if alike is None else alike.to_json(),
                }
            )
    return {"metric": named, "rows": rows}


def run(
    bundle: str | Path,
    inputs: str | Path | Samples | Mapping[str, np.ndarray],
    output: str | Path,
    *,
    threads: int | None = None,
    target: str | None = None,
    progress: Progress = silent,
) -> int:
    """Run every sample and save the outputs by name, one row a sample; returns how many.

    Raises:
        EdgeError: a file is unsound, its engine is missing, the inputs do not fit, or the outputs
            of two samples have unlike shapes.
    """
    artifact = find_artifact(bundle, engine_of_target(target))
    rows: dict[str, list[np.ndarray]] = {}
    with artifact.open(threads) as session:
        bound = load_samples(inputs).bind(session.signature)
        batched = {t.name: t.has_batch_axis for t in session.signature.outputs}
        for i, feed in enumerate(bound):
            for name, array in session.run(feed).items():
                one = array[0] if batched[name] and array.ndim and array.shape[0] == 1 else array
                rows.setdefault(name, []).append(one)
            progress("running", i + 1, len(bound))
    for name, arrays in rows.items():
        if len({array.shape for array in arrays}) > 1:
            raise BadSamples(
                f"output `{name}` has another shape from sample to sample",
                hint="run samples of one size at a time",
            )
    with atomic_write(Path(output)) as work, work.open("wb") as file:
        np.savez(file, **{name: np.stack(arrays) for name, arrays in rows.items()})
    return len(bound)


def inspect(model: str | Path, *, shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, Any]:
    """What is in a model or a bundle, as plain JSON.

    Raises:
        BadModel, BadBundle: the file is missing or unsound.
    """
    path = find_model(model)
    loaded = load_model(path)
    if shapes:
        loaded = rewrite(loaded, Shapes(shapes))
    found = inspect_model(loaded).to_json()
    if is_bundle(path):
        bundle = open_bundle(path)
        found |= {
            "bytes": bundle.bytes,
            "payloads": [payload.to_json() for payload in bundle.payloads],
            "notes": dict(bundle.notes),
        }
    return found


def doctor() -> dict[str, Any]:
    """What this machine can do and what is missing, as plain JSON."""
    machine = this_machine()
    engines: list[dict[str, Any]] = []
    for name in ENGINES:
        here = name in installed_engines()
        row = {"name": name, "version": None, "precisions": [], "install": f"pip install 'edgedl[{name}]'"}
        if here:
            try:
                found = engine(name)
                row |= {"version": found.version, "precisions": list(found.precisions())}
            except (ImportError, OSError) as error:
                row["install"] = f"it is installed, but does not load ({error})"
        engines.append(row)
    tools = [
        {"name": package, "version": version(package), "for": purpose, "install": f"pip install 'edgedl[{extra}]'"}
        for package, extra, purpose in (
            ("onnx", "build", "reading and writing models"),
            ("onnx-ir", "build", "compressing"),
            ("onnxscript", "build", "compressing"),
            ("PyYAML", "build", "recipes"),
            ("torch", "train", "training; not needed to compress or to run"),
        )
    ]
    fast = sorted(INT8_FLAGS & set(machine.isa))
    if fast:
        int8 = f"fast: {', '.join(fast)}"
    elif "avx2" in machine.isa:
        int8 = "no VNNI: u8 x s8 products saturate at 16 bits, accuracy may fall, little is gained"
    else:
        int8 = "no int8 dot product found; gains will be small"
    return {
        "version": edgedl.__version__,
        "machine": machine.to_json(),
        "int8": int8,
        "engines": engines,
        "tools": tools,
        "energy": list(energy_counters()),
        "store": str(default_store().root),
    }
