"""A plan whose weights and scales are trained towards float's answers, without labels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import edgedl
from edgedl.backends import Backend, in_scheme
from edgedl.core.errors import Unsupported
from edgedl.core.model import Model
from edgedl.core.program import CodedTensor, CodedWeight, Coding, Constants, Program
from edgedl.core.progress import Progress
from edgedl.core.registry import load
from edgedl.core.samples import Samples
from edgedl.core.store import default_store, key_of
from edgedl.core.target import SCHEMES
from edgedl.passes.correct import CorrectBias
from edgedl.passes.graph import read, rewrite
from edgedl.passes.layout import layout
from edgedl.passes.plan import Plan
from edgedl.passes.program import Reweigh, program_of
from edgedl.passes.scales import LARGEST_CODE
from edgedl.search.candidates import Candidate, Reference, int8_candidate
from edgedl.search.effort import Effort

CONSTANTS = "constants.npz"
# Behind the label of what was trained.
TUNED = ", tuned"
MOST_BYTES = 512 << 20
CODES = {"uint8": (0, 255), "int8": (-128, 127)}


def tuned(
    backend: Backend,
    start: Candidate,
    calibration: Samples,
    expected: Reference,
    effort: Effort,
    progress: Progress,
) -> Candidate:
    """A candidate with the same operators and kernels as `start`, and other weights, biases and
    scales. What training found is kept in the store.

    Args:
        calibration: what it learns from.
        expected: answers of the float model, which torch must give, too.

    Raises:
        Missing: torch is not installed. Unsupported: torch cannot compute the model, or not in the
            time that the effort allows.
    """
    assert start.plan is not None
    assert start.prepared is not None
    plan, prepared = start.plan, start.prepared
    tune = load("edgedl.train.tune:tune", "tuning weights")
    settings = load("edgedl.train.tune:Settings", "tuning weights")(
        visits=effort.tuning_visits, seconds=effort.tuning_seconds
    )

    def build(folder: Path) -> None:
        program = program_of(prepared.model)
        found = tune(
            program,
            coding_of(plan, prepared.model),
            _corrected(program, start),
            _some(calibration, expected),
            (expected.feeds[0], expected.answers[0]),
            settings,
            progress,
        )
        Constants(found.constants).write(folder / CONSTANTS)
        told = {
            "scales": found.scales,
            "steps": found.steps,
            "loss": [found.before, found.after],
        }
        (folder / "told.json").write_text(json.dumps(told), encoding="utf-8")

    key = key_of(
        what="tuned",
        model=prepared.model.digest,
        plan=plan.to_json(),
        means=None if start.means is None else start.means.to_json(),
        samples=calibration.digest,
        settings=settings.to_json(),
        version=edgedl.__version__,
    )
    folder = default_store().make(key, build)
    told: Mapping[str, Any] = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    return _with(backend, start, Constants.read(folder / CONSTANTS), told["scales"])


def coding_of(plan: Plan, model: Model) -> Coding:
    """Where a plan rounds values of the model that it was made for."""
    kept = {d.node: d.reason for d in plan.decisions if d.precision == "float"}
    groups = layout(read(model.path), SCHEMES[plan.scheme], keep_float=kept).groups
    tensors = {}
    for name, one in plan.activations.items():
        lowest, highest = CODES[one.dtype]
        tensors[name] = CodedTensor(
            one.scale,
            one.zero_point,
            lowest,
            highest,
            plan.readers[name],
            groups.get(name, name),
        )
    weights = {
        node: CodedWeight(position, axis, plan.largest_code(node))
        for node, (position, axis) in plan.weights.items()
    }
    weights |= {node: CodedWeight(0, 1, LARGEST_CODE) for node in plan.tables}
    return Coding(tensors, weights)


def _corrected(program: Program, start: Candidate) -> dict[str, np.ndarray]:
    """Biases as fast correction moves them, by their names in the program: where training begins.

    One that is read twice stays: each of its readers would have it otherwise.
    """
    if start.means is None or start.plan is None or start.prepared is None:
        return {}
    moved = program_of(rewrite(start.prepared.model, CorrectBias(start.plan, start.means)))
    after = {operation.name: operation for operation in moved.operations}
    reads = Counter(name for operation in program.operations for name in operation.inputs)
    found = {}
    for operation in program.operations:
        if operation.name not in after:
            continue
        for old, new in zip(operation.inputs, after[operation.name].inputs, strict=False):
            if old != new and reads[old] == 1 and {old} <= program.constants.keys():
                found[old] = moved.constants[new]
    return found


def _some(calibration: Samples, expected: Reference) -> list[Mapping[str, np.ndarray]]:
    """As many samples as take 512 MiB with the answers to them."""
    each = sum(array.nbytes for array in expected.answers[0].values())
    feeds: list[Mapping[str, np.ndarray]] = []
    size = 0
    for feed in calibration:
        size += each + sum(array.nbytes for array in feed.values())
        if feeds and size > MOST_BYTES:
            break
        feeds.append(feed)
    return feeds


def _with(
    backend: Backend, start: Candidate, constants: Constants, scales: Mapping[str, float]
) -> Candidate:
    """The start with other constants and scales."""
    assert start.plan is not None
    assert start.method is not None
    assert start.prepared is not None
    plan, prepared = start.plan, start.prepared
    moved = {name: replace(one, scale=scales[name]) for name, one in plan.activations.items()}
    candidate = int8_candidate(
        in_scheme(backend, SCHEMES[plan.scheme]),
        replace(
            prepared,
            model=rewrite(prepared.model, Reweigh(constants)),
            tuned=constants,
            scales=moved,
        ),
        start.method,
        keep_float={d.node: d.reason for d in plan.decisions if d.precision == "float"},
        exact=start.exact,
        settings=start.settings,
        shifted=plan.shifted,
        narrow=plan.narrow,
        label=f"{start.label}{TUNED}",
    )
    assert candidate.plan is not None
    if (candidate.plan.int8, candidate.plan.tables) != (plan.int8, plan.tables):
        raise Unsupported(
            "the rules would place the trained plan otherwise",
            hint="weights and scales stay as they were found without training",
        )
    return replace(candidate.with_costs(start.costs), origin=start.origin)
