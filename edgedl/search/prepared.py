"""The float model that plans are made for: cleaned, perhaps repaired, and its histograms."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import edgedl
from edgedl.core.errors import BadValue
from edgedl.core.model import Model
from edgedl.core.program import Constants
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.core.store import default_store, key_of
from edgedl.passes.calibrate import calibrate
from edgedl.passes.equalize import EqualizeBy, Seen, channels_seen
from edgedl.passes.graph import rewrite
from edgedl.passes.plan import Quantizer
from edgedl.passes.plan_file import PlanFile
from edgedl.passes.program import Reweigh, digest_of_weights
from edgedl.passes.ranges import Histogram
from edgedl.passes.repairs import Repair
from edgedl.passes.smooth import Maxima, SmoothBy, channel_maxima

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Prepared:
    """What int8 starts from.

    Attributes:
        model: the float graph, cleaned and with the repairs carried out.
        histograms: of its tensors.
        repairs: what was repaired, in this order.
        samples: the digest of the samples that the repairs were made with.
        tuned: constants of the model that training moved.
        scales: quantizers that training moved, by tensor; they stand before histograms.
    """

    model: Model
    histograms: Mapping[str, Histogram]
    repairs: tuple[Repair, ...] = ()
    samples: str = ""
    tuned: Constants | None = None
    scales: Mapping[str, Quantizer] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The repairs in words, each behind a comma; empty where there are none."""
        return "".join(f", {repair.label}" for repair in self.repairs)


def repaired(
    clean: Model, repairs: Sequence[Repair], samples: Samples, progress: Progress = silent
) -> Model:
    """The cleaned model with these repairs; what samples show is remembered.

    Raises:
        Missing: no engine is installed. EngineFailed: the engine refuses the model.
    """
    model = clean
    for repair in repairs:
        if repair.kind == "smooth":
            maxima = Maxima(_remembered("maxima", model, samples, _maxima_of(progress)))
            model = rewrite(model, SmoothBy(maxima, repair.alpha, repair.insert))
        else:
            found = _remembered("channels seen", model, samples, _seen_of(progress))
            kinds = [
                {name.partition(" ")[2]: a for name, a in found.items() if name.startswith(kind)}
                for kind in ("largest ", "least ", "mean ", "deviation ")
            ]
            model = rewrite(model, EqualizeBy(Seen(*kinds)))
    return model


def as_planned(
    clean: Model, written: PlanFile, samples: Samples, progress: Progress = silent
) -> Prepared:
    """The model that a plan is of, with the plan's repairs and no histograms.

    Raises:
        BadValue: the plan has repairs and scales, and these are not the samples it was made with:
            they would repair otherwise, and the scales would be of other tensors; or weights that
            were trained, and of another model.
    """
    if written.repairs and written.scales and written.repaired_with != samples.digest:
        raise BadValue(
            "the plan's model was repaired with other samples, which its scales belong to",
            keys=("repairs",),
            hint="give the same samples, or write `scales: {}`, and they are found anew",
        )
    model = repaired(clean, written.repairs, samples, progress)
    if written.constants is not None and written.tuned_from not in ("", digest_of_weights(clean)):
        raise BadValue(
            f"the weights in `{written.tuned}` were trained from those of another model",
            keys=("tuned",),
            hint="give that model, or leave out `tuned` and write `scales: {}`",
        )
    if written.constants is not None:
        model = rewrite(model, Reweigh(written.constants))
    return Prepared(model, {}, written.repairs, samples.digest, written.constants)


def counted(
    model: Model, watched: Sequence[str], samples: Samples, progress: Progress = silent
) -> dict[str, Histogram]:
    """Histograms of these tensors, from the store where these samples were counted before."""

    def build(folder: Path) -> None:
        found = calibrate(model, watched, samples, progress=progress)
        np.savez(folder / "counts.npz", *(found[name].to_array() for name in watched))

    key = key_of(
        what="sparse histograms",
        model=model.digest,
        samples=samples.digest,
        tensors=list(watched),
        version=edgedl.__version__,
    )
    place = default_store().make(key, build)
    with np.load(place / "counts.npz", allow_pickle=False) as arrays:
        return {name: Histogram.from_array(arrays[f"arr_{i}"]) for i, name in enumerate(watched)}


Count = Callable[[Model, Samples], Arrays]


def _remembered(what: str, model: Model, samples: Samples, count: Count) -> Arrays:
    """What samples show of a model, by name, from the store where it was found before."""

    def build(folder: Path) -> None:
        found = count(model, samples)
        np.savez(folder / "found.npz", *found.values())
        (folder / "names.json").write_text(json.dumps(list(found)), encoding="utf-8")

    parts = {"model": model.digest, "samples": samples.digest, "version": edgedl.__version__}
    place = default_store().make(key_of(what=what, **parts), build)
    names = json.loads((place / "names.json").read_text(encoding="utf-8"))
    with np.load(place / "found.npz", allow_pickle=False) as arrays:
        return {name: arrays[f"arr_{i}"] for i, name in enumerate(names)}


def _maxima_of(progress: Progress) -> Count:
    return lambda model, samples: dict(channel_maxima(model, samples, progress).of)


def _seen_of(progress: Progress) -> Count:
    def count(model: Model, samples: Samples) -> Arrays:
        seen = channels_seen(model, samples, progress)
        kinds = {"largest": seen.largest, "least": seen.least}
        kinds |= {"mean": seen.mean, "deviation": seen.deviation}
        return {f"{kind} {name}": a for kind, of in kinds.items() for name, a in of.items()}

    return count
