"""What a recipe would take: its data, network, memory and operators looked at, nothing trained."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from edgedl.core.errors import BadOption, BadSamples, BadValue, EdgeError, Unsupported
from edgedl.core.memory import available_bytes
from edgedl.core.own import shown
from edgedl.core.progress import Progress, silent
from edgedl.core.registry import load
from edgedl.core.target import target_of
from edgedl.core.units import format_bytes, format_ms, plural
from edgedl.line.begin import (
    Line,
    begun,
    last_stage,
    network_of,
    users_code,
)
from edgedl.line.checks import check_together
from edgedl.line.form import check_export, form_of
from edgedl.line.guided import guide_of
from edgedl.line.shrunk import SECONDS, check_steps, judged_by, settings_of
from edgedl.line.spent import expected
from edgedl.recipe import Compress, read_recipe
from edgedl.report.made import Forecast, Stage
from edgedl.runtime import engine, installed_engines
from edgedl.runtime.process.boxes import Boxes

STEPS = 3
# Weights, their gradients, and two averages of these in the optimizer.
COPIES = 4


def foresee(path: str | Path, *, until: str = "bench", progress: Progress = silent) -> Forecast:
    """What `make` would do with a recipe, and about how long it would take.

    The data is loaded and checked, the network made and exported as it is untrained, and each
    engine of the target tried on it; a few steps of training tell the time of all.

    Raises:
        EdgeError: as `make` would, where it can be told before training.
    """
    recipe = read_recipe(path)
    check_together(recipe, until)
    last = last_stage(recipe, until)
    line = begun(recipe, progress)
    shrinks = bool(recipe.shrink) and last != "train"
    with line.opened:
        network = network_of(line)
        if last != "train":
            check_export(line, network)
        guide = guide_of(line, network, foreseen=True)
        if shrinks:
            check_steps(line, network, guide)
        if line.taught_by is not None:
            other, teaching = line.taught_by
            _training(other, teaching, line, "teacher")
        epoch_seconds = _training(line, network, line, "train")
        size = _operators(line, network) if last != "train" else 0
    if shrinks:
        _steps(line, epoch_seconds, size)
    if last in ("compress", "bench") and recipe.compress is not None:
        line.stages.append(Stage("compress", *_compressing(recipe.compress, size), kept=False))
        if (qat := recipe.qat) is not None:
            about = f"{plural(qat.epochs, 'epoch')}, as long as those of training at the least"
            line.stages.append(Stage("qat", about, qat.epochs * epoch_seconds, kept=False))
    if last == "bench" and recipe.bench is not None:
        line.stages.append(Stage("bench", "", recipe.bench.seconds, kept=False))
    return Forecast(recipe.name, str(path), tuple(line.stages), tuple(line.doubts))


def _training(line: Line, network: Any, told: Line, stage: str) -> float:
    """Foretell a network's training; the seconds of an epoch.

    Args:
        told: the line that is told of it.
    """
    settings = line.settings
    try:
        step_seconds, step_bytes = _step(line, network)
    except (BadValue, BadOption, BadSamples, Unsupported) as error:
        raise line.recipe.located(error, "train") from error
    steps = max(1, len(line.dataset.train) // settings.batch)
    epoch_seconds = step_seconds * (steps + len(line.dataset.validation) / settings.batch / 3)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    need = COPIES * 4 * parameters + step_bytes
    free = available_bytes()
    told.stages.append(
        Stage(
            stage,
            f"{shown(line.recipe.network.name)}, {parameters:,} parameters,"
            f" {plural(settings.epochs, 'epoch')} of {plural(steps, 'step')},"
            f" {format_ms(1e3 * step_seconds)} each; about"
            f" {format_bytes(need)} of memory",
            settings.epochs * epoch_seconds,
            kept=False,
        )
    )
    if free is not None and need > free:
        told.doubts.append(
            f"training takes about {format_bytes(need)}, and {format_bytes(free)} are free:"
            " a smaller `batch`, or `accumulate`"
        )
    return epoch_seconds


def _steps(line: Line, epoch_seconds: float, size: int) -> None:
    """Foretell each step: its training, and what ships of it compressed and timed."""
    quick = judged_by(line)
    _, judging = _compressing(quick, size)
    for step in line.recipe.shrink:
        epochs = step.rounds * settings_of(line.settings, step).epochs
        about = (
            f"{step.name}, {plural(step.rounds, 'round')}, {plural(epochs, 'epoch')}, each at most"
            " as long as before"
        )
        if step.is_priced:
            about += "; layers are timed first, once a machine"
        training = epochs * epoch_seconds
        seconds = None if judging is None else training + judging + SECONDS
        line.stages.append(Stage("shrink", about, seconds, kept=False))


def _compressing(asked: Compress, size: int) -> tuple[str, float | None]:
    """In words how long that takes, and in seconds."""
    known = expected(asked, size)
    if known is None:
        return "nothing alike was compressed on this machine yet", None
    return "as models of about this size took here", known


def _step(line: Line, network: Any) -> tuple[float, int]:
    """Seconds of a training step, and the bytes that one leaves in memory for its gradients."""
    settings = replace(line.settings, epochs=1, ema=None, track=(), patience=None)
    count = min(len(line.dataset.train), settings.batch * STEPS)
    few = line.dataset.train.take(range(count))
    ticks: list[float] = []

    def tick(message: str, _done: int, _total: int) -> None:
        if message.startswith("epoch"):
            ticks.append(perf_counter())

    fit: Callable[..., Any] = load("edgedl.train.fit:fit", "training")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder, users_code(line.recipe):
        kept = load("edgedl.train.memory:saved_bytes", "training")(network, few)
        began = perf_counter()
        fit(
            network, few, line.dataset.validation.take(range(min(2, len(line.dataset.validation)))),
            settings, folder=Path(folder), seed=line.recipe.seed, score=_first_rows(line, network),
            guide=_stand_in(line, network, Path(folder)), progress=tick,
        )  # fmt: skip
        took = perf_counter() - began
    network.load_state_dict(before)
    gaps = np.diff(ticks)
    return (float(np.median(gaps)) if len(gaps) else took), kept * settings.batch


def _stand_in(line: Line, network: Any, folder: Path) -> Any:
    """The network as its own teacher, where samples without labels teach nothing; else nobody."""
    distil = line.recipe.distil
    if line.dataset.task != "unlabelled" or distil is None:
        return None
    itself = load("edgedl.train.distil.teacher:itself", "distilling")
    plain = replace(distil, outputs=(), features=(), attention=(), relations=None, weight=1.0)
    return load("edgedl.train.distil.guide:Guide", "distilling")(plain, itself(network), folder)


def _first_rows(line: Line, network: Any) -> Any:
    """What the recipe's own metric makes of a few answers, no figure of it."""
    boxes = getattr(network, "boxes", None)
    metric = line.metric(boxes if isinstance(boxes, Boxes) else None)
    return None if metric is None else replace(metric, whole=lambda rows: float(len(rows)))


def _operators(line: Line, network: Any) -> int:
    """Export the network as it is, and try it on the target's engines; its bytes."""
    settings = line.recipe.export
    export = load("edgedl.export:export", "exporting")
    form = form_of(line, network)
    feed = form.test.feed(0)
    with tempfile.TemporaryDirectory() as folder, line.stage("export") as told:
        found = export(
            form.module, [feed], Path(folder) / "model.onnx", outputs=settings.outputs,
            axes=settings.free, opset=settings.opset, tolerance=settings.tolerance,
        )  # fmt: skip
        line.doubts += found.doubts
        asked = line.recipe.compress
        names = installed_engines() if asked is None else target_of(asked.target).engines
        ran = []
        for name in names:
            if name not in installed_engines():
                line.doubts.append(f"{name} is not installed: pip install 'edgedl[{name}]'")
                continue
            try:
                with engine(name).open_model(found.path, settings={}, threads=1) as session:
                    session.run(feed)
                ran.append(name)
            except EdgeError as error:
                line.doubts.append(f"{name} does not run the network: {error.message}")
        told.append(f"runs on {' and '.join(ran) or 'no engine of the target'}")
        return sum(file.stat().st_size for file in Path(folder).iterdir())
