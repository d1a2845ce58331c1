"""The whole line: a model and samples in, one proven bundle out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from edgedl.backends import Backend
from edgedl.backends.emulated import Emulated
from edgedl.benchmark.accuracy import check_labels, metric_for
from edgedl.benchmark.machine import processor_of
from edgedl.core.errors import Unsupported
from edgedl.core.kept import kept, read_ahead
from edgedl.core.model import Model
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Arrays, Samples
from edgedl.core.store import check_writable
from edgedl.core.target import target_of
from edgedl.inputs import (
    MOST_CHOICE,
    ProcessingSource,
    SampleSource,
    find_processing,
    load_model,
    load_samples,
    split,
)
from edgedl.passes.graph import read
from edgedl.passes.macs import macs_of
from edgedl.passes.plan_file import fit, from_document
from edgedl.report.compressed import Compressed
from edgedl.runtime import ENGINES, how_to_get, installed_engines
from edgedl.runtime.process import Processing
from edgedl.runtime.process.postprocess import Postprocess
from edgedl.search.candidates import Ask, Reference, reference
from edgedl.search.effort import effort_of
from edgedl.search.limits import Limits
from edgedl.search.outcome import MOST_AGREEMENT
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
from edgedl.search.ways import Ways
from edgedl.ship import Order, bundle_sizes
from edgedl.timed import timed
from edgedl.untimed import untimed
from edgedl.yamls import read_yaml

MOST_PLAN_BYTES = 20_000_000
# Multiply-accumulates that the samples to choose by may take of each candidate, and the bytes of a
# model beyond which nobody counts them.
CHOICE_MACS = 12 * 10**9
LIGHT_BYTES = 16_000_000


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
    tried, chosen = effort_of(effort), target_of(target)
    processor = processor_of(chosen.name)
    processing = find_processing(preprocess, [model])
    backends, doubts = backends_of(chosen, unmeasured)
    wanted = None if plan is None else _Wanted(Path(plan))
    if wanted is not None:
        ask, backends = "plan", wanted.of(backends, target)
    given, odd_model = unquantized(load_model(model)) if force else (load_model(model), [])
    check_writable(Path(output), *given.files)
    given, shapes, odd_shapes = with_shapes(given, shapes or {}, backends)
    clean, odd_types = widened(prepare(given, shapes))
    bound, tested, validated = (
        None if one is None else kept(load_samples(one, processing).bind(clean.signature))
        for one in (samples, test, validation)
    )
    assert bound is not None
    most = MOST_CHOICE if max_drop is None else _to_choose_by(given)
    groups = split(bound, tested, seed, validated, most)
    named = metric_for(groups.report, metric, None if processing is None else processing.boxes)
    few = groups.report.take(range(min(MOST_AGREEMENT, len(groups.report))))
    for group in (groups.calibration, groups.choice, groups.report if named else few):
        read_ahead(group, progress)

    clean, odd_clean = proven_clean(given, clean, groups.choice)
    backends, odd_engines = of_one_mind(backends, given, clean, groups.choice, force=force)
    backends = [for_shapes(built, clean, groups.choice) for built in backends]
    doubts += [*odd_model, *odd_shapes, *odd_types, *odd_engines]
    with float_session(backends, given, clean, next(iter(groups.choice))) as session:
        expected = reference(session, groups.choice, named)
        if processor is not None:
            expected = replace(expected, machine=processor.machine())
        if processing is not None:
            processing = processing.bind(clean.signature)
            processing.after(expected.answers[0])
            processing = _named(processing, bound, expected.answers[0])
            doubts += _untried(processing, bound)
        if named is not None:
            check_labels(session, groups.report, named)
            expected.check_metric()
    if wanted is not None:
        wanted.check(clean, groups.calibration)

    notes: dict[str, Any] = {"target": target, "threads": threads}
    sizes = bundle_sizes(groups.report, expected.answers[0], notes, processing)
    limits = Limits(max_drop, max_latency_ms, max_bytes, sizes)
    planned = None if wanted is None else wanted.plan
    ways = Ways(
        given, clean, groups.calibration, expected, limits, threads, progress, ask, planned, tried
    )  # fmt: skip
    doubts += [*groups.doubts, *odd_clean, *_odd_answers(expected)]
    order = Order(
        ways, groups.choice, groups.report, named, Path(model), Path(output), notes, processing,
        began, tuple(doubts),
    )  # fmt: skip
    if isinstance(backends[0], Emulated):
        return untimed(backends[0], order)
    return timed(backends, order, seed=seed, seconds=seconds)


def _to_choose_by(model: Model) -> int:
    """Samples to hold a drop against: 256, of which one is 0.4 % already, and up to 2,048 of a
    model that answers so many in moments."""
    macs = macs_of(read(model.path)) if model.bytes <= LIGHT_BYTES else None
    affordable = 1 if not macs else max(1, CHOICE_MACS // macs)
    return min(max(MOST_CHOICE, 1 << affordable.bit_length() - 1), 8 * MOST_CHOICE)


class _Wanted:
    """The plan that the user wrote, and the file that its errors name.

    Raises:
        BadValue: it is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written = read_yaml(path, MOST_PLAN_BYTES)
        self.plan = self._written.read(lambda one: from_document(one).with_constants(path.parent))

    def of(self, backends: list[Backend], target: str) -> list[Backend]:
        """The backends of its engine.

        Raises:
            Unsupported: the target has none.
        """
        found = [built for built in backends if _engine_of(built) == self.plan.engine]
        if not found:
            raise Unsupported(
                f"the plan is for {self.plan.engine}, which target `{target}` does not run here",
                where=str(self.path),
                hint=_way_to(self.plan.engine),
            )
        return found

    def check(self, clean: Model, calibration: Samples) -> None:
        """Nothing, where it fits the model.

        Raises:
            BadValue: it does not.
        """
        self._written.read(
            lambda _: fit(self.plan, as_planned(clean, self.plan, calibration).model)
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
