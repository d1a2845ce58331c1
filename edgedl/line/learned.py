"""The stage behind compression: what ships in int8 is trained where that makes it better."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgedl
from edgedl.benchmark.accuracy import score
from edgedl.core.errors import BadOption, BadSamples, BadValue, Unsupported
from edgedl.core.fields import to_plain
from edgedl.core.model import Model
from edgedl.core.program import TUNED, Constants
from edgedl.core.registry import load, version
from edgedl.core.runs import alone, run_folder
from edgedl.core.samples import Samples
from edgedl.core.store import atomic_write, default_store, key_of
from edgedl.core.units import plural
from edgedl.inputs import split
from edgedl.line.begin import Line, code_of
from edgedl.line.form import Form
from edgedl.line.keep import BUNDLE, PLAN, TOLD, kept
from edgedl.line.shipped import bundled, engines_of, judge_of
from edgedl.line.trained import deciding
from edgedl.runtime import open as open_bundle
from edgedl.runtime.sign.admit import ANYBODY
from edgedl.search.memory import machine_parts
from edgedl.train.settings import Fit, OfNetwork, OwnLoss
from edgedl.yamls import read_yaml

if TYPE_CHECKING:
    from edgedl.benchmark.metrics.metric import Metric
    from edgedl.search.trainable import Trainable
    from edgedl.train.qat import Learnt, Qat

FIGURES = "qat.json"
# By how much what ships may miss what training saw before that is a doubt: a share of the figure.
NEAR = 0.002
# How many times as large a bundle is a doubt.
MORE = 1.02


@dataclass(frozen=True, eq=False)
class Learned:
    """What ships behind the stage.

    Attributes:
        folder: with its bundle, what compression tells of it, and its plan, as compression leaves
            them; the one that was given where nothing was trained, or was no better for it.
        trained: whether it was trained and is better.
        reason: why it ships as it was compressed; empty where it was trained.
        figures: in validation, by name: `planned` and `trained` as training saw them of `metric`,
            and `planned_on_engine` and `trained_on_engine`; empty where nothing was trained, and
            without the latter two where no metric is named or training was no better.
    """

    folder: Path
    trained: bool
    reason: str
    figures: Mapping[str, Any]

    @property
    def bundle(self) -> Path:
        """The file that ships."""
        return self.folder / BUNDLE

    @property
    def told(self) -> dict[str, Any]:
        """What compression says of the bundle as JSON, and under `qat` what this stage does."""
        found: dict[str, Any] = json.loads((self.folder / TOLD).read_text("utf-8"))
        figures = {"trained": self.trained, "reason": self.reason, "figures": dict(self.figures)}
        return {**found, "qat": figures}


def learned(line: Line, form: Form, model: Path, folder: Path, settings: Qat) -> Learned:
    """Train what was compressed, with the rounding of its plan, and ship it where it is better.

    Killed and called again, training goes on where it was.

    Args:
        model: the exported ONNX file.
        folder: what compression made of it: its bundle, what it told, and its plan beside them.

    Raises:
        EdgeError: the settings do not fit the data, or training or the engine failed.
    """
    with line.stage("qat") as told:
        found = _learned(line, form, model, folder, settings, told)
        if not found.trained:
            told.append(f"as it was compressed: {found.reason}")
        return found


def _learned(
    line: Line, form: Form, model: Path, folder: Path, settings: Qat, told: list[str]
) -> Learned:
    plan = folder / PLAN
    if not plan.exists():
        return Learned(folder, False, "nothing that ships computes in int8", {})
    asked = line.recipe.compress
    assert asked is not None
    size = min(asked.calibration, len(form.train))
    [calibration] = form.train.split([size], line.recipe.seed)
    try:
        ground = _trainable(line, form, model, calibration, plan, settings)
        found, key = _trained(line, form, ground, settings)
    except Unsupported as error:
        line.doubts.append(f"int8 was not trained: {error}")
        return Learned(folder, False, error.message, {})
    metric = _metric(line, form)
    figures: dict[str, Any] = {
        "metric": found.metric, "planned": found.before, "trained": found.after,
    }  # fmt: skip
    words = f"{found.metric} {found.before:.4g} in validation as planned, {found.after:.4g} trained"
    if not found.better:
        return Learned(folder, False, f"training made it no better ({words})", figures)
    after = _shipped(line, form, model, calibration, ground, found, key, folder, told)
    if metric is not None:
        figures |= json.loads((after / FIGURES).read_text("utf-8"))
        told_by = (figures["planned_on_engine"], figures["trained_on_engine"])
        words += f"; {told_by[0]:.4g} and {told_by[1]:.4g} on the engine"
        # With fewer bits than the plan's, it is the same plan with as few that it has to be above.
        if not ground.fewer and not metric.turned(told_by[1]) > metric.turned(told_by[0]):
            return Learned(folder, False, f"training made it no better ({words})", figures)
        if abs(told_by[1] - found.after) > NEAR * max(1.0, abs(found.after)):
            line.doubts.append(
                f"the trained int8 model has {found.metric} {told_by[1]:.4g} on the engine, where"
                f" training saw {found.after:.4g}"
            )
    told.append(f"{plural(found.fitted.epochs, 'epoch')}, {words}")
    sizes = [(one / BUNDLE).stat().st_size for one in (folder, after)]
    if sizes[1] > MORE * sizes[0]:
        line.doubts.append(
            f"training in int8 took what ships from {sizes[0]:,} to {sizes[1]:,} bytes: zeros and"
            " palettes of `shrink` do not stay through it"
        )
    return Learned(after, True, "", figures)


def _trainable(
    line: Line, form: Form, model: Path, calibration: Samples, plan: Path, settings: Qat
) -> Trainable:
    """The plan as training needs it, of the model as compression cleaned it."""
    clean, groups = _as_compressed(line, form, model, calibration)
    read = read_yaml(plan)
    written = read.read(lambda one: load(
        "edgedl.passes.plan_file:from_document", "training int8")(one).with_constants(plan.parent)
    )  # fmt: skip
    made: Trainable = load("edgedl.search.trainable:trainable", "training int8")(
        clean, written, groups, weight_bits=settings.weight_bits, progress=line.progress
    )
    return made


def _as_compressed(
    line: Line, form: Form, model: Path, calibration: Samples
) -> tuple[Model, Samples]:
    """The cleaned model and the samples that `compress` calibrates with, as it finds them."""
    given: Model = load("edgedl.passes.graph:open_model", "training int8")(model)
    ready = load("edgedl.search.ready:prepare", "training int8")
    proven = load("edgedl.search.ready:proven_clean", "training int8")
    clean: Model = ready(given, {})
    bound, tested, validated = (
        None if some is None else some.bind(clean.signature)
        for some in (calibration, form.test, form.choice)
    )
    assert bound is not None
    groups = split(bound, tested, line.recipe.seed, validated)
    clean, _ = proven(given, clean, groups.choice)
    return clean, groups.calibration


def _metric(line: Line, form: Form) -> Metric | None:
    """What is better in validation; None: the loss."""
    if form.validation.labels is None and line.dataset.task != "reconstruction":
        return None
    return line.metric(form.boxes)


def _by_labels(form: Form, wanted: Fit, outputs: int) -> bool:
    """Whether the loss of the network's training can be taken of what the exported graph gives."""
    if isinstance(wanted.loss, OfNetwork) or form.boxes is not None:
        return False
    if wanted.loss is None and any(hasattr(one, "loss") for one in form.module.modules()):
        return False
    return not (isinstance(wanted.loss, OwnLoss) and outputs > 1)


