"""What the user brought, beside what ships of it: how alike they answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import edgedl
from edgedl.core.progress import Progress
from edgedl.core.registry import load
from edgedl.core.samples import Samples
from edgedl.core.stats import AgreementMeter
from edgedl.core.store import default_store, key_of
from edgedl.line.begin import Line, content_digest
from edgedl.line.form import Form
from edgedl.line.keep import TOLD
from edgedl.runtime import any_engine
from edgedl.runtime import open as open_bundle
from edgedl.runtime.session import Session
from edgedl.runtime.sign.admit import ANYBODY
from edgedl.search.memory import machine_parts

# Test samples that are compared at most.
MOST = 10_000


def original_of(line: Line) -> Path | None:
    """The ONNX file that everything is held against: the one that the network was brought in, else
    the teacher of samples without labels; None where there is none."""
    recipe = line.recipe
    if recipe.network.name == "onnx":
        return Path(recipe.network.settings["file"])
    distil = recipe.distil
    if line.dataset.task == "unlabelled" and distil is not None and distil.origin == "onnx":
        return Path(distil.teacher)
    return None


def like_original(line: Line, form: Form, made: Path) -> Mapping[str, Any] | None:
    """How alike a bundle, or an ONNX file, and the original answer the test samples, float32 on
    any engine; kept. None where there is no original, or it answers other outputs.

    Args:
        form: in which it ships: its samples are what both take.
    """
    original = original_of(line)
    if original is None:
        return None
    samples = form.test.take(range(min(MOST, len(form.test))))
    reference = any_engine()
    key = key_of(
        stage="alike",
        original=_digest(original),
        made=content_digest(made) if made.suffix == ".edl" else _digest(made),
        samples=samples.digest,
        engine=[reference.name, reference.version],
        machine=machine_parts(),
        edgedl=edgedl.__version__,
    )

    def build(folder: Path) -> None:
        with (
            reference.open_model(original, settings={}, threads=1) as first,
            _opened(made) as second,
        ):
            found = _compared(first, second, samples, line.progress)
        (folder / TOLD).write_text(json.dumps(found), encoding="utf-8")

    found: Mapping[str, Any] | None = json.loads(
        (default_store().make(key, build) / TOLD).read_text("utf-8")
    )
    return found


def _compared(
    original: Session, made: Session, samples: Samples, progress: Progress
) -> dict[str, Any] | None:
    """How alike they answer; inputs go by their order, and outputs by name where there are
    several. None where they have other outputs."""
    takes = [[t.name for t in one.signature.inputs] for one in (original, made)]
    gives = [[t.name for t in one.signature.outputs] for one in (original, made)]
    if len(gives[0]) == len(gives[1]) == 1:
        names = {gives[0][0]: gives[1][0]}
    elif set(gives[0]) == set(gives[1]):
        names = {name: name for name in gives[0]}
    else:
        return None
    meter = AgreementMeter()
    for i in range(len(samples)):
        feed = samples.feed(i)
        wanted = original.run({one: feed[own] for one, own in zip(*takes, strict=True)})
        given = made.run(feed)
        meter.add(wanted, {one: given[own] for one, own in names.items()})
        progress("comparing answers", i + 1, len(samples))
    return meter.result().to_json()


def _digest(path: Path) -> str:
    digest: str = load("edgedl.passes.graph:open_model", "comparing")(path).digest
    return digest


def _opened(path: Path) -> Session:
    """A session on a bundle as it ships, or on an ONNX file."""
    if path.suffix == ".edl":
        return open_bundle(path, threads=1, trust=ANYBODY)
    return any_engine().open_model(path, settings={}, threads=1)
