"""How int8 answers most like float, by trying on samples that calibration did not see."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from edgedl.backends import Backend
from edgedl.benchmark.machine import this_machine
from edgedl.core.errors import BadValue, EdgeError
from edgedl.core.fields import from_plain
from edgedl.core.ledger import Ledger
from edgedl.core.memory import usable_cores
from edgedl.core.model import Model
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.passes.correct import channel_means
from edgedl.passes.plan import Plan
from edgedl.passes.quantize import plan
from edgedl.passes.ranges import METHODS, Method, Methods, method_for, usual_method
from edgedl.passes.repairs import Repair, worth_equalizing, worth_smoothing
from edgedl.passes.saturation import at_risk, saturates
from edgedl.runtime import engine
from edgedl.search.candidates import (
    Candidate,
    Reference,
    Refusal,
    int8_candidate,
    tensors_to_watch,
)
from edgedl.search.foretold import is_emulated
from edgedl.search.memory import judge, machine_parts
from edgedl.search.prepared import Prepared, counted, repaired

FEW, FEW_THERE = 24, 12
PARTS = 8
TRIAL_SAMPLES = 32
MOST_MIXED_BYTES = 64_000_000
FEW_BYTES = 8_000_000
CLEARLY_DB = 0.3
MILD, STRONG = 0.5, 0.95
LEAST_ERROR: Method = "mse"


def best_ranges(
    backend: Backend,
    prepared: Prepared,
    calibration: Samples,
    expected: Reference,
    threads: int | None,
    mixing_seconds: float = 2.5,
    progress: Progress = silent,
    *,
    insert: bool = False,
) -> Candidate | Refusal | None:
    """Int8 as far as the rules go, with the ranges that answer most like float; on a float model
    with even channels, with weights in 7 bits where sums overflow on this processor, with ranges by
    another method for some tensors, and with corrected biases, each where that helps. None where
    the rules put nothing into int8.

    What answers most like float is what has the most signal to noise in the model's outputs, on a
    few samples that calibration did not see, as the engine runs it: the error that a range causes
    further down, and not its own.

    Args:
        insert: whether smoothing may insert multiplications, though they take time here.
    """
    insert = insert or backend.scheme.free_multiplications
    if not plan(prepared.model, backend.scheme.name, prepared.histograms, "minmax").int8:
        return None
    few, machine = expected.take(FEW), expected.machine
    emulated = machine is not None and is_emulated(machine, backend.engine)
    trial = Attempts(
        backend,
        prepared,
        replace(few, machine=None) if emulated else few,
        threads,
        machine if emulated else None,
    )
    noted = Ledger.of(
        "exactness",
        model=prepared.model.digest,
        calibration=calibration.digest,
        expected=few.digest,
        engine=backend.engine,
        version=engine(backend.engine).version,
        scheme=backend.scheme.name,
        seconds=mixing_seconds,
        insert=insert,
        threads=threads,
        machine=machine_parts(),
    )
    try:
        for row in noted.rows():
            with contextlib.suppress(BadValue, KeyError, TypeError, AttributeError):
                _again(trial, row, calibration, progress)
        if trial.best is None:
            _search(trial, calibration, mixing_seconds, insert, progress)
            noted.add([_note(trial)])
    except EdgeError as error:
        if trial.best is None:
            return Refusal(f"{backend.engine} int8", error.message)
    return trial.best


def _search(
    trial: Attempts, calibration: Samples, seconds: float, insert: bool, progress: Progress
) -> None:
    trial.attempt_each([(method, str(method)) for method in METHODS])
    _repair(trial, calibration, insert, progress)
    if trial.there is None:
        _narrow(trial, this_machine().to_json())
    _mix(trial, seconds)
    if trial.there is not None:
        # Emulation takes too long for everything to be tried there.
        trial.go_there()
        _narrow(trial, trial.there)
    means = channel_means(trial.prepared.model, trial.plan, calibration)
    note = f"{trial.note}, biases corrected"
    trial.attempt(trial.method, note, means=means, narrow=trial.plan.narrow)


def _narrow(trial: Attempts, machine: Mapping[str, Any]) -> None:
    """Give weights 7 bits where sums of 16 bits overflow, if that machine's products have them."""
    if not saturates(machine, trial.backend.engine):
        return
    if risky := at_risk(trial.plan, trial.prepared.model, trial.prepared.histograms):
        note = f"{trial.note}, {len(risky)} weights in 7 bits"
        trial.attempt(trial.method, note, narrow=risky)


