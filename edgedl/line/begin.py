"""How a recipe begins: its data loaded, its network made."""

from __future__ import annotations

import contextlib
import hashlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from edgedl.benchmark.metrics import METRICS, metric_of
from edgedl.core.errors import BadOption, BadSamples, BadValue, EdgeError, MetricFailed
from edgedl.core.model import Model
from edgedl.core.own import placed, raised_at, reason_of, shown, source_digest
from edgedl.core.progress import Progress
from edgedl.core.registry import load
from edgedl.core.samples import Samples
from edgedl.core.store import default_store
from edgedl.line.checks import check_keys, check_names
from edgedl.line.judged import learned_by, shipped_by, takes_logits
from edgedl.recipe import Recipe
from edgedl.report.made import Stage
from edgedl.runtime.process.boxes import Boxes
from edgedl.train.data.dataset import signature_of
from edgedl.train.data.load import load as load_data
from edgedl.train.data.settings import PATHS, seen_from
from edgedl.train.settings import Fit, OwnLoss

if TYPE_CHECKING:
    from torch import nn

    from edgedl.benchmark.metrics.metric import Metric
    from edgedl.train.data.dataset import Dataset

BLOCK = 1 << 20
# The function that calls a loss of the user's own.
LOSS_FRAME = "_own"
STAGES = ("train", "export", "compress", "bench")
# Settings of networks that name a file or folder.
FILES: Mapping[str, tuple[str, ...]] = {
    "transformers": ("folder",),
    "timm": ("weights",),
    "onnx": ("file",),
}


@dataclass(eq=False)
class Line:
    """A recipe on its way: what was made of it so far.

    Attributes:
        teacher: who teaches, once that is looked for.
        above: the recipes that this one teaches for, outermost first.
        taught_by: the line of the recipe whose network teaches, and that network.
        opened: sessions that are closed when the line ends.
        unshrunk: the bundle that would ship without the recipe's steps, once it is made.
    """

    recipe: Recipe
    dataset: Dataset
    progress: Progress
    stages: list[Stage] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    teacher: Any = None
    above: tuple[Path, ...] = ()
    taught_by: tuple[Line, nn.Module] | None = None
    opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    unshrunk: Path | None = None

    def metric(self, boxes: Boxes | None) -> Metric | None:
        """What a network is judged by while it learns; None where that is the loss.

        Args:
            boxes: how its outputs hold boxes, where they do.
        """
        name = learned_by(self.recipe, self.dataset)
        if name == "detection" and boxes is None:
            error = BadValue(
                "the network does not say how its answers hold boxes",
                hint="network: ssd; one of your own says it by its attribute `boxes`",
            )
            raise self.recipe.located(error, "network")
        return None if name is None else metric_of(name, boxes)

    @property
    def settings(self) -> Fit:
        """How the network is trained; where the input itself is the target, labels are not.

        Raises:
            BadValue: there is nothing to learn: no labels, and no teacher.
        """
        wanted = self.recipe.train
        if self.dataset.task == "unlabelled" and self.recipe.distil is None:
            message = "data without labels teaches nothing by itself"
            hint = "name a teacher: `distil: {teacher: model.onnx}`"
            raise self.recipe.located(BadValue(message, hint=hint), "data", "task")
        if self.dataset.task == "reconstruction" and wanted.target is None:
            return replace(wanted, target="input")
        return wanted

    @property
    def judged_by(self) -> str | None:
        """The metric of what ships, by name; None: what the labels suggest."""
        return shipped_by(self.recipe, self.dataset)

    @property
    def judged_by_code(self) -> str | None:
        """What tells two versions of the user's own metric apart; None for ours."""
        name = self.judged_by
        return None if name is None else _code_of_metric(name)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[list[str]]:
        """A stage under way: what is put into the list is told of it; `kept` first where its result
        was there already."""
        told: list[str] = []
        began = perf_counter()
        yield told
        kept = told[:1] == ["kept"]
        self.stages.append(Stage(name, told[-1], perf_counter() - began, kept))


def begun(recipe: Recipe, progress: Progress) -> Line:
    """The recipe with its data loaded, split and checked; relative paths begin where it lies."""
    above = Path() if recipe.where is None else recipe.where.parent
    recipe = _placed(recipe, above)
    check_names(recipe)
    check_keys(recipe)
    progress("loading data", 0, 1)
    began = perf_counter()
    data = seen_from(recipe.data, above)
    try:
        dataset = load_data(
            replace(data, standardize=False) if takes_logits(recipe) else data,
            seed=recipe.seed,
            cache=default_store().root / "data",
            progress=progress,
        )
    except (BadValue, BadOption, BadSamples) as error:
        raise recipe.located(_at_its_key(error, recipe, above), "data") from error
    dataset = _named(recipe, dataset)
    line = Line(recipe, dataset, progress)
    groups = (dataset.train, dataset.validation, dataset.test)
    words = ("to train on", "to validate", "to test")
    sizes = [f"{len(group):,} {word}" for group, word in zip(groups, words, strict=True)]
    line.stages.append(Stage("data", ", ".join(sizes), perf_counter() - began, kept=False))
    line.doubts += dataset.doubts
    return line


def _at_its_key(error: EdgeError, recipe: Recipe, above: Path) -> EdgeError:
    """The error of a file or folder that is not there, at the key that names it."""
    seen = seen_from(recipe.data, above)
    for key in PATHS:
        path = getattr(seen, key)
        if path is not None and error.where == path and not Path(path).exists():
            named = getattr(recipe.data, key)
            return BadValue(
                f"`{named}`: {error.message}", keys=(key,), hint=error.hint or f"looked for: {path}"
            )
    return error


