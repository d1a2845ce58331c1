"""Ways to run a model on an engine, each of them opened, run and compared with float."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from edgedl.backends import Backend
from edgedl.benchmark.metrics.metric import Metric
from edgedl.core.errors import BadSamples
from edgedl.core.model import Model
from edgedl.core.samples import Samples
from edgedl.core.stats import Agreement, AgreementMeter
from edgedl.core.target import Scheme
from edgedl.passes.correct import CorrectBias, Means
from edgedl.passes.dynamic import Dynamic
from edgedl.passes.graph import quantized_already, read, rewrite, too_large
from edgedl.passes.half import Half, Precision
from edgedl.passes.layout import EXTENTS, Extent, layout
from edgedl.passes.place import Place
from edgedl.passes.plan import Cost, Plan
from edgedl.passes.quantize import plan
from edgedl.passes.ranges import Methods, usual_method
from edgedl.passes.weight_only import WeightOnly
from edgedl.runtime import engine
from edgedl.runtime.session import Session
from edgedl.search.prepared import Prepared

REFERENCE_BYTES = 64 << 20
METHOD_SAMPLES = 24
SMALLER = 0.98
WORTHWHILE = 0.3
# The setting that names what the engine computes with kernels other than it takes by itself.
OTHER_KERNELS = "other_kernels"


Ask = Literal["int8", "auto", "weights", "bf16", "float16", "float32", "dynamic", "plan"]


@dataclass(frozen=True)
class Candidate:
    """One way: an engine, the precision asked of it, the model, and the plan behind it.

    Attributes:
        dynamic: its activations are quantized in each call.
        stored: it computes in float, with weights stored in 8 bits.
        method: how the ranges of its plan were found.
        means: what its biases were corrected with, None where they were not.
        exact: nodes in float whose weights are stored as they were.
        costs: the table that its plan was found in, or beside which it was tried.
        origin: `rules` where its plan is all that the rules allow, `costs` where measured costs
            placed it.
        prepared: the float model that its plan was made for.
        coded: it is a model that was quantized before it came, and left as it is.
    """

    engine: str
    precision: str
    label: str
    model: Model
    settings: Mapping[str, Any]
    plan: Plan | None = None
    as_given: bool = False
    stored: bool = False
    dynamic: bool = False
    method: Methods | None = None
    means: Means | None = None
    exact: tuple[str, ...] = ()
    costs: tuple[Cost, ...] = ()
    origin: Literal["", "rules", "costs"] = ""
    prepared: Prepared | None = None
    coded: bool = False

    @property
    def name(self) -> str:
        return f"{self.engine} {self.label}"

    @property
    def is_trained(self) -> bool:
        """Whether training moved its weights."""
        return self.prepared is not None and self.prepared.tuned is not None

    @property
    def unfit(self) -> str | None:
        """Why it cannot ship, whatever is asked for; None where it can."""
        return too_large(self.model)

    def open(self, threads: int | None) -> Session:
        return engine(self.engine).open_model(
            self.model.path, settings=self.settings, threads=threads
        )

    def with_costs(self, costs: Sequence[Cost]) -> Candidate:
        """The same with a table of costs, which says what this candidate's own plan chose."""
        int8 = set(self.plan.int8 if self.plan is not None else ())
        return replace(
            self,
            costs=tuple(
                replace(cost, chosen="int8" if cost.node in int8 else "float") for cost in costs
            ),
        )

    def answers(self, ask: Ask) -> bool:
        """Whether it may ship where this was asked for."""
        if self.unfit is not None:
            return False
        if ask == "weights":
            return self.stored
        if ask == "dynamic":
            return self.dynamic
        if ask == "plan":
            return self.plan is not None
        return ask in ("int8", "auto") or (self.precision == ask and not self.stored)


@dataclass(frozen=True)
class Trial:
    """A candidate and its answers on the samples that choices are made on.

    `drop` is the metric's loss against float with labels; without, what a named metric misses to
    answers like float's, else 1 minus top-1 agreement, or 1 minus cosine where no output has
    classes, or 1 minus the share of equal integers where that is more.
    """

    candidate: Candidate
    agreement: Agreement
    drop: float


