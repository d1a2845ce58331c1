"""A model that goes through a series step by step, its state carried from call to call by name."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from edgedl.core.errors import BadOption, WrongInput, nearest
from edgedl.core.model import Signature, Tensor
from edgedl.runtime.session import EngineSession, fits
from edgedl.runtime.warm import zeros

# What stands before the name of a state that an output gives, so that it is fed back: a network of
# ours ships with `state` and `new_state`.
AFTER = "new_"


class Stream:
    """One series' way through a model: each call's states are what the call before it gave.

    States begin as zeros. A call that fails, or is late, leaves the states as they were, so that it
    can be made again. Several streams may go on one session, each with states of its own; the
    session stays the caller's, and closing it ends them. Calls of several threads take turns, in no
    order that is promised: a series is one thread's.

    Args:
        states: the input that each output is fed back to, by the output's name; where None, every
            output `new_NAME` goes to the input `NAME`.
        initial: what states begin as, by the input's name, where that is not zeros; needed where
            the model leaves a size of one open that is not its first.

    Raises:
        BadOption: an output or input is not the model's, or their types or shapes differ; or none
            is named so that it is found.
    """

    def __init__(
        self,
        session: EngineSession,
        states: Mapping[str, str] | None = None,
        *,
        initial: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._session = session
        self.states = _paired(session.signature, states)
        fed = set(self.states.values())
        self._begin = _first(session.signature, fed, initial or {})
        self._now = self._begin
        self._turn = threading.Lock()
        self.signature = Signature(
            tuple(t for t in session.signature.inputs if t.name not in fed),
            tuple(t for t in session.signature.outputs if t.name not in self.states),
        )

    def run(
        self, inputs: Mapping[str, np.ndarray], deadline_ms: float | None = None
    ) -> dict[str, np.ndarray]:
        """The next step's outputs by name, without states.

        Args:
            inputs: all but states.
            deadline_ms: as that of a session.

        Raises:
            WrongInput, EngineFailed, Late: as a session, or an input is a state.
        """
        if not isinstance(inputs, Mapping):
            raise WrongInput(
                f"arrays are given by name, not as {type(inputs).__name__}", hint="{'name': array}"
            )
        with self._turn:
            for name in self._now.keys() & inputs.keys():
                raise WrongInput(
                    f"`{name}` is a state, which the stream carries",
                    hint="leave it out; `restore` sets states",
                )
            feed = {**inputs, **self._now}
            if deadline_ms is None:
                outputs = self._session.run(feed)
            else:
                outputs = self._session.run(feed, deadline_ms)
            now = {name: outputs.pop(output) for output, name in self.states.items()}
            self._now = now
        return outputs

    def reset(self) -> None:
        """Begin a new series."""
        with self._turn:
            self._now = self._begin

    def snapshot(self) -> dict[str, np.ndarray]:
        """Copies of the states that the next call goes on from, by the input's name."""
        with self._turn:
            return {name: array.copy() for name, array in self._now.items()}

    def restore(self, snapshot: Mapping[str, np.ndarray]) -> None:
        """Go on from these states, which are copied: a snapshot of this or another stream.

        Raises:
            WrongInput: a state is missing, unknown, or of another type or shape; nothing changes.
        """
        tensors = {t.name: t for t in self._session.signature.inputs}
        names = set(self.states.values())
        for name in (*snapshot, *names):
            if name not in names:
                raise WrongInput(f"`{name}` is not a state", hint=nearest(str(name), names))
            if name not in snapshot:
                raise WrongInput(f"no array for state `{name}`", hint="give every state by name")
        now = {name: _state(tensors[name], snapshot[name], WrongInput) for name in sorted(names)}
        with self._turn:
            self._now = now


def _paired(signature: Signature, states: Mapping[str, str] | None) -> dict[str, str]:
    """The input that each output is fed back to, held against the signature."""
    inputs = {t.name: t for t in signature.inputs}
    outputs = {t.name: t for t in signature.outputs}
    if states is None:
        states = {
            name: name.removeprefix(AFTER)
            for name in outputs
            if name.startswith(AFTER) and name.removeprefix(AFTER) in inputs
        }
    if not states:
        raise BadOption("no output is named as a state", hint=_suggestion(inputs, outputs))
    for output, name in states.items():
        if output not in outputs:
            raise BadOption(f"`{output}` is not an output", hint=nearest(str(output), outputs))
        if name not in inputs:
            raise BadOption(f"`{name}` is not an input", hint=nearest(str(name), inputs))
        if not _alike(outputs[output], inputs[name]):
            raise BadOption(
                f"`{outputs[output]}` cannot be fed back to `{inputs[name]}`",
                hint=_suggestion(inputs, outputs),
            )
    twice = [n for n in states.values() if list(states.values()).count(n) > 1]
    if twice:
        raise BadOption(f"two outputs are fed back to `{twice[0]}`", hint="name one of them")
    return dict(states)


def _alike(output: Tensor, given: Tensor) -> bool:
    """Whether an output may be given to an input, as far as their shapes are known."""
    if output.dtype != given.dtype:
        return False
    if output.shape is None or given.shape is None:
        return True
    return len(output.shape) == len(given.shape) and all(
        one == other or not isinstance(one, int) or not isinstance(other, int)
        for one, other in zip(output.shape, given.shape, strict=True)
    )


def _suggestion(inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> str:
    """What could be said, by types and shapes."""
    may = {
        output.name: given.name
        for output in outputs.values()
        for given in inputs.values()
        if output.shape and _alike(output, given)
    }
    return f"states={may}" if may else "states={'output': 'input'}"


def _first(
    signature: Signature, names: Iterable[str], initial: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """What states begin as: zeros, of one sample where the first axis is open."""
    tensors = {t.name: t for t in signature.inputs}
    for name in initial:
        if name not in names:
            raise BadOption(f"`{name}` is not a state", hint=nearest(str(name), names))
    found = {}
    for name in sorted(names):
        if name in initial:
            found[name] = _state(tensors[name], initial[name], BadOption)
            continue
        array = zeros(tensors[name])
        if array is None:
            raise BadOption(
                f"the model leaves the size of the state `{tensors[name]}` open",
                hint=f"initial={{'{name}': np.zeros(...)}}",
            )
        found[name] = array
    return found


def _state(tensor: Tensor, array: Any, kind: type[WrongInput | BadOption]) -> np.ndarray:
    """A copy of an array that is to be this state."""
    if not isinstance(array, np.ndarray) or array.dtype != tensor.dtype:
        given = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        hint = f"np.asarray(value, '{tensor.dtype}')"
        raise kind(f"state `{tensor}` cannot be {given}", hint=hint)
    if tensor.shape is not None and not fits(array.shape, tensor.shape):
        raise kind(
            f"state `{tensor}` cannot have the shape {array.shape}", hint="`snapshot` has it"
        )
    return np.array(array, order="C", subok=False)
