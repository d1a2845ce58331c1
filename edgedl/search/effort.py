"""How long a search for answers like float's may take, and what it may cost in speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgedl.core.errors import BadOption, nearest
from edgedl.search.candidates import Trial

# What makes answers nearer enough to pay for them in speed.
WORTH_DB = 1.0
# As long as another, and as good by a metric on few samples.
TIE, CHANCE = 0.01, 2
ROUNDING = 1e-9


@dataclass(frozen=True)
class Effort:
    """Budgets.

    Attributes:
        mixing_seconds: for giving parts of the graph ranges by other methods, an engine.
        harm_seconds: for measuring what each operator does to the answers.
        tuning_visits: how many samples training looks at, each as often as comes to that; 0 where
            nothing is trained.
        tuning_seconds: for training, an engine.
        slack: by how much more than the fastest way one may take whose answers are faithful, where
            those of the fastest are not.
    """

    name: str
    mixing_seconds: float
    harm_seconds: float
    tuning_visits: int
    tuning_seconds: float
    slack: float


EFFORTS: Mapping[str, Effort] = {
    effort.name: effort
    for effort in (
        Effort(
            "fast",
            mixing_seconds=2.5,
            harm_seconds=20.0,
            tuning_visits=0,
            tuning_seconds=0.0,
            slack=0.0,
        ),
        Effort(
            "normal",
            mixing_seconds=10.0,
            harm_seconds=40.0,
            tuning_visits=1500,
            tuning_seconds=120.0,
            slack=0.1,
        ),
        Effort(
            "max",
            mixing_seconds=60.0,
            harm_seconds=240.0,
            tuning_visits=12000,
            tuning_seconds=600.0,
            slack=0.1,
        ),
    )
}


def effort_of(name: str) -> Effort:
    """The effort of this name.

    Raises:
        BadOption: there is none.
    """
    if name not in EFFORTS:
        raise BadOption(f"unknown effort `{name}`", hint=nearest(name, EFFORTS))
    return EFFORTS[name]


def no_worse(trial: Trial, than: Trial, counts_classes: bool) -> bool:
    """Whether the metric lost nothing, or, where it counts classes, no more than two samples, which
    is chance."""
    counted = counts_classes and trial.agreement.top1 is not None
    chance = CHANCE / trial.agreement.samples if counted else 0.0
    return trial.drop <= than.drop + chance + ROUNDING


def faithful_first(
    order: Sequence[Trial],
    latency_ms: Mapping[str, float],
    slack: float,
    counts_classes: bool = True,
) -> list[Trial]:
    """Trials that may ship, with another in front where the answers of the first are not faithful,
    among those that take no more than `slack` longer: the fastest faithful one, or, where none is,
    the first. One that takes as long as that and is nearer by 1 dB comes before it, and, where none
    is faithful, so does the nearest of all, each where the metric is no worse."""
    if not order or slack <= 0 or order[0].agreement.is_faithful:
        return list(order)
    took = {id(trial): latency_ms[trial.candidate.name] for trial in order}
    near = [trial for trial in order if took[id(trial)] <= (1 + slack) * took[id(order[0])]]
    alike = [trial for trial in near if trial.agreement.is_faithful]
    chosen = min(alike, key=lambda trial: took[id(trial)], default=order[0])
    rivals = [t for t in near if not alike or took[id(t)] <= (1 + TIE) * took[id(chosen)]]
    nearest = max(rivals, key=lambda trial: trial.agreement.sqnr_db)
    gained = nearest.agreement.sqnr_db - chosen.agreement.sqnr_db
    if gained >= WORTH_DB and no_worse(nearest, chosen, counts_classes):
        chosen = nearest
    return [chosen, *(trial for trial in order if trial is not chosen)]