@dataclass(frozen=True)
class Refusal:
    """A candidate that did not run, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Reference:
    """Float answers to the samples that choices are made on, and their labels.

    `numbers` are the samples' places in their file, and `machine` is the one that candidates are to
    answer as on, as `doctor()["machine"]` tells it; this one where None.
    """

    feeds: tuple[Mapping[str, np.ndarray], ...]
    answers: tuple[Mapping[str, np.ndarray], ...]
    labels: np.ndarray | None
    metric: Metric | None
    numbers: tuple[int, ...] | None = None
    machine: Mapping[str, Any] | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything in it."""
        digest = hashlib.sha256(f"{self.metric!r} {self.machine!r}".encode())
        for part in (*self.feeds, *self.answers, {"labels": self.labels}):
            for name, array in sorted(part.items()):
                if array is not None:
                    digest.update(f"{name} {array.dtype} {array.shape}".encode())
                    digest.update(array.tobytes())
        return digest.hexdigest()

    def take(self, count: int) -> Reference:
        """The first `count` samples."""
        labels = None if self.labels is None else self.labels[:count]
        numbers = None if self.numbers is None else self.numbers[:count]
        feeds, answers = self.feeds[:count], self.answers[:count]
        return Reference(feeds, answers, labels, self.metric, numbers, self.machine)

    @cached_property
    def float_score(self) -> float:
        """What the metric says of float's answers; NaN where it has no figure of so few.

        Raises:
            MetricFailed: it could not take them.
        """
        return self.score(self.answers)

    @property
    def counts_classes(self) -> bool:
        """Whether trials are judged by the share of samples that get the right class."""
        return self.metric is None or self.metric.name == "top1"

    def check_metric(self) -> None:
        """Try the metric, where there is one, on float's answers.

        Raises:
            MetricFailed: it could not take them. BadSamples: it has no figure of so few.
        """
        metric = self.metric
        if metric is not None and np.isnan(self.float_score) and metric.whole is not None:
            raise BadSamples(
                f"metric `{metric.name}` has no figure on the {len(self.answers)} samples"
                " that are held back for choosing",
                hint="give more samples, of every kind that the metric compares",
            )

    def score(self, answers: Sequence[Mapping[str, np.ndarray]]) -> float:
        """What the metric says of answers, by the labels, or by float's answers without; more is
        better.

        Raises:
            MetricFailed: it could not take them.
        """
        metric: Metric | None = self.metric
        truth: Sequence[Any] | np.ndarray | None = self.labels
        assert metric is not None
        if truth is None and metric.needs_labels:
            metric, truth = metric.without_labels, self.answers
            assert metric is not None
        labels = [None] * len(answers) if truth is None else truth
        rows = metric.rows(zip(answers, labels, self.feeds, strict=True), self.numbers)
        return metric.score(rows)