def _note(trial: Attempts) -> dict[str, Any]:
    """What was kept, so that the same question has the same answer and costs little again."""
    assert trial.best is not None
    usual, method = usual_method(trial.method), trial.method
    others = {} if isinstance(method, str) else {t: m for t, m in method.items() if m != usual}
    return {
        "note": trial.note,
        "method": usual,
        "others": others,
        "repairs": [repair.to_json() for repair in trial.prepared.repairs],
        "narrow": list(trial.plan.narrow),
        "corrected": trial.best.means is not None,
    }


def _again(
    trial: Attempts, row: Mapping[str, Any], calibration: Samples, progress: Progress
) -> None:
    """What a note says.

    Raises:
        BadValue, KeyError, TypeError, AttributeError: it is not a note of this version.
    """
    repairs = tuple(from_plain(Repair, one) for one in row["repairs"])
    others, usual = dict(row["others"]), row["method"]
    if not {usual, *others.values()} <= set(METHODS):
        raise KeyError(usual)
    prepared = trial.given
    if repairs:
        model = repaired(prepared.model, repairs, calibration, progress)
        histograms = counted(model, _watched(trial, model), calibration, progress)
        prepared = Prepared(model, histograms, repairs, calibration.digest)
    method: Methods = usual
    if others:
        method = {tensor: others.get(tensor, usual) for tensor in prepared.histograms}
    more: dict[str, Any] = {"narrow": tuple(row["narrow"])}
    if row["corrected"]:
        planned = plan(prepared.model, trial.backend.scheme.name, prepared.histograms, method)
        more["means"] = channel_means(prepared.model, planned, calibration)
    trial.attempt(method, str(row["note"]), prepared, **more)


@dataclass(eq=False)
class Attempts:
    """Candidates tried on a few samples, of which the best is kept.

    `there` is the machine whose answers are emulated in the end; None where none are.
    """

    backend: Backend
    given: Prepared
    few: Reference
    threads: int | None
    there: Mapping[str, Any] | None = None
    best: Candidate | None = None
    sqnr_db: float = -math.inf

    @property
    def prepared(self) -> Prepared:
        """What the best was made of, or what was given."""
        found = self.best.prepared if self.best is not None else None
        return self.given if found is None else found

    @property
    def method(self) -> Methods:
        assert self.best is not None
        assert self.best.method is not None
        return self.best.method

    @property
    def plan(self) -> Plan:
        assert self.best is not None
        assert self.best.plan is not None
        return self.best.plan

    @property
    def note(self) -> str:
        assert self.best is not None
        return self.best.label.removeprefix("int8, ")

    def go_there(self) -> None:
        """From now on, answers as on the machine that is foretold; the best's own, too."""
        assert self.best is not None
        self.few = replace(self.few.take(FEW_THERE), machine=self.there)
        self.sqnr_db = judge(self.best, self.few, self.threads).agreement.sqnr_db

    def attempt(
        self, method: Methods, note: str, prepared: Prepared | None = None, **more: Any
    ) -> bool:
        """Whether this answers more like float than all before; by 0.3 dB, where another float
        model than that of the best is quantized."""
        return self.attempt_each([(method, note)], prepared, **more)

    def attempt_each(
        self, tries: Sequence[tuple[Methods, str]], prepared: Prepared | None = None, **more: Any
    ) -> bool:
        """Whether one of several answers more like float than all before; the best is kept."""
        prepared = self.prepared if prepared is None else prepared
        helped = False
        for candidate, found in self._judged(tries, prepared, **more):
            if found > self._to_beat(prepared):
                self.best, self.sqnr_db, helped = candidate, found, True
        return helped

    def would_help(self, methods: Sequence[Method], prepared: Prepared) -> bool:
        """Whether one of these answers more like float than all before; nothing is kept."""
        tried = self._judged([(method, str(method)) for method in methods], prepared)
        return any(found > self._to_beat(prepared) for _, found in tried)

    def _judged(
        self, tries: Sequence[tuple[Methods, str]], prepared: Prepared, **more: Any
    ) -> list[tuple[Candidate, float]]:
        """Candidates and their signal to noise. Small ones are opened side by side: an engine
        compiles a model on one core, for longer than it runs it on a few samples."""
        candidates = [
            int8_candidate(self.backend, prepared, method, label=f"int8, {note}", **more)
            for method, note in tries
        ]
        side_by_side = usable_cores() if prepared.model.bytes <= MOST_MIXED_BYTES else 1
        with ThreadPoolExecutor(side_by_side) as pool:
            trials = pool.map(lambda c: judge(c, self.few, self.threads), candidates)
            found = [trial.agreement.sqnr_db for trial in trials]
        return list(zip(candidates, found, strict=True))

    def _to_beat(self, prepared: Prepared) -> float:
        other = prepared.model != self.prepared.model
        return self.sqnr_db + (CLEARLY_DB if other else 0.0)


