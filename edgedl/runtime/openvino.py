"""OpenVINO's CPU plugin: ONNX in, answers out."""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

import numpy as np
import openvino

from edgedl.core.errors import EdgeError, EngineFailed, WrongInput
from edgedl.core.isa import ISA_CAPS, ISA_VARIABLE
from edgedl.core.model import Dimension, Signature, Tensor
from edgedl.runtime import forks
from edgedl.runtime.alarm import LONGEST_WAIT_S, ends_at, late
from edgedl.runtime.openvino_kernels import prefer_direct
from edgedl.runtime.openvino_request import Request, Turn
from edgedl.runtime.session import Closing, InputCheck, Operator, OutputCheck, closed, same_shapes

DEVICE = "CPU"
PRECISIONS = {"f32": "float32", "bf16": "bf16", "f16": "float16"}
INTEGER = frozenset({"i8", "u8", "i4", "u4"})
CONVERSIONS = frozenset({"Reorder", "Convert", "FakeQuantize"})
BODIES = frozenset({"If", "Loop", "TensorIterator"})
NO_WORK = frozenset({"Input", "Output", "Const", "Parameter", "Result", "Constant", "Reshape"})
WARM_CALLS = 10
MICROSECOND = timedelta(microseconds=1)
# In front of what it exported: how long the names of its inputs and outputs are, then these.
NAMES, ALIGN = struct.Struct("<Q"), 64


@cache
def _core() -> openvino.Core:
    return openvino.Core()


class OpenVinoSession(Closing):
    """One compiled model, with as many infer requests as calls run at once; others wait.

    Args:
        names: of inputs and outputs, as the model has them: an output whose last operator compiling
            removed bears the names of what stood before it as well.
        at_once: infer requests.
    """

    def __init__(
        self,
        compiled: openvino.CompiledModel,
        names: tuple[Sequence[str], Sequence[str]],
        at_once: int = 1,
    ) -> None:
        self.signature = Signature(
            tuple(map(_tensor, compiled.inputs, names[0])),
            tuple(map(_tensor, compiled.outputs, names[1])),
        )
        self.compiled: openvino.CompiledModel | None = compiled
        self._outputs = [tensor.name for tensor in self.signature.outputs]
        self._check = InputCheck(self.signature)
        self._check_outputs = OutputCheck(self.signature)
        self._fixed = all(
            t.shape is not None and t.shape and all(isinstance(d, int) and d for d in t.shape)
            for t in self.signature.outputs
        )
        inputs = [tensor.name for tensor in self.signature.inputs]
        self._turns = [Turn(compiled, inputs, self._outputs) for _ in range(at_once)]
        # Turns that no call has; when the session is closed, what makes the error in their place.
        self._free: SimpleQueue[Turn | Callable[[], WrongInput]] = SimpleQueue()
        for turn in self._turns:
            self._free.put(turn)
        self._closing = threading.Lock()
        self._shut = False
        forks.watch(self)

    def run(
        self, inputs: Mapping[str, np.ndarray], deadline_ms: float | None = None
    ) -> dict[str, np.ndarray]:
        feed = self._check(inputs)
        if deadline_ms is not None:
            return self._run_until(feed, deadline_ms)
        turn = self._free.get()
        try:
            if self._shut or not isinstance(turn, Turn):
                raise _refusal(turn)
            own = turn.own
            own.finish()
            own.bind(feed)
            return dict(zip(self._outputs, own.run(), strict=True))
        except EdgeError:
            raise
        except Exception as error:
            raise EngineFailed(f"openvino failed: {_reason(error)}") from error
        finally:
            self._free.put(turn)

    def run_into(
        self,
        inputs: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
        deadline_ms: float | None = None,
    ) -> None:
        feed = self._check(inputs)
        self._check_outputs(outputs)
        if deadline_ms is not None or not self._fixed:
            self._check_outputs.apart(feed, outputs)
            found = self.run(feed, deadline_ms)
            same_shapes(found, outputs)
            for name, array in found.items():
                outputs[name][...] = array
            return
        turn = self._free.get()
        try:
            if self._shut or not isinstance(turn, Turn):
                raise _refusal(turn)
            into = turn.into
            if into.bind(feed) | into.bind_outputs(outputs):
                self._apart(into, feed, outputs)
            into.run_only()
        except EdgeError:
            raise
        except Exception as error:
            raise EngineFailed(f"openvino failed: {_reason(error)}") from error
        finally:
            self._free.put(turn)

    def _apart(
        self,
        into: Request,
        feed: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
    ) -> None:
        try:
            self._check_outputs.apart(feed, outputs)
        except WrongInput:
            into.forget()
            raise

    def _run_until(
        self, feed: Mapping[str, np.ndarray], deadline_ms: float
    ) -> dict[str, np.ndarray]:
        ends = ends_at(deadline_ms)
        if deadline_ms <= 0:
            raise late(deadline_ms)
        try:
            turn = self._free.get(timeout=min(max(ends - monotonic(), 0), LONGEST_WAIT_S))
        except Empty:
            raise late(deadline_ms) from None
        try:
            if self._shut or not isinstance(turn, Turn):
                raise _refusal(turn)
            own = turn.own
            if not own.finish(ends):
                raise late(deadline_ms)
            own.bind(feed)
            found = own.run_until(ends)
            if found is None:
                raise late(deadline_ms)
            return dict(zip(self._outputs, found, strict=True))
        except EdgeError:
            raise
        except Exception as error:
            raise EngineFailed(f"openvino failed: {_reason(error)}") from error
        finally:
            self._free.put(turn)

    def executed(self) -> dict[str, tuple[float, str]]:
        """Operators by name: the mean whole microseconds of all calls so far, and the kernel.

        What was worked out while the model was compiled is not among them. All times are 0 where
        it was not compiled with `PERF_COUNT`.
        """
        turn = self._free.get()
        try:
            if self._shut or not isinstance(turn, Turn):
                raise _refusal(turn)
            found: dict[str, tuple[float, str]] = {}
            for node in turn.own.request.get_profiling_info():
                mean = node.real_time / MICROSECOND
                # What was fused into another operator may stand here under the other's name.
                if mean >= found.get(node.node_name, (0.0, ""))[0]:
                    found[node.node_name] = mean, node.exec_type
            return found
        finally:
            self._free.put(turn)

    def close(self) -> None:
        with self._closing:
            self._shut = True
            for _ in range(len(self._turns)):
                turn = self._free.get()
                assert isinstance(turn, Turn)
                turn.own.finish()
            if self._turns:
                self._turns.clear()
                self._free.put(closed)
            self.compiled = None

    def forked(self) -> None:
        forks.KEPT.append((self.compiled, self._turns, self._free))
        self.compiled, self._turns, self._free = None, [], SimpleQueue()
        self._free.put(forks.of_another_process)
        self._closing = threading.Lock()


