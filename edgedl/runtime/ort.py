"""onnxruntime's CPU engine: ONNX in, answers out."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
import onnxruntime

from edgedl.core.errors import EdgeError, EngineFailed
from edgedl.core.model import Signature, Tensor
from edgedl.runtime import forks
from edgedl.runtime.alarm import Alarm, ends_at, late
from edgedl.runtime.bound import Bindings
from edgedl.runtime.expand import expand
from edgedl.runtime.session import InputCheck, Operator, OutputCheck, closed, same_shapes

FATAL_ONLY = 4
DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({t}{bits})": f"{t}{bits}" for t in ("int", "uint") for bits in (8, 16, 32, 64)},
}
CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})
KERNEL = "_kernel_time"
RUN_ENDS = '"model_run"'
WARM_CALLS = 10
# In a smaller model, looking for stored weights takes longer than onnxruntime takes to fold them.
LEAST_EXPANDED_BYTES = 1 << 20

Event = Mapping[str, Any]


class OrtSession:
    """One `InferenceSession`; onnxruntime lets several threads run it at once."""

    def __init__(self, engine: onnxruntime.InferenceSession) -> None:
        self._engine: onnxruntime.InferenceSession | None = engine
        self._run: Callable[..., Any] = engine.run
        self._into: Callable[..., Any] = engine.run_with_iobinding
        self.signature = Signature(
            tuple(_tensor(value) for value in engine.get_inputs()),
            tuple(_tensor(value) for value in engine.get_outputs()),
        )
        self._outputs = [tensor.name for tensor in self.signature.outputs]
        self._check = InputCheck(self.signature)
        self._check_outputs = OutputCheck(self.signature)
        self._bindings = Bindings(engine.io_binding, self._outputs[0])
        self._alarm = Alarm()
        # An element for each call that runs: appending to a list needs no lock.
        self._inside: list[None] = []
        self._shut = False
        self._empty = threading.Event()
        forks.watch(self)

    def run(
        self, inputs: Mapping[str, np.ndarray], deadline_ms: float | None = None
    ) -> dict[str, np.ndarray]:
        self._inside.append(None)
        try:
            feed = self._check(inputs)
            if deadline_ms is None:
                answers = self._run(self._outputs, feed)
            else:
                answers = self._until(deadline_ms, self._run, self._outputs, feed)
        except EdgeError:
            raise
        except Exception as error:
            raise EngineFailed(f"onnxruntime failed: {_reason(error)}") from error
        finally:
            self._inside.pop()
            if self._shut:
                self._left()
        return dict(zip(self._outputs, answers, strict=True))

    def run_into(
        self,
        inputs: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
        deadline_ms: float | None = None,
    ) -> None:
        self._inside.append(None)
        try:
            feed = self._check(inputs)
            self._check_outputs(outputs)
            bound = self._bindings.lend(outputs)
            bound.take(feed, outputs, self._check_outputs)
            if deadline_ms is None:
                self._into(bound.binding)
            else:
                self._until(deadline_ms, self._into, bound.binding)
            self._bindings.give_back(bound, outputs)
        except EdgeError:
            raise
        except Exception as error:
            # Which of its failures are those of outputs of another shape, no version says alike.
            same_shapes(self.run(inputs), outputs)
            raise EngineFailed(f"onnxruntime failed: {_reason(error)}") from error
        finally:
            self._inside.pop()
            if self._shut:
                self._left()

    def _until(self, deadline_ms: float, call: Callable[..., Any], *given: Any) -> Any:
        """What the call gives that onnxruntime is to give up when the time has come."""
        ends = ends_at(deadline_ms)
        if deadline_ms <= 0:
            raise late(deadline_ms)
        options = onnxruntime.RunOptions()
        bell = self._alarm.set(ends, partial(setattr, options, "terminate", True))
        try:
            found = call(*given, options)
        except Exception as error:
            if options.terminate:
                raise late(deadline_ms) from error
            raise
        finally:
            self._alarm.take_back(bell)
        if monotonic() >= ends:
            raise late(deadline_ms)
        return found

    def _left(self) -> None:
        if not self._inside:
            self._empty.set()

    def close(self) -> None:
        if self._engine is None:
            return
        self._run = self._into = _closed
        self._shut = True
        if self._inside:
            self._empty.wait()
        self._alarm.close()
        self._bindings.clear()
        self._engine = None

    def forked(self) -> None:
        forks.KEPT.append((self._engine, self._bindings))
        self._run = self._into = _forked
        self._engine, self._inside, self._shut = None, [], False
        self._alarm.forked()

    def __enter__(self) -> OrtSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _closed(*_: Any) -> Any:
    raise closed()


def _forked(*_: Any) -> Any:
    raise forks.of_another_process()


def _options(
    threads: int | None, settings: Mapping[str, Any] = MappingProxyType({})
) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = settings.get("memory_pattern", True)
    return options


class _Holding(onnxruntime.InferenceSession):
    """A session of weights that lie in arrays of ours, which live as long as it does."""

    def __init__(self, weights: Sequence[onnxruntime.OrtValue], *words: Any, **more: Any) -> None:
        super().__init__(*words, **more)
        self._weights = weights


def _engine(
    model: bytes | str | Path,
    options: Callable[[], onnxruntime.SessionOptions],
    settings: Mapping[str, Any],
) -> onnxruntime.InferenceSession:
    """A session; of a payload's bytes with weights that are stored in 8 bits expanded beforehand,
    unless onnxruntime does not take them so."""
    more: dict[str, Any] = {
        "providers": ["CPUExecutionProvider"],
        "disabled_optimizers": settings.get("unfused"),
    }
    lean: bytes | str | Path = model
    weights: dict[str, np.ndarray] = {}
    if isinstance(model, bytes) and len(model) >= LEAST_EXPANDED_BYTES:
        lean, weights = expand(model)
    if weights:
        with contextlib.suppress(Exception):
            held = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
            given = options()
            given.add_external_initializers(list(weights), held)
            return _Holding(held, lean, given, **more)
    source = str(model) if isinstance(model, Path) else model
    try:
        return onnxruntime.InferenceSession(source, options(), **more)
    except Exception as error:
        raise EngineFailed(f"onnxruntime refuses the model: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


def _tensor(value: onnxruntime.NodeArg) -> Tensor:
    if value.type not in DTYPES:
        raise EngineFailed(f"`{value.name}` is {value.type}, which no array holds")
    return Tensor(value.name, DTYPES[value.type], tuple(value.shape))


def _precision(kind: str, types: set[str]) -> str:
    if kind in CONVERSIONS:
        return "conversion"
    if types & {"int8", "uint8"} or kind.startswith("DynamicQuantize"):
        return "int8"
    if "float16" in types:
        return "float16"
    return "float32" if types & {"float", "double"} else "integer"


def _events(profile: Path, skipped: int) -> Iterator[Event]:
    """The kernels and ends of runs in a profile, one event a line, from a run on; a profile of
    thousands of kernels is never in memory whole."""
    with profile.open(encoding="utf-8") as lines:
        for line in lines:
            if skipped > 0:
                skipped -= RUN_ENDS in line
            elif KERNEL in line or RUN_ENDS in line:
                yield json.loads(line.rstrip().rstrip(","))


def _kernels(events: Iterable[Event]) -> Iterator[list[tuple[Event, int]]]:
    """Of each run its kernels as they ended, with the microseconds that were theirs alone.

    A kernel with a body (`If`, `Loop`) ends after the body's own kernels and begins before them.
    The time from the first one's start to the last one's end is taken off its own, as nobody's are
    the gaps between kernels elsewhere, which are the profiler's for the most part.
    """
    kernels: list[tuple[Event, int]] = []
    ended: list[Event] = []
    for event in events:
        if event.get("name") == "model_run":
            yield kernels
            kernels, ended = [], []
        elif event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            body = len(ended)
            while body and ended[body - 1]["ts"] >= event["ts"]:
                body -= 1
            span = ended[-1]["ts"] + ended[-1]["dur"] - ended[body]["ts"] if ended[body:] else 0
            ended[body:] = [event]
            kernels.append((event, max(event["dur"] - span, 0)))


def _operators(runs: Iterable[Sequence[tuple[Event, int]]]) -> list[Operator]:
    """The operators of the last run, timed by the median over the runs where there are several."""
    times: dict[tuple[str, ...], list[int]] = {}
    last: Sequence[tuple[Event, int]] = []
    count = 0
    for kernels in runs:
        for event, own in kernels:
            mine = times.setdefault(_identity(event), [])
            mine += [0] * (count + 1 - len(mine))
            mine[count] += own
        last, count = kernels, count + 1
    found: dict[tuple[str, ...], Operator] = {}
    events = [event for event, _ in last]
    for before, event, after in zip([None, *events], events, [*events[1:], None], strict=False):
        identity = _identity(event)
        arguments = event["args"]
        found[identity] = Operator(
            arguments["op_name"],
            _precision(arguments["op_name"], set().union(*_shapes(event, "input"))),
            event["name"].removesuffix(KERNEL),
            float(np.median(times[identity])) if count > 1 else None,
            before is not None and after is not None and _is_island(before, event, after),
        )
    return list(found.values())


def _identity(event: Event) -> tuple[str, ...]:
    """Bodies number their nodes afresh, and nodes that onnxruntime adds may share a name."""
    return event["name"], str(event["args"].get("node_index")), event["args"]["op_name"]


def _shapes(event: Event, side: str) -> list[dict[str, list[int]]]:
    return [entry for entry in event["args"].get(f"{side}_type_shape", []) if entry]


def _is_island(before: Event, event: Event, after: Event) -> bool:
    """Whether a kernel reads what the conversion before it made, and makes what the next reads."""
    kinds = [neighbour["args"]["op_name"] for neighbour in (before, after)]
    if kinds != ["DequantizeLinear", "QuantizeLinear"] or event["args"]["op_name"] in CONVERSIONS:
        return False
    read, made = _shapes(event, "input"), _shapes(event, "output")
    reads = any(entry in read for entry in _shapes(before, "output"))
    return reads and made[:1] == _shapes(after, "input")[:1]


class ReusingSession(OrtSession):
    """Writes its answers into two sets of arrays in turn: each holds until the next but one call.

    Fresh arrays for every call cost page faults, which weigh where outputs are many and large.
    Outputs whose shape is not fixed make it an ordinary session. It is for one thread at a time.
    """

    def __init__(self, engine: onnxruntime.InferenceSession) -> None:
        super().__init__(engine)
        outputs = self.signature.outputs
        shapes = [[d for d in t.shape or (None,) if isinstance(d, int)] for t in outputs]
        if any(
            t.shape is None or len(s) < len(t.shape) for t, s in zip(outputs, shapes, strict=True)
        ):
            return
        self._sets = []
        for _ in range(2):
            binding = engine.io_binding()
            arrays = {t.name: np.empty(s, t.dtype) for t, s in zip(outputs, shapes, strict=True)}
            for name, array in arrays.items():
                address = array.ctypes.data
                binding.bind_output(name, "cpu", 0, array.dtype, array.shape, address)
            self._sets.append((binding, arrays))
        self._run = self._reuse

    def _reuse(self, _: Any, inputs: Mapping[str, np.ndarray], *more: Any) -> list[np.ndarray]:
        binding, arrays = self._sets.pop(0)
        self._sets.append((binding, arrays))
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        self._into(binding, *more)
        return list(arrays.values())


def _of_kind(settings: Mapping[str, Any]) -> type[OrtSession]:
    return ReusingSession if settings.get("reuse_outputs") else OrtSession


class OrtEngine:
    """onnxruntime on the processor.

    `settings["memory_pattern"]` False plans no memory ahead, which keeps the peak low where a
    model has many large outputs; `settings["reuse_outputs"]` True makes a `ReusingSession`;
    `settings["unfused"]` names optimizers of onnxruntime that are left out.
    """

    name = "onnxruntime"
    version: str = onnxruntime.__version__
    on_gpu = False

    def precisions(self) -> tuple[str, ...]:
        return ("float32",)

    def open_model(
        self, model: bytes | str | Path, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> OrtSession:
        return _of_kind(settings)(_engine(model, lambda: _options(threads, settings), settings))

    def open_and_compile(
        self, model: bytes, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> tuple[OrtSession, bytes]:
        """A model whose stored weights are expanded is not compiled: it would be four times as
        large."""
        if len(model) >= LEAST_EXPANDED_BYTES and expand(model)[1]:
            return self.open_model(model, settings=settings, threads=threads), b""
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"

            def options() -> onnxruntime.SessionOptions:
                made = _options(threads, settings)
                made.optimized_model_filepath = str(optimized)
                return made

            session = _of_kind(settings)(_engine(model, options, settings))
            return session, optimized.read_bytes()

    def open_compiled(
        self, data: memoryview, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> OrtSession:
        options = _options(threads, settings)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            opened = onnxruntime.InferenceSession(
                bytes(data), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise EngineFailed(f"onnxruntime refuses its own model: {_reason(error)}") from error
        return _of_kind(settings)(opened)

    def operators(
        self,
        model: bytes | str | Path,
        feed: Mapping[str, np.ndarray],
        *,
        settings: Mapping[str, Any],
        threads: int | None = None,
        runs: int = 1,
    ) -> list[Operator]:
        """By onnxruntime's profile; conversions between types have the precision `conversion`.

        More `runs` than one are timed after a warm-up: each operator's median in whole
        microseconds. A fallback is a float operator that stands alone between a DequantizeLinear
        and a QuantizeLinear, told from the order of execution and the shapes.
        """
        with tempfile.TemporaryDirectory() as folder:

            def options() -> onnxruntime.SessionOptions:
                made = _options(threads)
                made.enable_profiling = True
                made.profile_file_prefix = str(Path(folder) / "profile")
                return made

            session = _engine(model, options, settings)
            warm = 0 if runs == 1 else WARM_CALLS
            for _ in range(warm + runs):
                session.run(None, dict(feed))
            profile = Path(session.end_profiling())
            del session
            return _operators(_kernels(_events(profile, warm)))


ENGINE = OrtEngine()
