"""The form in which a network ships, and samples that fit it."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedl.core.errors import BadValue, Unsupported, WrongAnswers
from edgedl.core.registry import load
from edgedl.core.samples import Samples
from edgedl.line.begin import Line
from edgedl.runtime.process import Processing
from edgedl.runtime.process.boxes import Boxes
from edgedl.runtime.process.detect import Detect
from edgedl.runtime.process.maps import Mask
from edgedl.runtime.process.postprocess import Postprocess
from edgedl.runtime.process.scores import TopK
from edgedl.train.data.dataset import Standard, signature_of
from edgedl.train.networks import NETWORKS

if TYPE_CHECKING:
    from torch import nn

    from edgedl.train.shapes import TensorShape

MOST_STEPS = 512
# Networks by our names whose code is others'.
FOREIGN = ("timm", "transformers")
# What no rounding explains, of an answer's largest value.
FAR = 1e-3


@dataclass(frozen=True, eq=False)
class Form:
    """What is exported of a network.

    Attributes:
        train, validation, test: samples that it takes, from the groups of these names.
        processing: what stands before and behind it on the device; None where nobody knows.
        boxes: how its outputs hold boxes, where they do.
    """

    module: nn.Module
    train: Samples
    validation: Samples
    test: Samples
    processing: Processing | None
    boxes: Boxes | None

    @property
    def choice(self) -> Samples | None:
        """What ships is chosen by these: the validation samples; None where they hold one class
        alone, as where training knows only what is normal."""
        useful = _kinds(self.validation) >= min(2, _kinds(self.test))
        return self.validation if useful else None


def check_export(line: Line, network: nn.Module) -> None:
    """Hold what the recipe says of the export against the network, as it is before training.

    Raises:
        BadValue: an axis is of no input, or is named twice, or names of outputs are too many or too
            few; the error has the line.
        Unsupported: the form in which it ships does not take its inputs.
    """
    recipe, wanted = line.recipe, line.recipe.export
    module, inputs = _deployed(line, network)
    check_axis = load("edgedl.export:check_axis", "exporting")
    ranks = {name: 1 + len(shape.shape) for name, shape in inputs.items()}
    seen: set[tuple[str, int]] = set()
    for i, one in enumerate(wanted.axes):
        try:
            check_axis(ranks, one.input, one.axis)
            if (one.input, one.axis) in seen:
                message = f"axis {one.axis} of `{one.input}` is named twice"
                raise BadValue(message, keys=("axis",), hint="leave one out")
        except BadValue as error:
            raise recipe.located(error, "export", "axes", i) from error
        seen.add((one.input, one.axis))
    example = load("edgedl.train.networks.trial:example", "exporting")(inputs, 1)
    feed = {name: one.numpy() for name, one in zip(inputs, example, strict=True)}
    try:
        load("edgedl.export:names_of", "exporting")(module, feed, wanted.outputs)
    except BadValue as error:
        raise recipe.located(error, "export") from error
    except Unsupported as error:
        raise recipe.instead(error, "network") from error


def try_export(line: Line, network: nn.Module) -> None:
    """Write a network that is none of ours as ONNX, as it is before training: what cannot be
    written, or answers otherwise, is found before it is trained.

    Raises:
        Unsupported: it cannot be written. WrongAnswers: the file answers otherwise, by far.
    """
    recipe = line.recipe
    if recipe.network.name in set(NETWORKS) - set(FOREIGN):
        return
    wanted, doubts = recipe.export, list(line.doubts)
    form = form_of(line, network)
    line.doubts[:] = doubts
    export = load("edgedl.export:export", "exporting")
    line.progress("trying the export", 0, 1)
    with tempfile.TemporaryDirectory() as folder:
        try:
            export(
                form.module, [form.test.feed(0)], Path(folder) / "model.onnx",
                outputs=wanted.outputs, axes=wanted.free, opset=wanted.opset,
                tolerance=max(wanted.tolerance, FAR),
            )  # fmt: skip
        except (Unsupported, WrongAnswers) as error:
            raise recipe.instead(error, "network") from error


def _deployed(line: Line, network: nn.Module) -> tuple[nn.Module, Mapping[str, TensorShape]]:
    """A copy of the network as it ships, and its inputs."""
    deployed: Callable[..., tuple[nn.Module, Mapping[str, TensorShape]]] = load(
        "edgedl.train.networks.deploy:deployed", "exporting"
    )
    return deployed(copy.deepcopy(network).cpu().float().eval(), line.dataset.inputs)


def form_of(line: Line, network: nn.Module) -> Form:
    """The network itself, or what it says that it is deployed as: a step and its state, boxes."""
    dataset = line.dataset
    module, inputs = _deployed(line, network)
    boxes: Boxes | None = load("edgedl.train.networks.deploy:boxes_of", "exporting")(module)
    processing = dataset.processing
    if boxes is not None and processing is not None:
        processing = replace(
            processing,
            postprocess=Detect(boxes, "picture"),
        )
    if processing is not None and processing.postprocess is None:
        names = dataset.test.classes
        kinds: dict[str, Postprocess] = {
            "classification": TopK(activation="softmax", labels=names),
            "segmentation": Mask(labels=names),
        }
        processing = replace(processing, postprocess=kinds.get(dataset.task))
    samples: Iterable[Samples] = (dataset.train, dataset.validation, dataset.test)
    if dataset.task == "reconstruction" and line.judged_by is None:
        # no class is answered that they could be compared with
        samples = [replace(one, labels=None) for one in samples]
    if (standard := dataset.standard) is not None:
        in_units = load("edgedl.train.networks.deploy:InUnits", "exporting")
        module = in_units(module, standard.mean, standard.deviation)
        samples = [_undone(one, standard) for one in samples]
    if dict(inputs) == dict(dataset.inputs):
        train, validation, test = samples
        return Form(module, train, validation, test, processing, boxes)
    stepped = load("edgedl.train.stepped:stepped", "exporting")
    train, validation, test = (
        stepped(module, inputs, some, MOST_STEPS).bind(signature_of(inputs)) for some in samples
    )
    line.doubts.append("it ships a few steps at a time; its test figure is that of whole series")
    return Form(module, train, validation, test, None, boxes)


def _kinds(samples: Samples) -> int:
    """How many different labels there are; 0 without labels."""
    return 0 if samples.chosen_labels is None else len(np.unique(samples.chosen_labels))


def _undone(samples: Samples, standard: Standard) -> Samples:
    """The same samples with labels in the data's own units."""
    labels = samples.labels
    return samples if labels is None else replace(samples, labels=standard.undone(labels))
