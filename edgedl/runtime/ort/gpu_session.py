"""A session of onnxruntime's on a GPU.

Checked with the processor in the GPU's place; no line of it has run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgedl.core.errors import EdgeError
from edgedl.runtime.ort.said import failed
from edgedl.runtime.ort.session import OrtSession
from edgedl.runtime.ort.wires import Captured, Place, Wires


class OrtGpuSession(OrtSession):
    """One `InferenceSession` on a GPU: inputs are copied there once, answers back once.

    Several threads may run it at once, each with inputs of its own on the GPU; as one CUDA graph
    they take turns. A deadline stops the CUDA provider between two operators; TensorRT goes on with
    what it has begun, and the call that is late ends with it.

    Attributes:
        note: how many operators the processor computes, where there are any.
    """

    def __init__(self, engine: Any, place: Place, *, graph: bool, note: str | None) -> None:
        super().__init__(engine)
        self.note = note
        wires = Captured if graph else Wires
        self._wires: Any = wires(engine, place, self.signature)
        self._bindings = self._wires
        self._run, self._into = self._ran, _launch

    def _ran(self, names: list[str], feed: Mapping[str, np.ndarray], *options: Any) -> Any:
        if not self._wires.fixed:
            wire = self._wires.lend({names[0]: None})
            wire.fill(feed)
            answers = wire.fetched(tuple(names), *options)
            self._wires.give_back(wire, {names[0]: None})
            return answers
        made = {t.name: np.empty(_sizes(t.shape), t.dtype) for t in self.signature.outputs}
        wire = self._wires.lend(made)
        wire.fill(feed)
        wire.direct(made)
        wire.launch(*options)
        self._wires.give_back(wire, made)
        return list(made.values())

    def _failed(self, error: Exception) -> EdgeError:
        return failed(error, "onnxruntime failed")


def _launch(wire: Any, *options: Any) -> None:
    wire.launch(*options)


def _sizes(shape: tuple[Any, ...] | None) -> tuple[int, ...]:
    return tuple(int(size) for size in shape or ())