def _placed(recipe: Recipe, above: Path) -> Recipe:
    """The recipe with the user's own files looked for from a folder on."""

    def metric(name: str | None) -> str | None:
        ours = name is None or name.partition(":")[0] in METRICS
        return name if ours else placed(str(name), above)

    network, train, compress = recipe.network, recipe.train, recipe.compress
    named = FILES.get(network.name, ())
    settings = {
        key: str(above / value) if key in named and value and isinstance(value, str) else value
        for key, value in network.settings.items()
    }
    network = replace(network, name=placed(network.name, above), settings=settings)
    if isinstance(train.loss, OwnLoss):
        train = replace(train, loss=OwnLoss(name=placed(train.loss.name, above)))
    train = replace(train, metric=metric(train.metric))
    if compress is not None:
        compress = replace(compress, metric=metric(compress.metric))
    distil = recipe.distil
    if distil is not None and distil.origin == "own":
        distil = replace(distil, teacher=placed(distil.teacher, above))
    elif distil is not None and distil.origin != "itself":
        distil = replace(distil, teacher=str(above / distil.teacher))
    return replace(recipe, network=network, train=train, distil=distil, compress=compress)


def _named(recipe: Recipe, dataset: Dataset) -> Dataset:
    """The dataset, what is made of raw files bearing the name that a network's file has for it."""
    file = recipe.network.settings.get("file")
    if recipe.network.name != "onnx" or dataset.processing is None or not isinstance(file, str):
        return dataset
    opened: Callable[[str], Model] = load("edgedl.train.networks.onnx:opened", "training")
    try:
        wanted = [tensor.name for tensor in opened(file).signature.inputs]
    except BadValue as error:
        raise recipe.located(error, "network") from error
    if len(wanted) != 1 or wanted == list(dataset.inputs):
        return dataset
    inputs = dict(zip(wanted, dataset.inputs.values(), strict=True))

    def renamed(samples: Samples) -> Samples:
        source: Any = samples.source
        before = replace(source.processing.preprocess, input=wanted[0])
        processing = replace(source.processing, preprocess=before)
        origin = source.origin
        if origin is not None and "processing" in origin:
            origin = {**origin, "processing": processing.to_json()}
        source = replace(source, processing=processing, origin=origin)
        return replace(samples, source=source).bind(signature_of(inputs))

    before: Any = replace(dataset.processing.preprocess, input=wanted[0])  # type: ignore[type-var]
    return replace(
        dataset,
        train=renamed(dataset.train),
        validation=renamed(dataset.validation),
        test=renamed(dataset.test),
        inputs=inputs,
        processing=replace(dataset.processing, preprocess=before),
    )


@contextlib.contextmanager
def users_code(recipe: Recipe) -> Iterator[None]:
    """What the user's own network, loss or metric raises is told as such, and not as a fault of
    ours.

    Raises:
        BadValue, MetricFailed: it raised something; the error names the callable and its line.
    """
    try:
        yield
    except MetricFailed as error:
        stage = "compress" if recipe.train.metric is None else "train"
        raise recipe.instead(error, stage, "metric") from error
    except EdgeError:
        raise
    except Exception as error:
        own, loss = recipe.train.loss, None
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(own, OwnLoss) and any(one.name == LOSS_FRAME for one in frames):
            loss = own.name
        spec = loss or recipe.network.name
        at = raised_at(error, spec) if ":" in spec else None
        if at is None:
            raise
        kind, keys = ("loss", ("train", "loss")) if loss else ("network", ("network",))
        found = BadValue(
            f"{kind} `{shown(spec)}` raised {reason_of(error, spec)}",
            hint=f"mend line {at.lineno} of {at.filename}",
        )
        raise recipe.located(found, *keys) from error


def network_of(line: Line) -> nn.Module:
    """The recipe's network with first weights by its seed."""
    recipe, dataset = line.recipe, line.dataset
    build: Callable[..., nn.Module] = load("edgedl.train.networks:build", "training")
    load("torch:manual_seed", "training")(recipe.seed)
    try:
        return build(
            recipe.network.name, dataset.inputs, dataset.outputs, recipe.network.settings,
            dataset.places,
        )  # fmt: skip
    except BadValue as error:
        raise recipe.located(error, "network") from error


def code_of(recipe: Recipe) -> dict[str, str]:
    """What tells two versions of the user's own code and files apart, which a recipe names."""
    network, train = recipe.network, recipe.train
    found = {}
    if ":" in network.name:
        found["network"] = source_digest(network.name)
    for key in FILES.get(network.name, ()):
        if network.settings.get(key):
            path = Path(network.settings[key])
            # of an ONNX file with the weights that lie beside it
            found[key] = _model(path).digest if key == "file" else content_digest(path)
    if isinstance(train.loss, OwnLoss):
        found["loss"] = source_digest(train.loss.name)
    if train.metric is not None:
        found["metric"] = _code_of_metric(train.metric)
    return found


def _code_of_metric(name: str) -> str:
    """A metric's key; its name where it is ours and only a network says how it holds boxes."""
    try:
        return metric_of(name).key
    except BadOption:
        return name


def _model(path: Path) -> Model:
    opened: Model = load("edgedl.passes.graph:open_model", "training")(path)
    return opened


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or of those in a folder with their names."""
    files = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for one in files:
        digest.update(one.name.encode() + b"\0")
        with one.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def last_stage(recipe: Recipe, until: str) -> str:
    """The last stage: that which was asked for, or the one before what the recipe leaves out."""
    able = [
        stage
        for stage in STAGES
        if not (stage == "compress" and recipe.compress is None)
        and not (stage == "bench" and None in (recipe.compress, recipe.bench))
    ]
    wanted = STAGES.index(until)
    return [stage for stage in able if STAGES.index(stage) <= wanted][-1]
