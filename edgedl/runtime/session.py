"""What every engine's session promises, and the checks that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, TypeVar

import numpy as np

from edgedl.core.errors import WrongInput, nearest
from edgedl.core.model import Dimension, Signature, Tensor

# The axes of a transposed array, and what the array was called before.
LAYOUTS = (
    ((0, 3, 1, 2), "channels last (NHWC), the model takes them first (NCHW)"),
    ((0, 2, 3, 1), "channels first (NCHW), the model takes them last (NHWC)"),
    ((2, 0, 1), "channels last (HWC), the model takes them first (CHW)"),
    ((1, 2, 0), "channels first (CHW), the model takes them last (HWC)"),
)


Opened = TypeVar("Opened")


class Session(Protocol):
    """A model ready to answer."""

    @property
    def signature(self) -> Signature: ...

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every output by name, in the model's own shapes, each an array of its own.

        Raises:
            WrongInput: a name, type or shape is not the signature's.
            EngineFailed: the engine failed while it ran.
        """

    def close(self) -> None:
        """Give everything back; a closed session raises WrongInput when it is run."""

    def __enter__(self) -> Session: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Closing:
    """What is closed at the end of a `with`."""

    def close(self) -> None:
        """Give everything back; again is nothing."""
        raise NotImplementedError

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class EngineSession(Session, Protocol):
    """A session as an engine's file makes it: a `Session`, with what only an engine can do.

    Threads: all members may be called from any thread at any time. onnxruntime computes as many
    calls at once as there are threads that call; OpenVINO as many as it was opened for (`at_once`),
    and others wait for their turn.

    Forks: a child that was forked after opening gets WrongInput from every call, and closing does
    nothing there. An engine's threads do not come along into a child: let it open a session of its
    own, and end by `os._exit`, as those of `multiprocessing` do.

    Arrays: inputs are read while the call lasts and never written; one whose elements do not lie
    in C order, aligned and in this machine's byte order, is copied or refused in words. A session
    may hold the arrays of its latest calls until the next ones or its closing. Outputs of `run` are
    the caller's own. In `run_into`, no other call may use the outputs meanwhile.
    """

    def run(
        self, inputs: Mapping[str, np.ndarray], deadline_ms: float | None = None
    ) -> dict[str, np.ndarray]:
        """Every output by name, in the model's own shapes, each an array of its own.

        Args:
            deadline_ms: milliseconds from now, waiting for other calls included, after which the
                engine is stopped between two operators and the answer thrown away. onnxruntime's
                call ends when it has stopped. OpenVINO's ends at once, and where an operator of its
                lasts on (a loop is one), the next call waits for it.

        Raises:
            WrongInput: a name, type or shape is not the signature's, the session is closed, or was
                opened before the process was forked.
            EngineFailed: the engine failed while it ran.
            Late: the deadline passed; the session answers the next call as ever.
        """

    def run_into(
        self,
        inputs: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
        deadline_ms: float | None = None,
    ) -> None:
        """`run`, with the answers written into arrays of the caller's, one for every output.

        The engine writes there itself and nothing is allocated, but for outputs of a shape that is
        not fixed on OpenVINO, and calls with a deadline there: these are copied. The same arrays
        again cost the least: an engine then need not be told of them. After an error, what stands
        in the outputs is anything.

        Args:
            outputs: of the right type and shape, writable, in C order; no two of them, and none
                and an input, share memory.

        Raises:
            WrongInput, EngineFailed, Late: as `run`, or outputs are not such arrays.
        """

    def close(self) -> None:
        """Refuse new calls, let those that run end, and give everything back; again is nothing.

        It returns when the last call has ended, so it must not be called from within one, as from
        a signal's handler it would be.
        """

    def __enter__(self) -> EngineSession: ...


@dataclass(frozen=True)
class Operator:
    """One operator as the engine ran it.

    Attributes:
        kind: the engine's word for it; products are told by `Conv`, `Gemm`, `MatMul` in it.
        precision: what it computed in: `float32`, `bf16`, `float16`, `int8`, `integer` for other
            whole numbers; `conversion` where it only changes a type or layout.
        name: the engine's name for it, which its fusions may have made.
        us: its time in one call in microseconds, without that of the operators in its body; None
            where it was not timed.
        fallback: computed by a reference kernel, or as float between two conversions.
        layers: names of the model's own nodes that it stands for, as far as the engine tells.
    """

    kind: str
    precision: str
    name: str = ""
    us: float | None = None
    fallback: bool = False
    layers: tuple[str, ...] = ()


