"""The line from a recipe to a bundle: what each stage makes is kept, and only what changed anew."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import edgedl
from edgedl.benchmark.accuracy import has_truth, metric_for, score
from edgedl.core.errors import BadOption, BadSamples, BadValue, EdgeError, Unsupported
from edgedl.core.fields import to_plain
from edgedl.core.progress import Progress, silent
from edgedl.core.registry import load, version
from edgedl.core.samples import Samples
from edgedl.core.store import atomic_write, check_writable, default_store, key_of
from edgedl.core.target import target_of
from edgedl.core.units import format_bytes
from edgedl.line.begin import Line, begun, code_of, last_stage, network_of
from edgedl.line.form import Form, form_of
from edgedl.recipe import read_recipe
from edgedl.report.made import Made
from edgedl.runtime import any_engine, engine, installed_engines
from edgedl.runtime.boxes import Boxes
from edgedl.search.memory import machine_parts

if TYPE_CHECKING:
    from torch import nn


# Settings of training that may change while it goes on: nothing that comes out is another.
FREE = ("checkpoint_seconds", "track", "memory", "threads")
MODEL, BUNDLE, TOLD, LOG = "model.onnx", "bundle.edl", "told.json", "log.jsonl"


def make(
    path: str | Path,
    *,
    output: str | Path | None = None,
    until: str = "bench",
    progress: Progress = silent,
) -> Made:
    """Train the recipe's network, export it, compress it and time it.

    Each stage's result is kept in the store under all that decides it: the data, the settings, the
    versions of the libraries. Killed and called again, training goes on where it was. Under
    `torchrun` all processes train, and the first goes on.

    Args:
        output: the file to write: a bundle, or an ONNX file where `until` is `export`; the recipe's
            name in the current folder where None.
        until: the last stage: `train`, `export`, `compress` or `bench`.

    Raises:
        EdgeError: the recipe, its data or its network is unsound, or a stage failed; what was made
            before is kept.
    """
    recipe = read_recipe(path)
    last = last_stage(recipe, until) if leads() else "train"
    suffix = ".onnx" if last == "export" else ".edl"
    target = None if last == "train" else Path(output or f"{recipe.name}{suffix}")
    if target is not None:
        check_writable(target)
    line = begun(recipe, progress)
    network = network_of(line)
    trained, weights = _trained(line, network)
    model: Path | None = None
    bundle: Path | None = None
    compressed: Mapping[str, Any] | None = None
    timed: Mapping[str, Any] | None = None
    if last != "train":
        form = form_of(line, network)
        model = _exported(line, form, trained)
        if last in ("compress", "bench"):
            folder = _compressed(line, form, model)
            bundle, compressed = folder / BUNDLE, json.loads((folder / TOLD).read_text("utf-8"))
            if last == "bench":
                timed = _timed(line, form, model, bundle)
    made = bundle or model
    if target is not None and made is not None:
        with atomic_write(target) as there:
            shutil.copyfile(made, there)
    return Made(
        name=recipe.name,
        recipe=str(path),
        output=None if target is None else str(target),
        weights=str(weights),
        history=tuple(load("edgedl.train.track:read_log", "training")(weights.parent / LOG)),
        stages=tuple(line.stages),
        compressed=compressed,
        bench=timed,
        doubts=tuple(line.doubts),
    )


def leads() -> bool:
    """Whether this process goes on behind training, and speaks: of several that `torchrun` started,
    the first."""
    return int(os.environ.get("RANK", "0")) == 0


def _trained_key(line: Line) -> str:
    recipe, dataset = line.recipe, line.dataset
    return key_of(
        stage="train",
        train=dataset.train.digest,
        validation=dataset.validation.digest,
        inputs={name: to_plain(shape) for name, shape in dataset.inputs.items()},
        outputs=[dataset.task, dataset.outputs],
        network=[recipe.network.name, dict(recipe.network.settings)],
        settings={k: v for k, v in to_plain(line.settings).items() if k not in FREE},
        code=code_of(recipe),
        seed=recipe.seed,
        versions={"edgedl": edgedl.__version__, "torch": version("torch")},
    )


def _trained(line: Line, network: nn.Module) -> tuple[str, Path]:
    """The key of the trained weights, and their file; the network has them."""
    key = _trained_key(line)
    folder = default_store().root / "runs" / key[:32]
    fit = load("edgedl.train.fit:fit", "training")
    boxes = getattr(network, "boxes", None)
    metric = line.metric(boxes if isinstance(boxes, Boxes) else None)
    with line.stage("train") as told, _alone(folder):
        done = folder / TOLD
        before = done.exists()
        try:
            found = fit(
                network, line.dataset.train, line.dataset.validation, line.settings,
                folder=folder, seed=line.recipe.seed, score=metric, progress=line.progress,
            )  # fmt: skip
        except (BadValue, BadOption, BadSamples, Unsupported) as error:
            raise line.recipe.located(error, "train") from error
        with atomic_write(done) as there:
            there.write_text(json.dumps({"recipe": line.recipe.name}), encoding="utf-8")
        count = sum(parameter.numel() for parameter in network.parameters())
        told += ["kept"] * before
        told.append(
            f"{line.recipe.network.name}, {count:,} parameters, {found.epochs} epochs,"
            f" {found.metric} {found.best:.4g} in validation"
        )
    return key, Path(found.weights)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process trains the same; those of one `torchrun` are one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise EdgeError(
            f"the store cannot be written ({error.strerror})",
            where=str(default_store().root),
            hint="set EDGEDL_STORE to a folder that can",
        ) from error
    with lock as file:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise EdgeError(
                    "another process is training this recipe",
                    where=str(folder),
                    hint="wait for it, or stop it; what it has trained is not lost",
                ) from error
        yield


def _exported(line: Line, form: Form, trained: str) -> Path:
    recipe = line.recipe
    settings = recipe.export
    axes: dict[str, dict[int, str]] = {}
    for axis in settings.axes:
        axes.setdefault(axis.input, {})[axis.axis] = axis.name
    key = key_of(
        stage="export",
        trained=trained,
        settings=to_plain(settings),
        test=form.test.digest,
        metric=[line.judged_by, line.judged_by_code],
    )

    def build(folder: Path) -> None:
        export = load("edgedl.export:export", "exporting")
        try:
            found = export(
                form.module,
                _first(form.test, settings.samples),
                folder / MODEL,
                outputs=settings.outputs,
                axes=axes,
                opset=settings.opset,
                tolerance=settings.tolerance,
            )
        except BadValue as error:
            raise recipe.located(error, "export") from error
        told = {
            "difference": found.difference,
            "samples": found.samples,
            "doubts": found.doubts,
            "test": _tested(line, form, folder / MODEL),
        }
        (folder / TOLD).write_text(json.dumps(told), encoding="utf-8")

    line.progress("exporting", 0, 1)
    with line.stage("export") as told:
        folder = _kept(key, build, told)
        found = json.loads((folder / TOLD).read_text("utf-8"))
        line.doubts += found["doubts"]
        size = format_bytes((folder / MODEL).stat().st_size)
        told.append(
            f"{size}, within {found['difference']:.1g} of the network on {found['samples']}"
            f" samples{found['test']}"
        )
    return folder / MODEL


def _tested(line: Line, form: Form, model: Path) -> str:
    """The float model's figure on the test samples, in words; empty where there is none."""
    judged = line.judged_by if form.test.labels is not None else None
    metric = metric_for(form.test, judged, form.boxes)
    if metric is None or not has_truth(metric, form.test):
        return ""
    with any_engine().open_model(model, settings={}, threads=1) as session:
        rows = score(session, form.test, metric, line.progress)
    return f"; {metric.name} {metric.total(rows):.4f} in test"


