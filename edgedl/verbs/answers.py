"""What answers are worth: by a metric, beside another model's, and why they are worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedl.benchmark.answers import answered
from edgedl.benchmark.bench import number_twins
from edgedl.benchmark.machine import processor_of
from edgedl.core.model import Model
from edgedl.core.progress import Progress, silent
from edgedl.core.registry import load
from edgedl.core.target import Processor
from edgedl.inputs import (
    ProcessingSource,
    SampleSource,
    find_processing,
    load_model,
    open_inputs,
)
from edgedl.report.diagnosed import Diagnosis
from edgedl.runtime.artifact import Artifact, engine_of_target
from edgedl.runtime.sign.admit import TrustSource
from edgedl.runtime.sign.sealed import KeySource
from edgedl.verbs.artifacts import artifact_at, kept_in_memory, opened_at

ANOTHER = "answers of another processor"


def evaluate(
    models: Sequence[str | Path],
    samples: SampleSource,
    *,
    masks: str | Path | None = None,
    preprocess: ProcessingSource | None = None,
    target: str | None = None,
    metric: str | None = None,
    threads: int | None = None,
    trust: TrustSource | None = None,
    key: KeySource | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """A metric of each model on labelled samples, and how alike it answers to the first.

    Without labels, a named metric takes the first model's answers for them. A metric that fails at
    some sample costs its model's row its figures; what the samples before make is in the row.

    Args:
        metric: a name of `edgedl.benchmark.metrics.METRICS` with its settings, or `module:function`
            of your own; where None, what the labels suggest.
        masks: where the masks of the pictures lie that are the samples, as a recipe says it.
        preprocess: what turns raw files into inputs, where samples are a folder of them; what the
            bundles carry where None.
        target: an engine, or a processor of `edgedl.core.target.PROCESSORS`, whose answers are then
            foretold.
        trust, key: those of `edgedl.open`, for every bundle among the models.

    Returns:
        `metric`, `figure`, its name in its field, `foretold`, how answers of another processor came
        about, and `rows`, each with `artifact`, `engine`,
        `value` (more is better), `figure` (in its usual direction), `parts`, that of each class
        where the metric has such, `samples`, `agreement`, `difference` from the first,
        `against_first` without labels, and `failed`.

    Raises:
        EdgeError: a file is unsound, its engine is missing, or the samples do not fit.
    """
    engine_name, processor = engine_of_target(target), processor_of(target)
    opened = [opened_at(path, trust) for path in models]
    given, processing = open_inputs(samples, preprocess, opened, masks)
    if processing is None and (metric or "").partition(":")[0] == "detection":
        processing = find_processing(None, opened)
    artifacts = [artifact_at(path, engine_name, trust, key) for path in models]
    names = number_twins([str(artifact.path) for artifact in artifacts])
    named = dict(zip(names, artifacts, strict=True))
    boxes = None if processing is None else processing.boxes
    foretold: list[str] = []
    with kept_in_memory(models if processor is not None else (), trust):
        if processor is not None:
            tell = load("edgedl.search.foretold:told_of", ANOTHER)
            graphs = {n: load_model(one.path, trust=trust, key=key) for n, one in named.items()}
            named = {n: _there(one, graphs[n], processor) for n, one in named.items()}
            foretold = tell(processor, named)
        found = answered(named, given, metric, threads, progress, boxes=boxes)
    told = [one.accuracy or one.against_first for one in found.values()]
    nothing = {"metric": metric, "figure": {"name": None}}
    first: Mapping[str, Any] = next((one for one in told if one is not None), nothing)
    rows = [
        {
            "artifact": name,
            "engine": artifact.engine,
            "precision": artifact.precision,
            "value": None if one.accuracy is None else one.accuracy["value"],
            "figure": None if one.accuracy is None else one.accuracy["figure"]["value"],
            "parts": {} if one.accuracy is None else one.accuracy.get("parts", {}),
            "samples": one.samples,
            "agreement": one.agreement,
            "difference": one.difference,
            "against_first": one.against_first,
            "failed": None if one.failed is None else str(one.failed),
        }
        for (name, artifact), one in zip(named.items(), found.values(), strict=True)
    ]
    figure = first["figure"]["name"]
    return {"metric": first["metric"], "figure": figure, "foretold": foretold, "rows": rows}


def diagnose(
    model: str | Path,
    compressed: str | Path,
    samples: SampleSource,
    *,
    preprocess: ProcessingSource | None = None,
    target: str | None = None,
    metric: str | None = None,
    seconds: float = 12.0,
    machine: Mapping[str, Any] | None = None,
    trust: TrustSource | None = None,
    key: KeySource | None = None,
    progress: Progress = silent,
) -> Diagnosis:
    """Why a compressed model, of any tool, answers worse than its float model.

    Args:
        preprocess: what turns raw files into inputs, where samples are a folder of them; what the
            bundle carries where None.
        seconds: budget for measuring operators one by one.
        machine: what it is to run on, as `doctor()["machine"]` tells it; where None, the processor
            that the target names, or this one.
        trust, key: those of `edgedl.open`, for every bundle of the two. What is decrypted lies in
            memory alone.

    Raises:
        EdgeError: a file is unsound, the pair does not fit, or the samples do not. BadKey: a bundle
            is encrypted, and its key is not given, or another one.
    """
    diagnose_pair = load("edgedl.diagnosis.pair:diagnose_pair", "`edgedl diagnose`")
    pair_of = load("edgedl.diagnosis.pair:pair_of", "`edgedl diagnose`")
    processor = processor_of(target)
    if processor is not None and machine is None:
        machine = processor.machine()
    named = str(samples) if isinstance(samples, (str, Path)) else "S.npz"
    with kept_in_memory((model, compressed), trust):
        first, second = (load_model(one, trust=trust, key=key) for one in (model, compressed))
        artifact = artifact_at(compressed, engine_of_target(target), trust, key)
        if processor is not None:
            artifact = _there(artifact, second, processor)
        pair = pair_of(first, second, artifact, str(model), named)
        given, _ = open_inputs(
            samples, preprocess, [opened_at(path, trust) for path in (model, compressed)]
        )
        bound = given.bind(pair.model.signature)
        found: Diagnosis = diagnose_pair(
            pair, bound, metric=metric, seconds=seconds, machine=machine, progress=progress
        )
    return found


def _there(artifact: Artifact, model: Model, processor: Processor) -> Artifact:
    found: Artifact = load("edgedl.search.foretold:as_there", ANOTHER)(artifact, model, processor)
    return found
