"""From two models and samples to a verdict: compare, walk, switch, and name the causes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedl.benchmark.accuracy import check_labels, has_truth, metric_for
from edgedl.benchmark.machine import this_machine
from edgedl.benchmark.metrics.metric import Metric
from edgedl.core.errors import BadModel, BadSamples, EdgeError
from edgedl.core.memory import usable_cores
from edgedl.core.model import Model, Signature
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.core.stats import Agreement, AgreementMeter
from edgedl.diagnosis.before import export, preprocessing, raise_not_finite
from edgedl.diagnosis.case import Case, Proposal
from edgedl.diagnosis.causes import CAUSES
from edgedl.diagnosis.losses import Bounded, Meter, bounded_share, loss
from edgedl.diagnosis.recurrent import Steps, recurrent
from edgedl.diagnosis.saturated import Saturated, saturated
from edgedl.diagnosis.shares import alone, attribute
from edgedl.diagnosis.verdict import judge
from edgedl.diagnosis.walk import Walked, walk
from edgedl.passes.clean import Clean
from edgedl.passes.fold import Fold
from edgedl.passes.graph import quantized_already, rewrite
from edgedl.passes.normal import batch_norms, tensor_names
from edgedl.passes.saturation import saturates
from edgedl.passes.switches import Switchboard, switchboard
from edgedl.report.diagnosed import Cause, Diagnosis, OperatorRow, TensorRow
from edgedl.runtime import any_engine
from edgedl.runtime.artifact import Artifact

MOST_ANSWERS, MOST_RANGED, MOST_WALKED, MOST_SWITCHED = 256, 40, 8, 16
MOST_KEPT_BYTES = 64 << 20
# Noise beyond which a graph with its quantizers off was not made from the float model as it is.
FOREIGN, FEW = 0.01, 4
FEWEST = 8
TOLERANCE = 0.01


@dataclass(frozen=True)
class Pair:
    """Both models, and how to run them.

    Attributes:
        names: original names by those of the compressed graph.
        given: the float model as the user named it, for commands.
    """

    model: Model
    quantized: Model
    artifact: Artifact
    names: Mapping[str, str]
    given: str
    samples_given: str

    @property
    def command(self) -> str:
        """What makes a better int8 model of the float one."""
        return f"edgedl compress {self.given} --int8 --samples {self.samples_given} -o fixed.edl"


def pair_of(
    model: Model, quantized: Model, artifact: Artifact, given: str, samples_given: str
) -> Pair:
    """A float model and a compressed one, as the user named them.

    Raises:
        BadModel: the first is quantized itself.
    """
    if quantized_already(model):
        raise BadModel(
            "the first model is quantized itself",
            where=given,
            hint="edgedl diagnose FLOAT COMPRESSED --samples S.npz, the float model first",
        )
    return Pair(model, quantized, artifact, artifact.names(), given, samples_given)


@dataclass(frozen=True)
class Compared:
    """Answers of both models: those of the first samples, and figures of all."""

    reference: list[dict[str, np.ndarray]]
    losses: np.ndarray
    steps: Steps
    agreement: Agreement
    metric: Metric | None
    rows: tuple[list[Any], list[Any]]


def spread_out(samples: Samples, most: int) -> Samples:
    """At most so many samples, evenly from all."""
    if len(samples) <= most:
        return samples
    return samples.take(np.linspace(0, len(samples) - 1, most).astype(int))


def compare(pair: Pair, samples: Samples, metric: str | None, progress: Progress) -> Compared:
    """Answer every sample with both models.

    Raises:
        BadModel: the compressed model's inputs or outputs are others.
    """
    meter, losses = AgreementMeter(), []
    rows: tuple[list[Any], list[Any]] = ([], [])
    labels, steps = samples.chosen_labels, Steps()
    reference: list[dict[str, np.ndarray]] = []
    broken: list[tuple[Model, int, str]] = []
    with (
        any_engine().open_model(pair.model.path, settings={}, threads=usable_cores()) as plain,
        pair.artifact.open(usable_cores()) as coded,
    ):
        check_same(plain.signature, coded.signature, pair)
        named = metric_for(samples, metric)
        named = named if named is not None and has_truth(named, samples) else None
        if named is not None:
            check_labels(plain, samples, named)
        kept = 0
        for i, feed in enumerate(samples):
            expected, given = plain.run(feed), coded.run(feed)
            for model, answers, whose in (
                (pair.model, expected, "the float model"),
                (pair.quantized, given, "the compressed model"),
            ):
                if not all(np.isfinite(a).all() for a in answers.values() if a.dtype.kind == "f"):
                    broken.append((model, i, whose))
            if broken:
                break
            meter.add(expected, given)
            steps.add(expected, given)
            losses.append(loss(expected, given))
            if named is not None:
                label, number = None if labels is None else labels[i], [int(samples.rows[i])]
                for answers, found in zip((expected, given), rows, strict=True):
                    found += named.rows([(answers, label, feed)], number, samples.where)
            kept += sum(array.nbytes for array in expected.values())
            if len(reference) < MOST_SWITCHED and (kept <= MOST_KEPT_BYTES or len(reference) < 2):
                reference.append(expected)
            progress("comparing answers", i + 1, len(samples))
    for model, i, whose in broken:
        raise_not_finite(model, samples, i, whose)
    return Compared(
        reference, np.asarray(losses), steps, meter.result(), named, rows
    )  # fmt: skip


def check_same(a: Signature, b: Signature, pair: Pair) -> None:
    """Compare the names of inputs and outputs.

    Raises:
        BadModel: they differ.
    """
    for side in ("inputs", "outputs"):
        names = [{t.name for t in getattr(s, side)} for s in (a, b)]
        if names[0] != names[1]:
            raise BadModel(
                f"its {side} are {', '.join(sorted(names[1]))}, the float model's"
                f" {', '.join(sorted(names[0]))}",
                where=str(pair.artifact.path),
                hint="give the float model that it was made from",
            )


def diagnose_pair(
    pair: Pair,
    samples: Samples,
    *,
    metric: str | None = None,
    seconds: float = 12.0,
    machine: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Diagnosis:
    """The verdict on a float model and a quantized one.

    Args:
        samples: bound to the model's signature; the first of them are walked and switched.
        machine: what the int8 products are computed on, as `Machine.to_json` tells it; this one
            where None.
        seconds: for measuring operators one by one; the fewer, the fewer samples serve.

    Raises:
        BadModel: the second is not quantized, or has other inputs or outputs.
        BadSamples: there is one sample only.
    """
    began = time.monotonic()
    if len(samples) < 2:
        raise BadSamples(
            "one sample is too few to tell a fault from chance",
            where=samples.where,
            hint="give 16 or more; 64 give narrow intervals",
        )
    some = shuffled(spread_out(samples, MOST_ANSWERS))
    compared = compare(pair, some, metric, progress)
    floats = [pair.model]
    first = some.take(range(len(compared.reference)))
    before = list(export(pair.model, first, compared.reference))
    with suppress(EdgeError):
        floats.append(rewrite(pair.model, Clean(), Fold()))
    with _switches(pair, floats, first, compared) as (board, changed):
        if not board.found and not board.left:
            raise BadModel(
                "holds no quantizer",
                where=str(pair.artifact.path),
                hint="`edgedl eval A B` compares two float models",
            )
        found = _look(pair, board, some, compared, seconds, progress)
        found.changed = changed
        spans = {
            one.tensor: (one.grid.low, one.grid.high)
            for one in board.found
            if one.operator == "input" and one.grid is not None
        }
        if board.found:
            if machine is not None:
                found.processor = str(machine.get("processor", found.processor))
            machine = this_machine().to_json() if machine is None else machine
            found.saturates = saturates(machine, pair.artifact.engine)
            with suppress(EdgeError):
                found.saturated = saturated(
                    pair.quantized, pair.artifact.engine, first, compared.reference
                )
    mistake = preprocessing(pair.model, some, spans)
    steps = recurrent(pair.model, compared.steps, pair.command)
    found.told = tuple(cause for cause in (*before, mistake, steps) if cause is not None)
    return judge(pair, compared, found, len(some), time.monotonic() - began)


def shuffled(samples: Samples) -> Samples:
    """The samples in an order that is random and always the same, so that the first are mixed."""
    return samples.take(np.random.default_rng(0).permutation(len(samples)))


@contextmanager
def _switches(
    pair: Pair, floats: Sequence[Model], samples: Samples, compared: Compared
) -> Iterator[tuple[Switchboard, bool]]:
    """The switches of the quantized model, and whether its weights were changed before they were
    rounded: evened out across layers, or trained. The float model's are no use then: put back one
    by one, they belong to other scales, so that weights stay as they are given."""
    few = samples.take(range(min(FEW, len(samples))))
    reference = compared.reference[: len(few)]
    with switchboard(pair.quantized, floats, pair.names) as board:
        changed = False
        if board.found:
            off = float(Meter(board, few, reference)({}).mean())
            changed = off > max(FOREIGN, float(compared.losses[: len(few)].mean()))
        if not changed:
            yield board, False
            return
    with switchboard(pair.quantized, (), pair.names) as board:
        yield board, True


@dataclass
class Looked:
    """What was found out with switches.

    Attributes:
        changed: whether weights are other than the float model's by more than their rounding.
    """

    kinds: dict[str, int]
    left: tuple[str, ...]
    faithful: np.ndarray | None = None
    causes: Sequence[tuple[Proposal, Bounded]] = ()
    warnings: Sequence[Cause] = ()
    engine: Bounded | None = None
    operators: tuple[OperatorRow, ...] = ()
    tensors: tuple[TensorRow, ...] = ()
    unmatched: tuple[str, ...] = ()
    walked: int = 0
    switched: int = 0
    unmeasured: int = 0
    doubts: tuple[str, ...] = ()
    told: tuple[Cause, ...] = ()
    saturated: Saturated | None = None
    saturates: bool = False
    changed: bool = False
    processor: str = "this processor"


def _look(
    pair: Pair,
    board: Switchboard,
    samples: Samples,
    compared: Compared,
    seconds: float,
    progress: Progress,
) -> Looked:
    kinds = {k: sum(one.kind == k for one in board.found) for k in ("activation", "weight", "bias")}
    looked = Looked(kinds, board.left)
    if not board.found:
        return looked
    count = len(compared.reference)
    meter = Meter(board, samples.take(range(count)), compared.reference)
    looked.faithful = meter({})
    whole = meter(board.all_on)
    actual = compared.losses[:count]
    looked.engine = bounded_share(actual - whole, actual)
    few = samples.take(range(min(MOST_WALKED, len(samples))))
    more = samples.take(range(len(few), min(MOST_RANGED, len(samples))))
    walked = walk(board, few, more, progress)
    looked.walked = len(few)
    added: dict[str, float] = {}
    for w in walked:
        added[w.node] = added.get(w.node, 0.0) + w.added / max(w.signal, 1e-300)
    single = alone(board, meter, added, seconds, progress)
    looked.switched, looked.unmeasured = single.samples, single.unmeasured
    case = Case(
        board,
        {w.switch: w for w in walked if w.switch is not None},
        batch_norms(pair.model),
        single.switches,
        lambda *more: " ".join((pair.command, *more)),
    )
    proposals = [proposal for cause in CAUSES.values() for proposal in cause(case)]
    looked.causes = attribute(meter, proposals, progress)
    looked.operators = _operator_rows(board, single.nodes)
    known = tensor_names(pair.model)
    looked.tensors = tuple(_tensor_row(board, w, known) for w in walked)
    looked.unmatched = tuple(board.name_of(board.found[i].tensor) for i in board.unmatched)
    return looked


def _operator_rows(board: Switchboard, nodes: Mapping[str, float]) -> tuple[OperatorRow, ...]:
    total = sum(nodes.values()) or 1.0
    kinds = {one.node: one.operator for one in board.found}
    return tuple(
        OperatorRow(board.name_of(node), kinds[node], value, value / total)
        for node, value in sorted(nodes.items(), key=lambda entry: -entry[1])
    )


def _tensor_row(board: Switchboard, walked: Walked, known: frozenset[str]) -> TensorRow:
    one = None if walked.switch is None else board.found[walked.switch]
    grid = None if one is None else one.grid
    power = max(walked.signal, 1e-300)
    low, high = walked.used
    tensor = board.name_of(walked.tensor if one is None else one.tensor)
    by_weights = {board.found[i].node for i in range(len(board.found)) if _in_float(board, i)}
    matched = "name" if tensor in known else "weights" if walked.node in by_weights else "no"
    return TensorRow(
        tensor, board.operators.get(walked.node, "input"), matched,
        walked.sqnr_db, walked.cosine, min(walked.added / power, 1e9),
        min(max(walked.noise - walked.added, 0.0) / power, 1e9), low, high,
        None if grid is None else grid.low, None if grid is None else grid.high,
        None if grid is None or grid.axis is not None else walked.saturated,
        None if walked.counts is None else walked.dead,
    )  # fmt: skip


def _in_float(board: Switchboard, switch: int) -> bool:
    return board.found[switch].stored in board.float_nodes