def needs_multiplications(model: Model) -> bool:
    """Whether smoothing could even out more channels of a model where it may insert
    multiplications."""
    return not worth_equalizing(model) and worth_smoothing(model, insert=True)


def _worth_trying(model: Model, insert: bool) -> Iterator[Repair]:
    if worth_equalizing(model):
        yield Repair("equalize")
        yield Repair("smooth", STRONG)
    elif worth_smoothing(model, insert):
        yield from (Repair("smooth", alpha, insert) for alpha in (MILD, STRONG))


def _repair(trial: Attempts, calibration: Samples, insert: bool, progress: Progress) -> None:
    """Repair the float model in each way that is worth trying, and keep what helps."""
    clean, backend = trial.given.model, trial.backend
    for repair in _worth_trying(clean, insert):
        progress(f"trying {repair.label} for {backend.engine}", 0, 1)
        others = [one for one in trial.prepared.repairs if one.kind != repair.kind]
        likely = (usual_method(trial.method), LEAST_ERROR)
        first = list(dict.fromkeys(likely if clean.bytes > FEW_BYTES else METHODS))
        rest = [method for method in METHODS if method not in first]
        _try_repaired(trial, (*others, repair), first, calibration, progress, rest)


def _try_repaired(
    trial: Attempts,
    repairs: tuple[Repair, ...],
    methods: Sequence[Method],
    calibration: Samples,
    progress: Progress,
    rest: Sequence[Method] = (),
) -> None:
    """A repaired model with ranges by each of these methods, and by the rest where one helps.

    Whether one helps is seen with ranges of a few samples, before all of them are counted.
    """
    model = repaired(trial.given.model, repairs, calibration, progress)
    watched = _watched(trial, model)
    few = calibration.take(range(min(TRIAL_SAMPLES, len(calibration))))
    if rest and len(few) < len(calibration):
        seen = counted(model, watched, few, progress)
        tried = Prepared(model, seen, repairs, calibration.digest)
        if not trial.would_help(methods, tried):
            return
    histograms = counted(model, watched, calibration, progress)
    prepared = Prepared(model, histograms, repairs, calibration.digest)
    if trial.attempt_each([(m, f"{m}{prepared.label}") for m in methods], prepared):
        trial.attempt_each([(m, f"{m}{prepared.label}") for m in rest], prepared)


def _watched(trial: Attempts, model: Model) -> list[str]:
    """The tensors to count: those of the given model where that is enough, which may have been
    counted for another engine already."""
    watched = tensors_to_watch(model, [trial.backend.scheme])
    known = trial.given.histograms
    return list(known) if set(watched) <= set(known) else watched


def _mix(trial: Attempts, seconds: float) -> None:
    """Give parts of the graph, an eighth of its tensors each, ranges by the other methods, and keep
    what helps; as many as the time allows, and none in large models."""
    if trial.prepared.model.bytes > MOST_MIXED_BYTES:
        return
    usual = usual_method(trial.method)
    tensors = list(trial.plan.activations)
    chosen = {tensor: method_for(trial.method, tensor) for tensor in trial.prepared.histograms}
    start, narrow = trial.note, trial.plan.narrow
    began, size = perf_counter(), max(1, -(-len(tensors) // PARTS))
    for first in range(0, len(tensors), size):
        if perf_counter() - began > seconds:
            return
        others = [
            {**chosen, **dict.fromkeys(tensors[first : first + size], method)}
            for method in METHODS
            if method != usual
        ]
        if trial.attempt_each([(other, f"{start}, mixed") for other in others], narrow=narrow):
            assert not isinstance(trial.method, str)
            chosen = dict(trial.method)