def _trained(line: Line, form: Form, ground: Trainable, settings: Qat) -> tuple[Learnt, str]:
    """What training found, and the key that it is kept under."""
    recipe, wanted = line.recipe, line.settings
    qat = load("edgedl.train.qat:qat", "training int8")
    constants = ground.written.constants
    key = key_of(
        stage="qat",
        plan=ground.plan.to_json(),
        model=Constants(ground.program.constants).to_json(),
        start=Constants(ground.start).to_json(),
        tuned=None if constants is None else constants.to_json(),
        train=form.train.digest,
        validation=form.validation.digest,
        settings=to_plain(settings),
        wanted=deciding(wanted),
        code=code_of(recipe),
        seed=recipe.seed,
        versions={"edgedl": edgedl.__version__, "torch": version("torch")},
    )
    store = default_store()
    folder = run_folder(store, key)
    outputs = len(ground.program.signature.outputs)
    with alone(folder, store):
        try:
            found: Learnt = qat(
                ground.program, ground.coding, ground.start, form.train, form.validation, wanted,
                settings, folder=folder, by_labels=_by_labels(form, wanted, outputs),
                seed=recipe.seed, score=_metric(line, form), progress=line.progress,
            )  # fmt: skip
        except (BadValue, BadOption, BadSamples) as error:
            raise recipe.located(error, "qat") from error
        with atomic_write(folder / TOLD) as there:
            there.write_text(json.dumps({"recipe": recipe.name, "stage": "qat"}), encoding="utf-8")
    return found, key


def _shipped(
    line: Line,
    form: Form,
    model: Path,
    calibration: Samples,
    ground: Trainable,
    found: Learnt,
    trained: str,
    before: Path,
    told: list[str],
) -> Path:
    """The folder of the bundle with what training found, proven and timed as any other."""
    asked = line.recipe.compress
    assert asked is not None
    metric = _metric(line, form)
    key = key_of(
        stage="qat, compress",
        trained=trained,
        weights=Constants(found.constants).to_json(),
        test=form.test.digest,
        processing=None if form.processing is None else form.processing.to_json(),
        settings=to_plain(asked),
        metric=[judge_of(line, form), line.judged_by_code],
        machine=machine_parts(),
        versions={"edgedl": edgedl.__version__, **engines_of(asked)},
    )

    def build(folder: Path) -> None:
        (folder / PLAN).write_text(ground.text(found.scales), encoding="utf-8")
        Constants(found.constants).write(folder / TUNED)
        bundled(line, form, model, calibration, asked, folder, plan=folder / PLAN)
        if metric is not None:
            figures = {
                "planned_on_engine": _on_engine(line, form, before / BUNDLE, metric),
                "trained_on_engine": _on_engine(line, form, folder / BUNDLE, metric),
            }
            (folder / FIGURES).write_text(json.dumps(figures), encoding="utf-8")

    return kept(key, build, told)


def _on_engine(line: Line, form: Form, bundle: Path, metric: Metric) -> float:
    """A bundle's figure in validation, as its engine answers."""
    with open_bundle(bundle, threads=1, trust=ANYBODY) as session:
        return metric.total(score(session, form.validation, metric, line.progress))
