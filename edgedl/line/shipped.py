"""What ships of a network: exported, compressed and timed, each kept under all that decides it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import edgedl
from edgedl.benchmark.accuracy import has_truth, metric_for, score
from edgedl.core.errors import BadValue, Unsupported, WrongAnswers
from edgedl.core.fields import to_plain
from edgedl.core.registry import load
from edgedl.core.samples import Samples
from edgedl.core.store import key_of
from edgedl.core.target import target_of
from edgedl.core.units import format_bytes
from edgedl.line.alike import original_of
from edgedl.line.begin import Line, users_code
from edgedl.line.form import Form
from edgedl.line.keep import BUNDLE, TOLD, keep_plan, kept
from edgedl.line.spent import remember
from edgedl.recipe import Compress
from edgedl.report.compressed import Compressed
from edgedl.runtime import any_engine, engine, installed_engines
from edgedl.search.memory import machine_parts

MODEL = "model.onnx"


def exported(line: Line, form: Form, trained: str) -> Path:
    """The ONNX file of a network in the form in which it ships.

    Args:
        trained: the key of the network's weights.
    """
    recipe = line.recipe
    settings = recipe.export
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
                axes=settings.free,
                opset=settings.opset,
                tolerance=settings.tolerance,
            )
        except BadValue as error:
            raise recipe.located(error, "export") from error
        except WrongAnswers as error:
            raise recipe.instead(error, "export") from error
        except Unsupported as error:
            raise recipe.instead(error, "network") from error
        told = {
            "difference": found.difference,
            "samples": found.samples,
            "doubts": found.doubts,
            "test": _tested(line, form, folder / MODEL),
        }
        (folder / TOLD).write_text(json.dumps(told), encoding="utf-8")

    line.progress("exporting", 0, 1)
    with line.stage("export") as told, users_code(recipe):
        folder = kept(key, build, told)
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
    metric = metric_for(form.test, judge_of(line, form), form.boxes)
    if metric is None or not has_truth(metric, form.test):
        return ""
    with any_engine().open_model(model, settings={}, threads=1) as session:
        rows = score(session, form.test, metric, line.progress)
    return f"; {metric.name} {metric.total(rows):.4f} in test"


def _first(samples: Samples, count: int) -> list[dict[str, np.ndarray]]:
    return [samples.feed(i) for i in range(min(count, len(samples)))]


def compressed(line: Line, form: Form, model: Path, asked: Compress) -> Path:
    """The folder of a bundle, and of what `compress` said of it."""
    recipe = line.recipe
    size = min(asked.calibration, len(form.train))
    [calibration] = form.train.split([size], recipe.seed)
    key = key_of(
        stage="compress",
        keeps=["plan"],
        model=load("edgedl.passes.graph:open_model", "compressing")(model).digest,
        calibration=calibration.digest,
        test=form.test.digest,
        validation=None if form.choice is None else form.choice.digest,
        processing=None if form.processing is None else form.processing.to_json(),
        settings=to_plain(asked),
        metric=[judge_of(line, form), line.judged_by_code],
        machine=machine_parts(),
        versions={"edgedl": edgedl.__version__, **engines_of(asked)},
    )

    if form.choice is None:
        line.doubts.append(
            "validation holds one class: what ships is chosen by a part of the test samples"
        )

    def build(folder: Path) -> None:
        found = bundled(line, form, model, calibration, asked, folder, ask=asked.precision)
        remember(asked, found.baseline_bytes, found.seconds)

    with line.stage("compress") as told:
        folder = kept(key, build, told)
        found = json.loads((folder / TOLD).read_text("utf-8"))
        told.append(
            f"{found['engine']}, {found['precision']}, {format_bytes(found['bytes'])},"
            f" {found['speedup']['ratio']:.2f}x the speed of float32"
        )
    return folder


def bundled(
    line: Line,
    form: Form,
    model: Path,
    calibration: Samples,
    asked: Compress,
    folder: Path,
    **way: Any,
) -> Compressed:
    """What `compress` says of a model, kept in the folder with its bundle and its plan.

    Args:
        way: how it is to be compressed: `ask`, a precision, or `plan`, a file.
    """
    compress = load("edgedl.pipeline:compress", "compressing")
    made: Compressed = compress(
        model, calibration, folder / BUNDLE, target=asked.target, test=form.test,
        validation=form.choice, preprocess=form.processing, max_drop=asked.parsed_max_drop(),
        max_latency_ms=asked.parsed_max_latency(), max_bytes=asked.parsed_max_bytes(),
        metric=judge_of(line, form), threads=asked.threads, effort=asked.effort,
        seed=line.recipe.seed, progress=line.progress, **way,
    )  # fmt: skip
    # not the folder that it is made in, which is gone once it is kept
    found = replace(made, output=Path(BUNDLE))
    told = {**found.to_json(), "text": found.text(), "broken": list(found.broken)}
    (folder / TOLD).write_text(json.dumps(told), encoding="utf-8")
    keep_plan(found, folder)
    return found


def judge_of(line: Line, form: Form) -> str | None:
    """The metric of the test samples; None where they have no labels."""
    return line.judged_by if form.test.labels is not None else None


def engines_of(asked: Compress) -> dict[str, str]:
    """The versions of the target's engines that are installed, by name."""
    wanted = target_of(asked.target).engines
    return {name: engine(name).version for name in installed_engines() if name in wanted}


def timed(line: Line, form: Form, model: Path, bundle: Path) -> Mapping[str, Any]:
    """The float model and the bundle beside one another, as `edgedl bench` says it: the model as it
    was brought, where one was, and between the two what would ship of that unshrunk."""
    settings = line.recipe.bench
    assert settings is not None
    bench = load("edgedl.verbs:bench", "timing")
    few = form.test.take(range(min(64, len(form.test))))
    original = original_of(line)
    unshrunk = line.unshrunk if original is not None else None
    models = [one for one in (original or model, unshrunk, bundle) if one is not None]
    with line.stage("bench") as told:
        found: Mapping[str, Any] = bench(
            models, samples=few, threads=settings.threads, seconds=settings.seconds,
            progress=line.progress,
        ).to_json()  # fmt: skip
        pair = pair_of(found, 0, -1)
        told.append(
            f"{pair['ratio']:.2f}x [{pair['low']:.2f}, {pair['high']:.2f}] {pair['verdict']}"
        )
    return found


def pair_of(found: Mapping[str, Any], first: int, second: int) -> Mapping[str, Any]:
    """How many times faster one row of a bench is than another, by their places."""
    names = [row["artifact"] for row in found["rows"]]
    wanted = (names[first], names[second])
    pair: Mapping[str, Any] = next(p for p in found["pairs"] if (p["a"], p["b"]) == wanted)
    return pair
