"""Answers of a processor that is not at hand: run as there, the same as here, or emulated."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgedl.benchmark.machine import this_machine
from edgedl.core.errors import Unsupported
from edgedl.core.isa import ISA_VARIABLE
from edgedl.core.model import Model
from edgedl.core.target import PROCESSORS, Processor
from edgedl.passes.emulate import Emulated, not_emulated
from edgedl.passes.graph import quantized_already
from edgedl.passes.saturation import saturates
from edgedl.runtime.artifact import Artifact
from edgedl.runtime.session import Session
from edgedl.search.candidates import Candidate

EMULATED = "onnxruntime"


def is_run_as_there(processor: Processor, engine: str) -> bool:
    """Whether this engine runs here as on the processor, times and all."""
    return (
        engine == "openvino"
        and os.environ.get(ISA_VARIABLE) == processor.cap
        and processor.can_run_on(this_machine().isa)
    )


def is_emulated(machine: Mapping[str, Any], engine: str) -> bool:
    """Whether an engine adds products of codes otherwise on a machine than on this one."""
    return saturates(machine, engine) != saturates(this_machine().to_json(), engine)


def can_foretell(processor: Processor, engine: str) -> bool:
    """Whether an engine's answers there are run or emulated here: onnxruntime's always, OpenVINO's
    where its sums are added alike, or it keeps to the processor's instructions."""
    return engine == EMULATED or not is_emulated(processor.machine(), engine)


def needs_cap(processor: Processor, engine: str) -> tuple[str, str]:
    """Why an engine's answers cannot be foretold, and the way out."""
    return (
        f"{engine} adds as on {processor.name} only where it is told so before it is loaded",
        f"{ISA_VARIABLE}={processor.cap}, or the command `edgedl`, which sets it",
    )


def answering(
    candidate: Candidate, machine: Mapping[str, Any] | None, threads: int | None
) -> Session:
    """A session of a candidate that answers as on this machine, or, where one is given, on that.

    Raises:
        EngineFailed: the engine refuses the model. Missing: onnxruntime, which emulates.
    """
    engine, coded = candidate.engine, candidate.plan is not None or candidate.dynamic
    if machine is None or not coded or not is_emulated(machine, engine):
        return candidate.open(threads)
    return Emulated(candidate.model, engine, saturating=saturates(machine, engine))


@dataclass(frozen=True)
class There(Artifact):
    """An artifact as it answers on another machine.

    Attributes:
        model: its graph.
        machine: as `doctor()["machine"]` tells it.
    """

    model: Model
    machine: Mapping[str, Any]

    def open(self, threads: int | None = None) -> Session:
        """A session of it.

        Raises:
            EngineFailed: the engine refuses the model. Unsupported: the engine's sums are not
                emulated. Missing: onnxruntime, which emulates.
        """
        if not is_emulated(self.machine, self.engine) or not quantized_already(self.model):
            return super().open(threads)
        processor = PROCESSORS[self.machine["processor"]]
        if not can_foretell(processor, self.engine):
            message, hint = needs_cap(processor, self.engine)
            raise Unsupported(message, where=str(self.path), hint=hint)
        return Emulated(self.model, self.engine, saturating=saturates(self.machine, self.engine))


def as_there(artifact: Artifact, model: Model, processor: Processor) -> There:
    """An artifact, whose graph is `model`, as it answers on a processor."""
    return There(**vars(artifact), model=model, machine=processor.machine())


def told_of(processor: Processor, artifacts: Mapping[str, Artifact]) -> list[str]:
    """What of a processor's answers was run, and what was computed, an engine a line; and what of
    each artifact, by name, counts as exact though nobody knows."""
    said = [_how(processor, one) for one in dict.fromkeys(a.engine for a in artifacts.values())]
    for name, artifact in artifacts.items():
        if not isinstance(artifact, There) or not is_emulated(artifact.machine, artifact.engine):
            continue
        if left_out := not_emulated(artifact.model):
            more = f" and {len(left_out) - 2} more" if len(left_out) > 2 else ""
            said.append(
                f"{name}: not emulated, and taken for exact: {', '.join(left_out[:2])}{more}"
            )
    return said


def foretold(processor: Processor | None, engine: str) -> list[str]:
    """How one engine's answers came about, and whose its times are; nothing where no processor is
    foretold."""
    if processor is None:
        return []
    said = [_how(processor, engine)]
    if not is_run_as_there(processor, engine):
        said.append(
            f"the times are this processor's, not {processor.name}'s: time the bundle there"
        )
    return said


def _how(processor: Processor, engine: str) -> str:
    if is_run_as_there(processor, engine):
        return f"{engine} ran with the instructions of {processor.name} alone"
    how = "are this processor's, whose int8 sums are as exact"
    if is_emulated(processor.machine(), engine):
        there = saturates(processor.machine(), engine)
        how = f"were emulated: {'products added in 16 bits' if there else 'exact sums'}"
    return f"{engine}'s answers for {processor.name} {how}"
