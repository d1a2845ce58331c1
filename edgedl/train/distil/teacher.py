"""Who is asked: a network of torch, or whatever gives arrays by name for arrays by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor, nn

from edgedl.core.errors import BadValue, EdgeError, first_line
from edgedl.core.own import source_digest
from edgedl.train.checkpoint import modules_of
from edgedl.train.distil.layers import heard
from edgedl.train.networks import build
from edgedl.train.shapes import TensorShape
from edgedl.train.validate import named

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
Inputs = tuple[Tensor, ...]
Answers = dict[str, Tensor]
# Its outputs by name, and what each of its layers that were asked for gave, for a batch of inputs.
Ask = Callable[[Inputs], tuple[Answers, Answers]]

FITTING = "a teacher that takes the same samples as the network"
# How far answers of samples that are asked together may lie from those asked alone.
ALIKE = 1e-2


@dataclass(frozen=True, eq=False)
class ModuleTeacher:
    """A network of torch: it answers in evaluation mode, and live in the precision of training.

    Attributes:
        key: a digest of what it is, see `digest_of`.
        module: of its own: no weight of it is learned.
    """

    key: str
    module: nn.Module

    def ready(
        self,
        names: Sequence[str],
        some: Inputs,
        layers: Sequence[str],
        half: torch.dtype | None = None,
    ) -> Ask:
        """What asks it, on the device that `some` inputs lie on; it is tried with them.

        Args:
            half: what it computes in where that is not float32; its answers are float32.

        Raises:
            BadValue: it does not take them, or has no such layer.
        """
        module = self.module.to(some[0].device).eval().requires_grad_(False)
        if any(_is_channels_last(one) for one in some):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        @torch.no_grad()
        def ask(inputs: Inputs) -> tuple[Answers, Answers]:
            with torch.autocast(inputs[0].device.type, half) if half else nullcontext():
                outputs, given = heard(module, layers, inputs, "the teacher")
            return {name: _plain(one) for name, one in named(outputs)}, {
                name: _plain(one) for name, one in given.items()
            }

        try:
            ask(some)
        except (EdgeError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:
            raise _refused(names, some, error) from error
        return ask


@dataclass(frozen=True, eq=False)
class SessionTeacher:
    """A model that an engine runs.

    Attributes:
        key: its digest.
        run: the session's; whoever opened it closes it.
        inputs: their names in the order of the samples' inputs; none: those have the same names.
    """

    key: str
    run: Run
    inputs: tuple[str, ...] = ()

    def ready(
        self,
        names: Sequence[str],
        some: Inputs,
        layers: Sequence[str],
        half: torch.dtype | None = None,  # noqa: ARG002
    ) -> Ask:
        """What asks it: samples together, or one by one where it takes no more.

        Raises:
            BadValue: it does not take such samples, or a layer is asked for.
        """
        if layers:
            raise BadValue(
                f"the teacher is run by an engine, which does not tell what `{layers[0]}` gave",
                keys=("teacher",),
                hint="a recipe, or `module:callable`; or leave out what looks into layers",
            )
        if self.inputs and len(self.inputs) != len(names):
            raise BadValue(
                f"the teacher has {len(self.inputs)} inputs, {_listed(self.inputs)}; samples have"
                f" {len(names)}, {_listed(names)}",
                keys=("teacher",),
                hint=FITTING,
            )
        takes = self.inputs or tuple(names)
        device = some[0].device

        def together(inputs: Inputs) -> dict[str, np.ndarray]:
            arrays = (one.contiguous().cpu().numpy() for one in inputs)
            given = self.run(dict(zip(takes, arrays, strict=True)))
            return {name: np.asarray(one) for name, one in given.items()}

        def apart(inputs: Inputs) -> dict[str, np.ndarray]:
            rows = [together(tuple(one[i : i + 1] for one in inputs))
                    for i in range(len(inputs[0]))]  # fmt: skip
            return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

        try:
            single = apart(some)
        except Exception as error:
            raise _refused(names, some, error) from error
        try:
            answer = together if _alike(together(some), single) else apart
        except Exception:
            answer = apart

        def ask(inputs: Inputs) -> tuple[Answers, Answers]:
            found = answer(inputs)
            return {name: torch.from_numpy(one).to(device) for name, one in found.items()}, {}

        return ask


Teacher = ModuleTeacher | SessionTeacher


def module_teacher(module: nn.Module, code: str = "") -> ModuleTeacher:
    """A network as a teacher; it is that one itself, and nothing else may train it.

    Args:
        code: what tells networks of the same layers and weights apart: the user's own code.
    """
    return ModuleTeacher(digest_of(module) + code, module)


def itself(network: nn.Module, code: str = "") -> ModuleTeacher:
    """A network as it is now, as its own teacher later: a copy."""
    return module_teacher(copy.deepcopy(network), code)


def own_teacher(spec: str, inputs: Mapping[str, TensorShape], outputs: int) -> ModuleTeacher:
    """What a user's `module:callable` makes of (inputs, outputs), as for `network:`, with its
    weights.

    Raises:
        BadValue: there is none, or it fails.
    """
    try:
        return module_teacher(build(spec, inputs, outputs, {}), source_digest(spec))
    except BadValue as error:
        raise BadValue(error.message, keys=("teacher",), hint=error.hint) from error


def digest_of(module: nn.Module) -> str:
    """SHA-256 of a network's layers and of all its weights."""
    found = sha256(f"{type(module).__qualname__} {modules_of(module)}".encode())
    for name, tensor in module.state_dict().items():
        plain = tensor.detach().cpu().contiguous()
        found.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        found.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _alike(together: Mapping[str, np.ndarray], single: Mapping[str, np.ndarray]) -> bool:
    for name, alone in single.items():
        both = together[name]
        if both.shape != alone.shape:
            return False
        size = float(np.abs(alone).max()) if alone.size else 0.0
        if alone.size and float(np.abs(both - alone).max()) > ALIKE * (size or 1.0):
            return False
    return True


def _plain(one: Tensor) -> Tensor:
    return one.float() if one.is_floating_point() else one


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _refused(names: Sequence[str], some: Inputs, error: Exception) -> BadValue:
    samples = ", ".join(
        f"`{name}` of shape {tuple(one.shape[1:])}" for name, one in zip(names, some, strict=True)
    )
    return BadValue(
        f"the teacher does not take samples {samples} ({first_line(error, 200)})",
        keys=("teacher",),
        hint=FITTING,
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