def shipped_settings(settings: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Settings that call nodes as they are called in the file that ships.

    Args:
        names: the model's names by its short ones, as `to_ship` gives them.
    """
    if not settings.get(OTHER_KERNELS):
        return dict(settings)
    shorter = {long: short for short, long in names.items()}
    return {**settings, OTHER_KERNELS: [shorter.get(n, n) for n in settings[OTHER_KERNELS]]}


def reference(session: Session, samples: Samples, metric: Metric | None) -> Reference:
    """Float answers to as many samples as 64 MiB of answers allow, four at least."""
    feeds: list[Mapping[str, np.ndarray]] = []
    answers: list[Mapping[str, np.ndarray]] = []
    size = 0
    for feed in samples:
        feeds.append(feed)
        answers.append(session.run(feed))
        size += sum(array.nbytes for array in (*feed.values(), *answers[-1].values()))
        if size > REFERENCE_BYTES and len(feeds) >= 4:
            break
    labels = samples.chosen_labels
    return Reference(
        tuple(feeds),
        tuple(answers),
        None if labels is None else labels[: len(feeds)],
        metric,
        tuple(samples.rows[: len(feeds)].tolist()),
    )


def try_out(candidate: Candidate, expected: Reference, session: Session) -> Trial:
    """Run a candidate, and compare its answers with float.

    Raises:
        EngineFailed: the engine fails while it runs. MetricFailed: the metric could not take its
            answers.
    """
    meter = AgreementMeter()
    answers = []
    with session:
        for feed, wanted in zip(expected.feeds, expected.answers, strict=True):
            answers.append(session.run(feed))
            meter.add(wanted, answers[-1])
    found = meter.result()
    if expected.metric is not None:
        drop = expected.float_score - expected.score(answers)
    else:
        drop = without_labels(found)
    return Trial(candidate, found, drop)


def without_labels(alike: Agreement) -> float:
    """What stands for the metric's drop where there are no labels, and no metric was named."""
    if alike.top1 is not None:
        return 1 - alike.top1
    return 1 - min(alike.cosine, 1.0 if alike.equal is None else alike.equal)


def stored_weights(scheme: Scheme, exact: Collection[str] = ()) -> WeightOnly:
    """What stores the weights of float operators in 8 bits, in the scheme's way.

    Args:
        exact: nodes whose weights stay as they are.
    """
    return WeightOnly(
        keep_float=tuple(sorted(exact)), directly=scheme.direct, dequantized=scheme.dequantizes
    )


def float_candidates(backend: Backend, given: Model, clean: Model) -> Iterator[Candidate]:
    """The model as given, and cleaned in every float precision that is fast here, with its weights
    as they were and stored in 8 bits."""
    float32, *reduced = backend.floats()
    settings, coded = backend.settings(float32), quantized_already(given)
    whole = "quantized" if coded else float32
    yield Candidate(
        backend.engine, float32, f"{whole}, as given", given, settings, as_given=True, coded=coded
    )
    stored = rewrite(clean, stored_weights(backend.scheme))
    for precision in (float32, *reduced):
        label = f"{whole}, cleaned" if precision == float32 else precision
        settings = backend.settings(precision)
        made = Candidate(backend.engine, precision, label, clean, settings, coded=coded)
        if backend.typed and precision != float32:
            yield in_half(made)
            continue
        yield made
        if stored.bytes < SMALLER * clean.bytes:
            label = f"{precision}, 8-bit weights"
            yield Candidate(backend.engine, precision, label, stored, settings, stored=True)


def in_half(candidate: Candidate) -> Candidate:
    """The same with what is float32 in its graph written in its half precision, float16 where that
    is none."""
    to: Precision = "bfloat16" if candidate.precision == "bf16" else "float16"
    return replace(candidate, model=rewrite(candidate.model, Half(to)))


def dynamic_candidate(backend: Backend, clean: Model) -> Candidate | None:
    """Matrix products in int8 with activations quantized in each call; None where the engine has no
    kernels for that, or the model's weights are not in such products for the most part."""
    if not backend.scheme.dynamic:
        return None
    model = rewrite(clean, Dynamic(), stored_weights(backend.scheme))
    if clean.bytes - rewrite(clean, Dynamic()).bytes < WORTHWHILE * clean.bytes:
        return None
    settings = backend.settings("int8")
    return Candidate(backend.engine, "int8", "int8, dynamic", model, settings, dynamic=True)


def tensors_to_watch(clean: Model, schemes: Sequence[Scheme]) -> list[str]:
    """Every tensor that any plan of these schemes could quantize, in graph order."""
    graph = read(clean.path)
    wanted = {name for scheme in schemes for name in layout(graph, scheme).tensors}
    order = [v.name or "" for v in graph.graph.inputs]
    order += [v.name or "" for node in graph.graph for v in node.outputs]
    return [name for name in order if name in wanted]


def has_choices(clean: Model, schemes: Sequence[Scheme]) -> bool:
    """Whether one of these schemes puts anything into int8."""
    graph = read(clean.path)
    return any(d.precision == "int8" for s in schemes for d in layout(graph, s).decisions)


def int8_candidate(
    backend: Backend,
    prepared: Prepared,
    method: Methods,
    *,
    extent: Extent = "full",
    keep_float: Mapping[str, str] | None = None,
    exact: Collection[str] = (),
    settings: Mapping[str, Any] | None = None,
    means: Means | None = None,
    shifted: Collection[str] = (),
    narrow: Collection[str] = (),
    label: str,
) -> Candidate:
    """The model in int8 by the backend's scheme; operators that compute in float have their weights
    stored in 8 bits, but for those of `exact`. Biases are corrected where there are means."""
    clean, scheme = prepared.model, backend.scheme.name
    decided = plan(
        clean,
        scheme,
        prepared.histograms,
        method,
        extent=extent,
        keep_float=keep_float,
        given=prepared.scales,
    )
    decided = replace(
        decided,
        shifted=tuple(n for n in decided.weights if n in shifted),
        narrow=tuple(n for n in decided.int8 if n in narrow),
    )
    corrected = (CorrectBias(decided, means),) if means is not None else ()
    stored = stored_weights(backend.scheme, exact)
    model = rewrite(clean, *corrected, Place(decided), stored)
    settings = backend.settings("int8") if settings is None else settings
    return Candidate(
        backend.engine,
        "int8",
        label,
        model,
        settings,
        decided,
        method=method,
        means=means,
        exact=stored.keep_float,
        prepared=prepared,
    )


def narrower(backend: Backend, prepared: Prepared, method: Methods) -> Iterator[Candidate]:
    """Int8 by narrower rules; only plans that differ in what they put into int8."""
    seen: set[tuple[str, ...]] = set()
    for extent in EXTENTS:
        label = f"int8 {extent}, {usual_method(method)}"
        candidate = int8_candidate(backend, prepared, method, extent=extent, label=label)
        assert candidate.plan is not None
        if candidate.plan.int8 and candidate.plan.int8 not in seen and extent != "full":
            yield candidate
        seen.add(candidate.plan.int8)