class _Imported(OpenVinoSession):
    """A session whose weights lie in memory of ours, which lives as long as it does."""

    def __init__(self, held: object, *words: Any) -> None:
        self._held = held
        super().__init__(*words)


def _config(settings: Mapping[str, Any], threads: int | None, *, profiled: bool) -> dict[str, Any]:
    at_once = settings.get("at_once", 1)
    config: dict[str, Any] = {
        "PERF_COUNT": profiled,
        "INFERENCE_PRECISION_HINT": settings.get("precision", "f32"),
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": at_once,
    }
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads * at_once
    return config


def _refusal(turn: Turn | Callable[[], WrongInput]) -> WrongInput:
    return closed() if isinstance(turn, Turn) else turn()


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    noise = ("Exception from", "Check '", "Summary:")
    telling = [line for line in lines if not line.startswith(noise) and line[-1] != ":"]
    return (telling or lines or [type(error).__name__])[0][:300]


def _tensor(port: Any, name: str) -> Tensor:
    shape: list[Dimension] | None = None
    if not port.partial_shape.rank.is_dynamic:
        shape = [d.get_length() if d.is_static else None for d in port.partial_shape]
    dtype = np.dtype(port.element_type.to_dtype()).name
    return Tensor(name, dtype, None if shape is None else tuple(shape))


def _precision(kind: str, plugins: str) -> str:
    if kind in CONVERSIONS:
        return "conversion"
    if kind in BODIES:
        return "integer"  # its condition's or counter's; the plugin does not tell of the body
    return "int8" if plugins in INTEGER else PRECISIONS.get(plugins, "integer")


def _ran(
    session: OpenVinoSession, feed: Mapping[str, np.ndarray], runs: int
) -> dict[str, tuple[float | None, str]]:
    """Operators by name: their microseconds in a call (None for a single run), and the kernel."""
    warm_calls = WARM_CALLS if runs > 1 else 0
    for _ in range(warm_calls):
        session.run(feed)
    warm = session.executed()
    for _ in range(runs):
        session.run(feed)
    return {
        name: (
            _mean_since(warm.get(name, (0.0, ""))[0], warm_calls, mean, runs) if runs > 1 else None,
            kernel,
        )
        for name, (mean, kernel) in session.executed().items()
    }


def _mean_since(warm_mean: float, warm_calls: int, mean: float, calls: int) -> float:
    """The mean of the last `calls` calls: the plugin's own begins at the very first one."""
    return max((mean * (warm_calls + calls) - warm_mean * warm_calls) / calls, 0.0)


def _name(node: Any) -> str:
    return str(node.get_friendly_name())


