"""Each way to call a session beside the engine's own fastest call of that kind, call by call.

Both sides have sessions of the same settings on the same bytes and run in turns, each first in
every other round, so that what slows the machine slows both.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import cycle
from time import perf_counter_ns
from typing import Any

import numpy as np

from edgedl.runtime.session import EngineSession
from edgedl.runtime.workers import Workers

Feed = dict[str, np.ndarray]
Call = Callable[[], Any]
LONG_MS = 60_000.0
WARM = 0.25


def ort_calls(data: bytes, feed: Feed, other: Feed) -> dict[str, Call]:
    """onnxruntime's own calls, by the names of `session_calls`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    binding = session.io_binding()
    kept = [np.empty_like(array) for array in session.run(names, feed)]
    for name, array in feed.items():
        binding.bind_cpu_input(name, array)
    for name, array in zip(names, kept, strict=True):
        address = array.ctypes.data
        binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, address)
    turn = cycle((feed, other))

    def into() -> list[np.ndarray]:
        session.run_with_iobinding(binding)
        return kept

    return {
        "run, the same arrays": lambda: session.run(names, feed),
        "run, other arrays": lambda: session.run(names, next(turn)),
        "run_into": into,
        "run with a deadline": lambda: session.run(names, feed, onnxruntime.RunOptions()),
    }


def openvino_calls(data: bytes, feed: Feed, other: Feed) -> dict[str, Call]:
    """OpenVINO's own calls, by the names of `session_calls`."""
    import openvino

    core = openvino.Core()
    config = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    graph = core.read_model(data)
    names = [port.any_name for port in graph.inputs]
    compiled = core.compile_model(graph, "CPU", config)
    same, fresh, into = (compiled.create_infer_request() for _ in range(3))
    for request in (same, into):
        for index, name in enumerate(names):
            shared = feed[name].ndim > 0
            request.set_input_tensor(index, openvino.Tensor(feed[name], shared_memory=shared))
    same.infer()
    kept = [same.get_output_tensor(i).data.copy() for i in range(len(compiled.outputs))]
    for index, array in enumerate(kept):
        if array.ndim:
            into.set_output_tensor(index, openvino.Tensor(array, shared_memory=True))
    turn = cycle((feed, other))

    def write() -> list[np.ndarray]:
        into.infer(share_inputs=True, share_outputs=True)
        return kept

    def until() -> bool:
        same.start_async(share_inputs=True)
        return bool(same.wait_for(int(LONG_MS)))

    return {
        "run, the same arrays": lambda: same.infer(share_inputs=True, share_outputs=True),
        "run, other arrays": lambda: fresh.infer(next(turn), share_inputs=True, share_outputs=True),
        "run_into": write,
        "run with a deadline": until,
    }


BARE = {"onnxruntime": ort_calls, "openvino": openvino_calls}


@contextmanager
def session_calls(session: EngineSession, feed: Feed, other: Feed) -> Iterator[dict[str, Call]]:
    """The calls of a session."""
    outputs = {name: np.empty_like(array) for name, array in session.run(feed).items()}
    turn = cycle((feed, other))
    with Workers(session) as workers:
        yield {
            "run, the same arrays": lambda: session.run(feed),
            "run, other arrays": lambda: session.run(next(turn)),
            "run_into": lambda: session.run_into(feed, outputs),
            "run with a deadline": lambda: session.run(feed, LONG_MS),
            "submit, and its result": lambda: workers.submit(feed).result(),
        }


def per_call(
    name: str, session: EngineSession, data: bytes, feed: Feed, rounds: int
) -> dict[str, dict[str, float]]:
    """By the way of calling: microseconds of the engine's call and the session's, in the median,
    and the median of the differences within a round.

    A call with a deadline is held against one that the engine could be asked to stop; one that is
    submitted, against the engine's own submitted to a `ThreadPoolExecutor`.
    """
    other = {key: array.copy() for key, array in feed.items()}
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1))
        ours = stack.enter_context(session_calls(session, feed, other))
        bare = BARE[name](data, feed, other)
        run = bare["run, the same arrays"]
        bare["submit, and its result"] = lambda: pool.submit(run).result()
        return {way: beside(bare[way], ours[way], rounds) for way in ours}


def beside(bare: Call, ours: Call, rounds: int) -> dict[str, float]:
    """Both calls in turns, the first of each round the second of the next."""
    times = np.zeros((rounds, 2))
    for i in range(rounds):
        for which in (0, 1) if i % 2 else (1, 0):
            call = (bare, ours)[which]
            start = perf_counter_ns()
            call()
            times[i, which] = perf_counter_ns() - start
    kept = times[int(rounds * WARM) :] / 1e3
    return {
        "bare_us": statistics.median(kept[:, 0].tolist()),
        "edgedl_us": statistics.median(kept[:, 1].tolist()),
        "over_us": statistics.median((kept[:, 1] - kept[:, 0]).tolist()),
    }
