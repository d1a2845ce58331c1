"""The engines of a target, and a model made ready for them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgedl.backends import Backend, backend
from edgedl.backends.emulated import emulated
from edgedl.backends.ort_gpu import OrtGpuBackend
from edgedl.backends.tensorrt import TensorRtBackend
from edgedl.benchmark.accuracy import agreement
from edgedl.core.errors import (
    BadOption,
    EdgeError,
    EngineFailed,
    Missing,
    Unsupported,
    WrongAnswers,
)
from edgedl.core.model import Model
from edgedl.core.samples import Samples
from edgedl.core.stats import AgreementMeter
from edgedl.core.target import PROCESSORS, Target
from edgedl.passes.clean import Clean
from edgedl.passes.fold import Fold
from edgedl.passes.graph import quantized_already, rewrite
from edgedl.passes.shapes import Shapes
from edgedl.passes.unquantize import Unquantize
from edgedl.passes.widen import Widen, computed_in
from edgedl.runtime import how_to_get, installed_engines
from edgedl.runtime.session import Session
from edgedl.runtime.tensorrt.settings import Build, profile_seen
from edgedl.search.foretold import can_foretell, needs_cap
from edgedl.search.memory import open_carefully

SAME_ANSWERS = 0.999
KNOWN = "onnxruntime"


def prepare(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    """The same model cleaned, folded, and with these shapes fixed."""
    return rewrite(model, Clean(), Shapes(shapes), Fold(), Shapes())


def widened(model: Model) -> tuple[Model, list[str]]:
    """A prepared model in float32, from which every other precision is made; one that computes in
    it, or is quantized, is given back as it is."""
    types = computed_in(model)
    if not types:
        return model, []
    note = f"the model computes in {' and '.join(sorted(types))}; it was brought to float32 first"
    return rewrite(model, Widen(), Shapes()), [note]


def unquantized(model: Model) -> tuple[Model, list[str]]:
    """The float model under a quantized one; another is given back as it is."""
    if not quantized_already(model):
        return model, []
    note = "the model's quantizers were taken out first; float32 is what its codes stand for"
    return rewrite(model, Unquantize()), [note]


def with_shapes(
    given: Model, shapes: Mapping[str, tuple[int, ...]], backends: Sequence[Backend]
) -> tuple[Model, Mapping[str, tuple[int, ...]], list[str]]:
    """The model with these shapes, or as it is where engines take it only so."""
    if not shapes:
        return given, shapes, []
    fixed = rewrite(given, Shapes(shapes))
    try:
        float_session(backends, fixed, fixed).close()
    except EngineFailed as refused:
        try:
            float_session(backends, given, given).close()
        except EngineFailed:
            raise refused from None
        return given, {}, [f"--shape was left out: with it, {refused.message}"]
    return fixed, shapes, []


def backends_of(target: Target, unmeasured: bool = False) -> tuple[list[Backend], list[str]]:
    """The installed engines of a target, and doubts about those that are not; the first alone where
    the target is a processor that is not at hand; what stands for the engine of a GPU that is not
    here, where `unmeasured` allows it.

    Raises:
        Missing: none is installed. Unsupported: one cannot build for the target, or nothing can be
            timed for it here. BadOption: `unmeasured` for what can be measured.
    """
    if target.needs and target.engines[0] not in installed_engines():
        return [emulated(target, unmeasured)], []
    if unmeasured:
        raise BadOption(
            f"--unmeasured is for a target that is not here, and `{target.name}` can be measured",
            hint="leave it out",
        )
    found: list[Backend] = []
    doubts: list[str] = []
    for name in target.engines:
        if name not in installed_engines():
            doubts.append(f"{name} was not tried: {how_to_get(name)}")
            continue
        built = backend(name)
        built.check(target)
        found.append(built)
    if not found:
        raise Missing(
            f"no engine of target `{target.name}` is installed",
            hint=how_to_get(target.engines[0]),
        )
    if target.name in PROCESSORS:
        processor = PROCESSORS[target.name]
        able = [built for built in found if can_foretell(processor, built.engine)]
        left_out = [built.engine for built in found if built not in able]
        if not able:
            message, hint = needs_cap(processor, left_out[0])
            raise Unsupported(message, hint=hint)
        return able[:1], [": ".join(needs_cap(processor, one)) for one in left_out]
    return found, doubts if len(target.engines) > 1 else []


def for_shapes(built: Backend, model: Model, samples: Samples) -> Backend:
    """The same backend; one that builds for bounded shapes, for those that the samples have."""
    if not isinstance(built, (TensorRtBackend, OrtGpuBackend)) or not built.scheme.operators:
        return built
    seen = [{name: array.shape for name, array in feed.items()} for feed in samples]
    build = Build(profiles=profile_seen(model.signature, seen))
    return replace(built, build=build.to_json())


def proven_clean(given: Model, clean: Model, samples: Samples) -> tuple[Model, list[str]]:
    """The cleaned model, or the given one where cleaning changed the answers, or made what an
    engine that takes the given one refuses."""
    few = samples.take(range(min(4, len(samples))))
    first = next(iter(few))
    for name in installed_engines():
        with contextlib.ExitStack() as opened:
            try:
                before = opened.enter_context(open_carefully(name, given, {}, feed=first))
            except EdgeError:
                continue
            try:
                after = opened.enter_context(open_carefully(name, clean, {}, feed=first))
                alike = agreement(before, after, few)
            except EdgeError as error:
                return given, [f"cleaning was undone: {error.message}"]
        if alike.cosine >= SAME_ANSWERS:
            return clean, []
        note = f"cleaning changed the answers (cosine {alike.cosine:.4f} on {name}) and was undone"
        return given, [note]
    return clean, []


def of_one_mind(
    backends: Sequence[Backend], given: Model, clean: Model, samples: Samples, *, force: bool
) -> tuple[list[Backend], list[str]]:
    """The engines without those whose float answers are not onnxruntime's, and what is wrong with
    these.

    What an engine computes wrongly in float would else be taken for the truth. A quantized model is
    one that engines round unlike, so that no engine is refused for it.

    Args:
        force: keep an engine that computes wrongly where no other is left.

    Raises:
        WrongAnswers: the only engine does, and was not forced.
    """
    suspects = [built for built in backends if built.engine == "openvino"]
    if not suspects or KNOWN not in installed_engines():
        return list(backends), []
    few = samples.take(range(min(4, len(samples))))
    try:
        wanted = _float_answers(backend(KNOWN), given, clean, few)
        alike = {built.engine: _cosine(wanted, built, given, clean, few) for built in suspects}
    except EdgeError:
        return list(backends), []
    kept, doubts = list(backends), list[str]()
    for built in suspects:
        if alike[built.engine] >= SAME_ANSWERS:
            continue
        coded = quantized_already(given)
        told = (
            f"{built.engine}'s {'' if coded else 'float32 '}answers are not {KNOWN}'s"
            f" (cosine {alike[built.engine]:.4f})"
        )
        if len(kept) > 1:
            kept.remove(built)
            doubts.append(f"{told}: it was left out")
        elif force or coded:
            doubts.append(f"{told}: one of them computes this model wrongly; check its answers")
        else:
            raise WrongAnswers(
                f"{told}: it computes this model wrongly before anything is quantized",
                where=str(given.path),
                hint=f"--target {KNOWN}, or --target cpu; --force ships it all the same",
            )
    return kept, doubts


def _cosine(
    wanted: Sequence[Mapping[str, np.ndarray]],
    built: Backend,
    given: Model,
    clean: Model,
    samples: Samples,
) -> float:
    meter = AgreementMeter()
    for expected, found in zip(wanted, _float_answers(built, given, clean, samples), strict=True):
        meter.add(expected, found)
    return meter.result().cosine


def _float_answers(
    built: Backend, given: Model, clean: Model, samples: Samples
) -> list[dict[str, np.ndarray]]:
    """An engine's answers in floating point; class indices turn where scores are tied."""
    with float_session([built], given, clean, next(iter(samples))) as session:
        return [
            {name: one for name, one in session.run(feed).items() if one.dtype.kind == "f"}
            for feed in samples
        ]


def float_session(
    backends: Sequence[Backend],
    given: Model,
    clean: Model,
    feed: Mapping[str, np.ndarray] | None = None,
) -> Session:
    """The float model on the first engine that takes it, and answers these inputs."""
    reasons = []
    for built in backends:
        for model in (given, clean):
            try:
                return open_carefully(built.engine, model, built.settings("float32"), feed=feed)
            except EngineFailed as error:
                reasons.append(error)
    raise reasons[0]