def _first(samples: Samples, count: int) -> list[dict[str, np.ndarray]]:
    return [samples.feed(i) for i in range(min(count, len(samples)))]


def _compressed(line: Line, form: Form, model: Path) -> Path:
    recipe, asked = line.recipe, line.recipe.compress
    assert asked is not None
    size = min(asked.calibration, len(form.train))
    [calibration] = form.train.split([size], recipe.seed)
    judged = line.judged_by if form.test.labels is not None else None
    engines = {name: engine(name).version for name in installed_engines()
               if name in target_of(asked.target).engines}  # fmt: skip
    key = key_of(
        stage="compress",
        model=load("edgedl.passes.graph:open_model", "compressing")(model).digest,
        calibration=calibration.digest,
        test=form.test.digest,
        processing=None if form.processing is None else form.processing.to_json(),
        settings=to_plain(asked),
        metric=[judged, line.judged_by_code],
        machine=machine_parts(),
        versions={"edgedl": edgedl.__version__, **engines},
    )

    def build(folder: Path) -> None:
        compress = load("edgedl.pipeline:compress", "compressing")
        found = compress(
            model, calibration, folder / BUNDLE, ask=asked.precision, target=asked.target,
            test=form.test, preprocess=form.processing,
            max_drop=asked.parsed_max_drop(), max_latency_ms=asked.parsed_max_latency(),
            max_bytes=asked.parsed_max_bytes(), metric=judged, threads=asked.threads,
            effort=asked.effort, seed=recipe.seed, progress=line.progress,
        )  # fmt: skip
        # not the folder that it is made in, which is gone once it is kept
        found = replace(found, output=Path(BUNDLE))
        told = {**found.to_json(), "text": found.text(), "broken": list(found.broken)}
        (folder / TOLD).write_text(json.dumps(told), encoding="utf-8")

    with line.stage("compress") as told:
        folder = _kept(key, build, told)
        found = json.loads((folder / TOLD).read_text("utf-8"))
        told.append(
            f"{found['engine']}, {found['precision']}, {format_bytes(found['bytes'])},"
            f" {found['speedup']['ratio']:.2f}x the speed of float32"
        )
    return folder


def _timed(line: Line, form: Form, model: Path, bundle: Path) -> Mapping[str, Any]:
    settings = line.recipe.bench
    assert settings is not None
    bench = load("edgedl.verbs:bench", "timing")
    few = form.test.take(range(min(64, len(form.test))))
    with line.stage("bench") as told:
        found: Mapping[str, Any] = bench(
            [model, bundle], samples=few, threads=settings.threads, seconds=settings.seconds,
            progress=line.progress,
        ).to_json()  # fmt: skip
        pair = found["pairs"][0]
        told.append(
            f"{pair['ratio']:.2f}x [{pair['low']:.2f}, {pair['high']:.2f}] {pair['verdict']}"
        )
    return found


def _kept(key: str, build: Callable[[Path], None], told: list[str]) -> Path:
    """The folder of a result, made where it is not there; `kept` is told where it was."""
    made = False

    def building(folder: Path) -> None:
        nonlocal made
        made = True
        build(folder)

    folder = default_store().make(key, building)
    told += [] if made else ["kept"]
    return folder
