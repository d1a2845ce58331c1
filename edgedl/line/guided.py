"""The teacher that a recipe names: another recipe's network, an ONNX file, or the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgedl.core.errors import BadOption, BadValue
from edgedl.core.memory import usable_cores
from edgedl.core.model import Model
from edgedl.core.registry import load
from edgedl.core.store import default_store
from edgedl.line.begin import Line, begun, network_of
from edgedl.line.trained import trained
from edgedl.recipe import read_recipe
from edgedl.report.made import Stage
from edgedl.runtime import any_engine

if TYPE_CHECKING:
    from torch import nn

    from edgedl.train.distil.guide import Guide
    from edgedl.train.distil.teacher import Teacher

ANSWERS = "answers"


def guide_of(line: Line, before: nn.Module | None) -> Guide | None:
    """Who teaches; None where the recipe names nobody.

    Args:
        before: the network as it is trained so far, which may teach itself what it becomes next;
            None where it is not trained yet: then nobody teaches who is `itself`.

    Raises:
        BadValue: the teacher cannot be had, or recipes teach one another in a circle.
    """
    settings = line.recipe.distil
    if settings is None or (settings.origin == "itself" and before is None):
        return None
    if settings.origin == "itself":
        teacher = load("edgedl.train.distil.teacher:itself", "distilling")(before)
    else:
        if line.teacher is None:
            try:
                line.teacher = _teacher(line, settings.origin)
            except (BadValue, BadOption) as error:
                raise line.recipe.located(error, "distil", "teacher") from error
        teacher = line.teacher
    of: type[Guide] = load("edgedl.train.distil.guide:Guide", "distilling")
    return of(settings, teacher, default_store().root / ANSWERS)


def _teacher(line: Line, origin: str) -> Teacher:
    assert line.recipe.distil is not None
    name = line.recipe.distil.teacher
    if origin == "own":
        own = load("edgedl.train.distil.teacher:own_teacher", "distilling")
        found: Teacher = own(name, line.dataset.inputs, line.dataset.outputs)
        return found
    path = Path(name)
    if not path.is_file():
        raise BadValue(f"`{name}`: no such file", hint=f"it is looked for at {path.resolve()}")
    return _of_recipe(line, path) if origin == "recipe" else _of_file(line, path)


def _of_recipe(line: Line, path: Path) -> Teacher:
    """The network of another recipe as its `train:` leaves it, trained now where it is not yet."""
    here = Path() if line.recipe.where is None else line.recipe.where.resolve()
    chain = (*line.above, here)
    if path.resolve() in chain:
        circle = " -> ".join(one.name for one in (*chain, path.resolve()))
        raise BadValue(f"recipes teach one another: {circle}", hint="break the circle")
    other = begun(read_recipe(path), line.progress)
    other.above = chain
    network = network_of(other)
    trained(other, network, guide_of(other, None))
    line.stages += [
        Stage("teacher", one.about, one.seconds, one.kept)
        for one in other.stages
        if one.name in ("train", "teacher")
    ]
    if other.dataset.train.digest != line.dataset.train.digest:
        line.doubts.append(
            "the teacher learned from other samples than the network: some of them may be those"
            " that it is tested on"
        )
    found: Teacher = load("edgedl.train.distil.teacher:module_teacher", "distilling")(network)
    return found


def _of_file(line: Line, path: Path) -> Teacher:
    """An ONNX file, answered by the first engine that is installed."""
    model: Model = load("edgedl.passes.graph:open_model", "distilling")(path)
    session = line.opened.enter_context(
        any_engine().open_model(model.path, settings={}, threads=usable_cores())
    )
    of = load("edgedl.train.distil.teacher:SessionTeacher", "distilling")
    names = tuple(tensor.name for tensor in session.signature.inputs)
    found: Teacher = of(model.digest, session.run, names)
    return found