class InputCheck:
    """Compares inputs with a signature in about a microsecond."""

    def __init__(self, signature: Signature) -> None:
        self.names = {tensor.name for tensor in signature.inputs}
        self.expected = _expected(signature.inputs)
        # The latest shape of each that was found to fit: mostly that of the next call, too.
        self._fitting = _fixed(signature.inputs)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs as an engine can read them, aligned and in C order; mostly the very same.

        Raises:
            WrongInput: a name, type or shape is not the signature's.
        """
        feed = inputs if type(inputs) is dict else _by_name(inputs)
        if feed.keys() != self.names:
            _wrong_names(feed, self.names, "input")
        fitting = self._fitting
        for name, dtype, shape in self.expected:
            array = feed[name]
            if (
                type(array) is np.ndarray
                and array.dtype == dtype
                and array.shape == fitting[name]
                and array.flags.carray
            ):
                continue
            taken = _taken(f"input `{name}`", array, dtype, shape)
            fitting[name] = taken.shape
            if taken is not array:
                feed = {**feed, name: taken}
        return feed


class OutputCheck:
    """Looks whether arrays can be written into as a signature's outputs."""

    def __init__(self, signature: Signature) -> None:
        self.names = {tensor.name for tensor in signature.outputs}
        self.expected = _expected(signature.outputs)
        self._fitting = _fixed(signature.outputs)

    def __call__(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Nothing, where all fits.

        Raises:
            WrongInput: a name, type or shape is not the signature's, or one cannot be written into.
        """
        if not isinstance(outputs, Mapping):
            _by_name(outputs)
        if outputs.keys() != self.names:
            _wrong_names(outputs, self.names, "output")
        fitting = self._fitting
        for name, dtype, shape in self.expected:
            array = outputs[name]
            if (
                type(array) is np.ndarray
                and array.dtype == dtype
                and array.shape == fitting[name]
                and array.flags.carray
            ):
                continue
            what = f"output `{name}`"
            taken = _taken(what, array, dtype, shape)
            if not array.flags.writeable:
                raise WrongInput(f"the array for {what} is read-only", hint="give it a `.copy()`")
            if taken is not array:
                raise WrongInput(
                    f"the array for {what} does not lie in one piece in C order",
                    hint=f"np.empty({array.shape}, '{dtype}')",
                )
            fitting[name] = array.shape

    def apart(self, feed: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
        """Nothing, where no output shares memory with an input or another output.

        Raises:
            WrongInput: one does.
        """
        named = [(f"output `{name}`", array) for name, array in outputs.items()]
        others = [(f"input `{name}`", array) for name, array in feed.items()]
        for i, (what, array) in enumerate(named):
            for other, of in (*others, *named[:i]):
                if np.may_share_memory(array, of):
                    raise WrongInput(
                        f"the array for {what} shares memory with {other}",
                        hint="give it an array of its own",
                    )


def _expected(
    tensors: Sequence[Tensor],
) -> list[tuple[str, np.dtype[Any], tuple[Dimension, ...] | None]]:
    return [(tensor.name, np.dtype(tensor.dtype), tensor.shape) for tensor in tensors]


def _fixed(tensors: Sequence[Tensor]) -> dict[str, tuple[Dimension, ...] | None]:
    """The shapes that no array has where a size is open."""
    return {tensor.name: tensor.shape for tensor in tensors}


def _by_name(inputs: Any) -> dict[str, np.ndarray]:
    if not isinstance(inputs, Mapping):
        raise WrongInput(
            f"arrays are given by name, not as {type(inputs).__name__}", hint="{'name': array}"
        )
    return dict(inputs)


def _wrong_names(given: Mapping[str, np.ndarray], names: set[str], kind: str) -> None:
    for name in given:
        if name not in names:
            raise WrongInput(f"`{name}` is not an {kind}", hint=nearest(str(name), names))
    absent = ", ".join(f"`{name}`" for name in sorted(names - given.keys()))
    raise WrongInput(f"no array for {kind} {absent}", hint=f"give every {kind} by name")


def _taken(
    what: str, array: Any, dtype: np.dtype[Any], shape: tuple[Any, ...] | None
) -> np.ndarray:
    """The array, or a copy in C order, where its type and shape are right."""
    if not isinstance(array, np.ndarray):
        raise WrongInput(
            f"{what} is {type(array).__name__}, not an array",
            hint=f"np.asarray(value, dtype='{dtype}')",
        )
    if hasattr(array, "mask"):
        raise WrongInput(f"{what} is a masked array", hint="say what stands there: `.filled(0)`")
    gives = what.startswith("output")
    does = "gives" if gives else "takes"
    if array.dtype != dtype:
        swapped = array.dtype.newbyteorder() == dtype
        order = " in the other byte order" if swapped else ""
        raise WrongInput(
            f"{what} is {dtype if swapped else array.dtype}{order}, the model {does} {dtype}",
            hint=f"np.empty(..., '{dtype}')" if gives else f"give it `.astype('{dtype}')`",
        )
    if shape is not None and not fits(array.shape, shape):
        raise _wrong_shape(what, array.shape, shape)
    flags = array.flags
    if flags.c_contiguous and flags.aligned:
        return np.asarray(array)
    return np.array(array, order="C", subok=False)


def _wrong_shape(what: str, given: tuple[int, ...], wanted: tuple[Any, ...]) -> WrongInput:
    words = ", ".join("?" if not isinstance(d, int) else str(d) for d in wanted)
    hint = "`session.signature`, or `edgedl inspect`, shows the inputs"
    if len(given) + 1 == len(wanted) and fits((1, *given), wanted):
        hint = "it lacks the batch axis: `array[None]`"
    for axes, layout in LAYOUTS:
        if len(axes) == len(given) and fits(tuple(given[axis] for axis in axes), wanted):
            hint = f"it looks like {layout}: `array.transpose{axes}`"
            break
    return WrongInput(f"{what} has shape {given}, the model takes ({words})", hint=hint)


def fits(given: tuple[int, ...], wanted: tuple[Any, ...]) -> bool:
    """Whether a shape is one that a tensor of the signature may have."""
    return len(given) == len(wanted) and all(
        size == dimension or not isinstance(dimension, int)
        for size, dimension in zip(given, wanted, strict=True)
    )


def same_shapes(found: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
    """Nothing, where arrays for outputs have the shapes that these came out in.

    Raises:
        WrongInput: one has not.
    """
    for name, array in found.items():
        if array.shape != outputs[name].shape:
            raise WrongInput(
                f"output `{name}` came out as {array.shape}, the array given for it is"
                f" {outputs[name].shape}",
                hint="`run` gives arrays of the right shapes",
            )


def closed() -> WrongInput:
    """What a closed session raises when it is run."""
    return WrongInput("the session is closed", hint="open it again")
