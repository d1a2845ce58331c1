"""Candidates whose answers and times are known, so that none need be opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgedl.core.ledger import Ledger
from edgedl.core.model import Model, Signature
from edgedl.core.stats import Agreement
from edgedl.runtime import installed_engines
from edgedl.search.candidates import Candidate, Reference, Trial
from edgedl.search.memory import key_of_candidate, machine_parts

ENGINE = installed_engines()[0]
NOTHING = Signature((), ())


def candidate(folder: Path, label: str, size: int = 100, precision: str = "int8") -> Candidate:
    """One whose answers are known, so that it need not be opened."""
    path = folder / label.replace(" ", "_")
    path.write_bytes(bytes(size))
    model = Model(path, f"{label:0>64}", NOTHING, (), (path,))
    given = label == "float32, as given"
    return Candidate(ENGINE, precision, label, model, {}, as_given=given)


def answered(expected: Reference, found: Mapping[str, tuple[Candidate, Agreement, float]]) -> None:
    """Write what comparing them with float would find where it is looked for first."""
    ledger = Ledger.of("answers", expected=expected.digest, machine=machine_parts(), threads=1)
    ledger.add(
        {"candidate": key_of_candidate(one), "agreement": alike.to_json(), "drop": drop}
        for one, alike, drop in found.values()
    )


SAME = Agreement(1.0, 1.0, 200.0, 8)
LATENCY = {f"{ENGINE} a": 1.0, f"{ENGINE} b": 1.005, f"{ENGINE} c": 1.02, f"{ENGINE} d": 5.0}


def trials_of(folder: Path, *sizes: int, sqnr: tuple[float, ...] = ()) -> list[Trial]:
    quality = sqnr or (50.0,) * len(sizes)
    return [
        Trial(candidate(folder, label, size), Agreement(1.0, 1.0, db, 8), 0.0)
        for label, size, db in zip("abcd", sizes, quality, strict=False)
    ]


def names(trials: list[Trial]) -> str:
    return " ".join(trial.candidate.label for trial in trials)
