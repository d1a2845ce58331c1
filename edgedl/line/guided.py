"""The teacher that a recipe names: another recipe's network, an ONNX file, or the user's own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from edgedl.core.errors import BadOption, BadValue, EngineFailed
from edgedl.core.memory import usable_cores
from edgedl.core.model import Model
from edgedl.core.registry import load
from edgedl.core.store import default_store, key_of
from edgedl.line.begin import Line, begun, code_of, network_of
from edgedl.line.trained import trained
from edgedl.recipe import Recipe, read_recipe
from edgedl.report.made import Stage
from edgedl.runtime import any_engine

if TYPE_CHECKING:
    from torch import nn

    from edgedl.train.distil.guide import Guide
    from edgedl.train.distil.settings import Distillation
    from edgedl.train.distil.teacher import Teacher

ANSWERS = "answers"


def guide_of(
    line: Line, network: nn.Module, *, is_trained: bool = False, foreseen: bool = False
) -> Guide | None:
    """Who teaches a network; None where the recipe names nobody.

    Args:
        is_trained: whether the network is as `train:` leaves it, and may teach itself what it
            becomes; before that nobody teaches who is `itself`.
        foreseen: whether a recipe that teaches stays untrained, since no more is asked for than
            whether it fits.

    Raises:
        BadValue: the teacher cannot be had, does not fit the network or its samples, or recipes
            teach one another in a circle; the error has the line.
    """
    settings = line.recipe.distil
    if settings is None or (settings.origin == "itself" and not is_trained):
        return None
    try:
        if settings.origin == "itself":
            itself = load("edgedl.train.distil.teacher:itself", "distilling")
            return _guide(settings, itself(network, _key_of_code(line.recipe)))
        if line.teacher is None:
            line.teacher = _teacher(line, settings.origin, network, foreseen)
    except (BadValue, BadOption, EngineFailed) as error:
        below = error.keys[:1] if isinstance(error, BadValue) else ()
        raise line.recipe.instead(error, "distil", *(below or ("teacher",))) from error
    return _guide(settings, line.teacher)


def _guide(settings: Distillation, teacher: Teacher) -> Guide:
    of: type[Guide] = load("edgedl.train.distil.guide:Guide", "distilling")
    return of(settings, teacher, default_store().root / ANSWERS)


def _teacher(line: Line, origin: str, network: nn.Module, foreseen: bool) -> Teacher:
    assert line.recipe.distil is not None
    name = line.recipe.distil.teacher
    found: Teacher
    if origin == "own":
        own = load("edgedl.train.distil.teacher:own_teacher", "distilling")
        found = own(name, line.dataset.inputs, line.dataset.outputs)
        _check(line, found, network)
        return found
    path = Path(name)
    if not path.is_file():
        raise BadValue(f"`{path.name}`: no such file", hint=f"it is looked for at {path.resolve()}")
    if origin == "recipe":
        return _of_recipe(line, path, network, foreseen)
    found = _of_file(line, path)
    _check(line, found, network)
    return found


def _check(line: Line, teacher: Teacher, network: nn.Module) -> None:
    """Hold a teacher against the network, before anything is trained."""
    assert line.recipe.distil is not None
    check = load("edgedl.train.distil.trial:check", "distilling")
    check(_guide(line.recipe.distil, teacher), network, line.dataset.validation, line.settings)


def _key_of_code(recipe: Recipe) -> str:
    """What tells the user's own code apart that a network is made of."""
    return key_of(code=code_of(recipe))


def _of_recipe(line: Line, path: Path, network: nn.Module, foreseen: bool) -> Teacher:
    """The network of another recipe as its `train:` leaves it, trained now where it is not yet."""
    here = Path() if line.recipe.where is None else line.recipe.where.resolve()
    chain = (*line.above, here)
    if path.resolve() in chain:
        circle = " -> ".join(one.name for one in (*chain, path.resolve()))
        raise BadValue(f"recipes teach one another: {circle}", hint="break the circle")
    other = begun(read_recipe(path), line.progress)
    other.above = chain
    line.opened.enter_context(other.opened)
    teacher = network_of(other)
    of = load("edgedl.train.distil.teacher:module_teacher", "distilling")
    _check(line, of(copy.deepcopy(teacher)), network)
    line.taught_by = other, teacher
    guide = guide_of(other, teacher, foreseen=foreseen)
    if not foreseen:
        trained(other, teacher, guide)
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
    found: Teacher = of(teacher, _key_of_code(other.recipe))
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
