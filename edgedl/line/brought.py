"""A network that the user brings as an ONNX file, shrunk by a recipe that is written for it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.core.errors import BadOption, BadSamples, EdgeError
from edgedl.core.model import Model
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples, open_npz
from edgedl.core.stats import AgreementMeter
from edgedl.core.store import atomic_write, check_writable
from edgedl.inputs import load_model
from edgedl.line.make import make
from edgedl.report.made import Made
from edgedl.runtime import any_engine

FIRST_LINE = "# written by edgedl shrink"
# Samples that are looked at in all behind each cut, and passes over them.
LOOKS, LEAST_EPOCHS, MOST_EPOCHS = 80_000, 4, 100
# A trained network without batch norms, as files hold them, is lost at ten times this rate.
RATE, BATCH = 1e-4, 32
# The share of samples that are neither to choose by nor to test on; see `data`.
LEARNED_FROM, LEARNED_FROM_ALL = 0.7, 0.9
FEW = 16
# Folders up, beyond which a path is written whole.
MOST_UP = 2
KINDS = ("classes", "flags", "values")


def shrink(
    model: str | Path,
    samples: str | Path,
    output: str | Path | None = None,
    *,
    latency: float | None = None,
    macs: float | None = None,
    test: str | Path | None = None,
    epochs: int | None = None,
    rounds: int = 1,
    answers: str | None = None,
    target: str = "cpu",
    threads: int = 1,
    effort: str = "fast",
    seed: int = 0,
    progress: Progress = silent,
) -> Made:
    """Cut a trained network until it is faster, teach it to answer as it did, and ship it.

    It needs neither training code nor labels. What is done is a recipe, which is written beside the
    output and carried out by `make`: it may be edited, and made again.

    Args:
        model: a float ONNX file.
        samples: an `.npz` file of inputs by the model's names. `labels` in it are not learned from;
            accuracy is told by them, too.
        output: the bundle to write, or an ONNX file in float32; the model's name with `.edl` in the
            current folder where None.
        latency: the share of time to keep, as the target takes it; 0.5 where neither it nor `macs`
            is given.
        macs: the share of multiplications to keep.
        test: samples to report on, else a fifth of `samples`.
        epochs: passes over the samples behind each cut; None: so many that 80,000 are looked at,
            4 to 100.
        rounds: cuts, of equal shares.
        answers: what the model gives: `classes`, `flags` or `values`; None: `classes` where its
            first output is a row of scores.
        target, threads, effort: as of `compress`.
        seed: of all that is drawn.

    Raises:
        EdgeError: the model cannot be brought back or cut, the samples do not fit it, or a file
            lies where the recipe would be written.
    """
    made = Path(output or f"{Path(model).stem}.edl")
    recipe = write_recipe(
        model, samples, made, latency=latency, macs=macs, test=test, epochs=epochs, rounds=rounds,
        answers=answers, target=target, threads=threads, effort=effort, seed=seed,
    )  # fmt: skip
    until = "export" if made.suffix == ".onnx" else "bench"
    return make(recipe, output=made, until=until, progress=progress)


def write_recipe(
    model: str | Path,
    samples: str | Path,
    made: Path,
    *,
    latency: float | None = None,
    macs: float | None = None,
    test: str | Path | None = None,
    epochs: int | None = None,
    rounds: int = 1,
    answers: str | None = None,
    target: str = "cpu",
    threads: int = 1,
    effort: str = "fast",
    seed: int = 0,
) -> Path:
    """Write what `shrink` carries out, beside what it makes; the arguments and errors are its own.

    Args:
        made: the bundle, or the ONNX file.

    Returns:
        The recipe's file.
    """
    if latency is not None and macs is not None:
        raise BadOption("--latency and --macs both say how much stays", hint="leave one out")
    if answers is not None and answers not in KINDS:
        raise BadOption(f"answers are `{answers}`", hint="known: " + ", ".join(KINDS))
    opened = load_model(model)
    if made.suffix not in (".edl", ".onnx"):
        raise BadOption(f"`{made}` is no bundle's name", hint="OUT.edl, or OUT.onnx for float32")
    if made.resolve() == Path(model).resolve():
        raise BadOption(f"`{made}` is the model itself", hint="-o with another name")
    check_writable(made, samples, test, *opened.files)
    recipe = recipe_beside(made)
    given = _samples(samples, opened)
    tested = None if test is None else _samples(test, opened)
    if tested is not None and (given.labels is None) != (tested.labels is None):
        without = samples if given.labels is None else test
        raise BadSamples("has no `labels`, and the other file has", where=str(without),
                         hint="labels in both files, or in neither")  # fmt: skip
    found, width = _kind(opened, given)
    kind = answers or found
    passes = passes_for(len(given), apart=tested is not None) if epochs is None else epochs
    cut = {"macs": macs} if macs is not None else {"latency": 0.5 if latency is None else latency}
    # steps are judged by what ships
    precision = {"precision": "float32"} if made.suffix == ".onnx" else {}
    document = {
        "data": {
            "arrays": _from(samples, recipe),
            **({} if test is None else {"test": _from(test, recipe)}),
            **_task(given.labels, kind, width),
        },
        "network": {"name": "onnx", "file": _from(model, recipe)},
        "train": {
            "epochs": 0, "batch": BATCH, "optimizer": {"name": "adam", "lr": RATE},
            "schedule": {"name": "cosine"},
        },
        "distil": {"teacher": _from(model, recipe), "weight": 1, "answers": kind},
        "shrink": [{"name": "prune", **cut, "rounds": rounds, "epochs": passes, "lr": RATE}],
        "compress": {"target": target, "threads": threads, "effort": effort, **precision},
        "bench": {"threads": threads},
        "seed": seed,
    }  # fmt: skip
    _write(recipe, document)
    return recipe


def recipe_beside(output: str | Path) -> Path:
    """Where the recipe of an output is written.

    Raises:
        EdgeError: a file is there that `shrink` did not write.
    """
    path = Path(output).with_suffix(".yaml")
    if path.exists() and not _is_ours(path):
        raise EdgeError(
            "is there already, and `edgedl shrink` did not write it",
            where=str(path),
            hint="-o with another name: the recipe is written beside the output",
        )
    return path


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline().rstrip() == FIRST_LINE.encode()


def _write(path: Path, document: Mapping[str, Any]) -> None:
    about = "# `edgedl make` carries it out; edit a copy, since this file may be written anew"
    lines = [FIRST_LINE, about]
    lines += [f"{key}: {_plain(value)}" for key, value in document.items()]
    with atomic_write(path) as there:
        there.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _plain(value: Any) -> str:
    """One line of YAML, as people write it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_plain(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if isinstance(value, str) and not value.isalnum():
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _from(path: str | Path, recipe: Path) -> str:
    """A path as the recipe has it: from its own folder on, where it lies near."""
    try:
        found = Path(os.path.relpath(path, recipe.parent))
    except ValueError:  # another drive
        return str(Path(path).resolve())
    return str(Path(path).resolve()) if found.parts.count("..") > MOST_UP else found.as_posix()


def passes_for(count: int, *, apart: bool) -> int:
    """Epochs behind a cut for so many samples.

    Args:
        apart: whether none of them are for the test.
    """
    learned_from = count * (LEARNED_FROM_ALL if apart else LEARNED_FROM)
    return int(np.clip(round(LOOKS / learned_from), LEAST_EPOCHS, MOST_EPOCHS))


def _samples(path: str | Path, model: Model) -> Samples:
    """Samples in a file, checked against the model's inputs."""
    if Path(path).is_dir() or Path(path).suffix.lower() != ".npz":
        raise BadSamples(
            "is no `.npz` file",
            where=str(path),
            hint="np.savez('S.npz', input=x), samples along axis 0; files in a folder go into a"
            " recipe: `data: {folder: ..., task: unlabelled}`",
        )
    return open_npz(path).bind(model.signature)


def _kind(model: Model, samples: Samples) -> tuple[str, int]:
    """What a model answers, by a few samples, and how many values its first output has."""
    meter = AgreementMeter()
    with any_engine().open_model(model.path, settings={}, threads=1) as session:
        for i in range(min(FEW, len(samples))):
            answers = session.run(samples.feed(i))
            meter.add(answers, answers)
    kind = "values" if meter.result().top1 is None else "classes"
    return kind, next(iter(answers.values())).size


def _task(labels: np.ndarray | None, kind: str, width: int) -> dict[str, Any]:
    if labels is None:
        return {"task": "unlabelled"}
    if labels.dtype.kind in "iub" and labels.ndim == 1:
        # the samples may well show fewer classes than the model tells apart
        counted = {"class_count": width} if kind == "classes" and width > 1 else {}
        return {"task": "classification", **counted}
    # the model answers in the labels' own units
    return {"task": "regression", "standardize": False}