def _operator(node: Any, us: float | None, kernel: str) -> Operator:
    info = node.get_rt_info()
    kind = str(info["layerType"].astype(str))
    precision = _precision(kind, str(info["runtimePrecision"].astype(str)))
    layers = str(info["originalLayersNames"].astype(str))
    fused = tuple(layers.split(",")) if layers else ()
    return Operator(kind, precision, _name(node), us, kernel.startswith("ref"), fused)


class OpenVinoEngine:
    """OpenVINO's CPU plugin.

    `settings["precision"]` (`f32`, `bf16` or `f16`; `f32` where it is absent) is what float
    operators compute in: the plugin's own default may be lower, and is never used by accident.
    `settings["other_kernels"]` names convolutions that take the plugin's direct kernels.
    `settings["at_once"]` is how many calls run at once, 1 where it is absent, each with as many
    processor threads as `threads` says.
    """

    name = "openvino"
    version: str = openvino.__version__.split("-")[0]
    on_gpu = False

    def precisions(self) -> tuple[str, ...]:
        if os.environ.get(ISA_VARIABLE) in ISA_CAPS.values():
            return ("float32",)  # the plugin goes on offering bf16, on reference kernels
        offered = _core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
        reduced = [
            name for flag, name in (("BF16", "bf16"), ("FP16", "float16")) if flag in offered
        ]
        return ("float32", *reduced)

    def open_model(
        self, model: bytes | str | Path, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> OpenVinoSession:
        return self._compiled(model, settings, threads, profiled=False)

    def _compiled(
        self,
        model: bytes | str | Path,
        settings: Mapping[str, Any],
        threads: int | None,
        *,
        profiled: bool,
    ) -> OpenVinoSession:
        at_once = settings.get("at_once", 1)
        config = _config(settings, threads, profiled=profiled)
        source = str(model) if isinstance(model, Path) else model
        try:
            graph = _core().read_model(source)
            prefer_direct(_core(), graph, frozenset(settings.get("other_kernels", ())))
            ports = (graph.inputs, graph.outputs)
            inputs, outputs = ([port.any_name for port in some] for some in ports)
            compiled = _core().compile_model(graph, DEVICE, config)
            return OpenVinoSession(compiled, (inputs, outputs), at_once)
        except EngineFailed:
            raise
        except Exception as error:
            raise EngineFailed(f"openvino refuses the model: {_reason(error)}") from error

    def open_and_compile(
        self, model: bytes, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> tuple[OpenVinoSession, bytes]:
        session = self.open_model(model, settings=settings, threads=threads)
        assert session.compiled is not None
        try:
            exported = session.compiled.export_model()
        except Exception:
            return session, b""
        blob = exported if isinstance(exported, bytes) else exported.getvalue()
        ports = (session.signature.inputs, session.signature.outputs)
        names = json.dumps([[tensor.name for tensor in some] for some in ports]).encode()
        size = -(-(NAMES.size + len(names)) // ALIGN) * ALIGN
        return session, (NAMES.pack(len(names)) + names).ljust(size, b" ") + blob

    def open_compiled(
        self, data: memoryview, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> OpenVinoSession:
        try:
            [length] = NAMES.unpack_from(data)
            inputs, outputs = json.loads(bytes(data[NAMES.size : NAMES.size + length]))
            blob = np.frombuffer(data[-(-(NAMES.size + length) // ALIGN) * ALIGN :], np.uint8)
            config = _config(settings, threads, profiled=False)
            blob = blob if blob.flags.writeable else blob.copy()
            try:
                held = openvino.Tensor(blob, shared_memory=True)
                compiled = _core().import_model(held, DEVICE, config)
            except TypeError:  # a version that takes bytes alone
                held, compiled = None, _core().import_model(blob.tobytes(), DEVICE, config)
            return _Imported((blob, held), compiled, (inputs, outputs), settings.get("at_once", 1))
        except Exception as error:
            raise EngineFailed(f"openvino refuses its own model: {_reason(error)}") from error

    def operators(
        self,
        model: bytes | str | Path,
        feed: Mapping[str, np.ndarray],
        *,
        settings: Mapping[str, Any],
        threads: int | None = None,
        runs: int = 1,
    ) -> list[Operator]:
        """By the plugin's graph after its fusions, less what it worked out while it compiled;
        conversions of type or layout have the precision `conversion`.

        More `runs` than one are timed after a warm-up: each operator's mean, since the plugin
        tells no single call's times, from its whole microseconds. A fallback is computed by a
        reference kernel.
        """
        session = self._compiled(model, settings, threads, profiled=True)
        try:
            ran = _ran(session, feed, runs)
            assert session.compiled is not None
            nodes = session.compiled.get_runtime_model().get_ops()
            found = [_operator(node, *ran[name]) for node in nodes if (name := _name(node)) in ran]
            return [operator for operator in found if operator.us or operator.kind not in NO_WORK]
        finally:
            session.close()


ENGINE = OpenVinoEngine()
