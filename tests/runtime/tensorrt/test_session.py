"""A TensorRT session's whole way, on an engine and a CUDA that check every handle's life."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import EdgeError, EngineFailed, Late, Unsupported, WrongInput
from edgedl.runtime.tensorrt.contexts import Running
from edgedl.runtime.tensorrt.cuda import CudaRuntime
from edgedl.runtime.tensorrt.session import TensorRtSession
from tests.runtime.tensorrt.fake_cuda import FakeCuda
from tests.runtime.tensorrt.fake_trt import FakeTrt, plan

GRAPH, PLAIN = ["cudaGraphLaunch", "cudaStreamSynchronize"], "cudaMemcpyAsync"


class Bench:
    """A fake GPU, TensorRT on it, and sessions."""

    def __init__(self, **gpu: Any) -> None:
        self.cuda = FakeCuda(**gpu)
        self.trt = FakeTrt(self.cuda)

    def open(self, data: bytes | None = None, **running: Any) -> TensorRtSession:
        given = plan() if data is None else data
        return TensorRtSession(self.trt, CudaRuntime(self.cuda), given, Running(**running))

    def calls_of(self, session: TensorRtSession, x: np.ndarray) -> list[str]:
        before = len(self.cuda.calls)
        np.testing.assert_array_equal(session.run({"x": x})["y"], 2 * x + 1)
        return self.cuda.calls[before:]

    def all_is_given_back(self) -> None:
        if self.cuda.leaks() or self.trt.alive:
            gc.collect()
        assert not self.cuda.leaks()
        assert not self.trt.alive


@pytest.fixture
def bench() -> Iterator[Bench]:
    found = Bench()
    yield found
    found.all_is_given_back()


def rows(count: int, start: float = 0) -> np.ndarray:
    return (np.arange(count * 3, dtype=np.float32) + start).reshape(count, 3)


STATIC = plan(x=(2, 3), profiles=[((2, 3), (2, 3), (2, 3))])
BUCKETS = plan(
    profiles=[((1, 3), (1, 3), (1, 3)), ((2, 3), (4, 3), (8, 3)), ((1, 3), (8, 3), (16, 3))]
)


def test_the_signature_is_the_engines(bench: Bench) -> None:
    with bench.open() as session:
        one, other = session.signature.inputs[0], session.signature.outputs[0]
    assert (one.name, one.dtype, one.shape) == ("x", "float32", (None, 3))
    assert (other.name, other.dtype, other.shape) == ("y", "float32", (None, 3))


def test_a_fixed_shape_is_a_graph_from_its_second_run_on(bench: Bench) -> None:
    with bench.open(STATIC) as session:
        assert bench.calls_of(session, rows(2)) == [PLAIN, PLAIN, "cudaStreamSynchronize"]
        second = bench.calls_of(session, rows(2, 5))
        assert second[0] == "cudaStreamBeginCapture"
        assert second[-2:] == GRAPH
        for start in (1, 7, -4):
            assert bench.calls_of(session, rows(2, start)) == GRAPH
        assert session.note is None
        assert bench.trt.made == 1


def test_each_shape_has_a_graph_in_a_context_of_its_own(bench: Bench) -> None:
    with bench.open() as session:
        for _ in range(3):
            for count in (1, 2, 4):
                bench.calls_of(session, rows(count))
        assert all(bench.calls_of(session, rows(n, 9)) == GRAPH for n in (4, 1, 2))
        assert bench.trt.made == 4
        assert bench.calls_of(session, rows(3))[0] == PLAIN
        assert bench.calls_of(session, rows(1, 3)) == GRAPH


def test_the_number_of_graphs_is_bounded(bench: Bench) -> None:
    with bench.open(graphs=2) as session:
        for count in (1, 2, 3, 4):
            for _ in range(3):
                bench.calls_of(session, rows(count))
            assert len(bench.cuda.executables) <= 2
        assert bench.calls_of(session, rows(4)) == GRAPH
        # one that had to go does not come back at once
        assert bench.calls_of(session, rows(1))[0] == PLAIN
        assert bench.calls_of(session, rows(1))[0] == PLAIN


def test_many_shapes_are_forgotten_in_turn(bench: Bench) -> None:
    wide = plan(x=(-1, 3), profiles=[((1, 3), (2, 3), (100, 3))])
    with bench.open(wide) as session:
        for count in range(1, 80):
            bench.calls_of(session, rows(count))
            bench.calls_of(session, rows(count, 2))
        assert len(bench.cuda.executables) <= 8
        assert bench.trt.alive.count("context") <= 9


def test_without_graphs_every_run_is_launched_anew(bench: Bench) -> None:
    with bench.open(STATIC, graphs=0) as session:
        for _ in range(3):
            assert bench.calls_of(session, rows(2)) == [PLAIN, PLAIN, "cudaStreamSynchronize"]
        assert session.note == "no CUDA graph: it was not asked for"


@pytest.mark.parametrize(
    "call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiateWithFlags"]
)
def test_where_capturing_fails_it_runs_without(bench: Bench, call: str) -> None:
    bench.cuda.refused[call] = 900
    with bench.open() as session:
        for start in range(3):
            bench.calls_of(session, rows(2, start))
        assert "no CUDA graph: CUDA failed in" in str(session.note)
        assert bench.calls_of(session, rows(2)) == [PLAIN, PLAIN, "cudaStreamSynchronize"]


def test_kernels_that_cannot_be_captured_yet(bench: Bench) -> None:
    bench.trt.capturable = False
    with bench.open() as session:
        for start in range(3):
            bench.calls_of(session, rows(2, start))
        assert "cannot be noted down" in str(session.note)


def test_the_tightest_profile_answers(bench: Bench) -> None:
    with bench.open(BUCKETS) as session:
        assert session._ready is not None
        for count, profile in ((1, 0), (2, 1), (8, 1), (9, 2), (16, 2)):
            bench.calls_of(session, rows(count))
            assert session.bound({"x": rows(count)})[1].profile.index == profile
        assert bench.trt.alive.count("context") == 3


def test_a_shape_outside_every_profile_names_the_ranges(bench: Bench) -> None:
    with bench.open(BUCKETS) as session:
        with pytest.raises(WrongInput, match=r"`x` has shape \(17, 3\)") as caught:
            session.run({"x": rows(17)})
        assert "(1, 3) or (2..8, 3) or (1..16, 3)" in caught.value.message
        with pytest.raises(WrongInput, match=r"takes \(\?, 3\)"):
            session.run({"x": np.zeros((1, 4), np.float32)})
        bench.calls_of(session, rows(2))


def test_shapes_that_only_fit_together_in_no_profile(bench: Bench) -> None:
    two = plan(inputs=["x", "z"], profiles=[((1, 3), (1, 3), (2, 3)), ((3, 3), (3, 3), (4, 3))])
    with bench.open(two) as session:
        answers = session.run({"x": rows(2), "z": rows(1, 4)})
        np.testing.assert_array_equal(answers["y1"], 2 * rows(1, 4) + 1)
        with pytest.raises(WrongInput, match="together: `x`"):
            session.run({"x": rows(2), "z": rows(3)})


def test_answers_are_the_callers(bench: Bench) -> None:
    with bench.open() as session:
        first = session.run({"x": rows(2)})["y"]
        kept = first.copy()
        for start in (3, 5, 7):
            session.run({"x": rows(2, start)})
        np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(first, kept)


def test_inputs_may_lie_as_they_like(bench: Bench) -> None:
    whole = np.zeros((4, 6), np.float32)
    whole[::2, ::2] = rows(2)
    with bench.open() as session:
        for _ in range(3):
            bench.calls_of(session, whole[::2, ::2])
        frozen = rows(2)
        frozen.flags.writeable = False
        bench.calls_of(session, frozen)


@pytest.mark.parametrize("dtype", ["HALF", "INT8", "INT32", "UINT8", "INT64", "BOOL"])
def test_types(bench: Bench, dtype: str) -> None:
    with bench.open(plan(dtype=dtype)) as session:
        x = np.array([[0, 1, 1]], session.signature.inputs[0].dtype)
        for _ in range(3):
            answer = session.run({"x": x})["y"]
            assert answer.dtype == x.dtype
            assert answer.tolist() == ([[True, False, False]] if dtype == "BOOL" else [[1, 3, 3]])


@pytest.mark.parametrize("dtype", ["BF16", "FP8"])
def test_types_that_numpy_has_not(bench: Bench, dtype: str) -> None:
    with pytest.raises(
        EngineFailed, match=f"`x` is {dtype.lower()}, which no numpy array"
    ) as error:
        bench.open(plan(dtype=dtype))
    assert "float32 inputs" in str(error.value.hint)
    del error


def test_empty_inputs(bench: Bench) -> None:
    with bench.open(plan(profiles=[((0, 3), (2, 3), (4, 3))])) as session:
        for _ in range(3):
            assert session.run({"x": rows(0)})["y"].shape == (0, 3)
        bench.calls_of(session, rows(4))


def test_into_arrays_of_the_callers(bench: Bench) -> None:
    with bench.open() as session:
        out = np.zeros((2, 3), np.float32)
        for start in range(4):
            session.run_into({"x": rows(2, start)}, {"y": out})
            np.testing.assert_array_equal(out, 2 * rows(2, start) + 1)
        wrong: list[dict[str, np.ndarray]] = [{}, {"y": out[:1]}, {"y": out.astype(np.float64)}]
        frozen = out.copy()
        frozen.flags.writeable = False
        x = rows(2)
        for given in [*wrong, {"y": frozen}, {"y": out, "z": out}, {"y": x}]:
            with pytest.raises(WrongInput):
                session.run_into({"x": x}, given)


def test_arrays_of_the_session_are_not_copied(bench: Bench) -> None:
    with bench.open() as session:
        inputs, outputs = session.arrays({"x": (2, 3)})
        for start in range(4):
            inputs["x"][:] = rows(2, start)
            session.run_into(inputs, outputs)
            np.testing.assert_array_equal(outputs["y"], 2 * rows(2, start) + 1)
        with pytest.raises(WrongInput, match="no shape for input `x`"):
            session.arrays()
        with pytest.raises(WrongInput, match="built for"):
            session.arrays({"x": (9, 3)})
        session.close()
        # the memory lives as long as the array
        assert bench.cuda.leaks() == ["2 memory"]
        np.testing.assert_array_equal(outputs["y"], 2 * rows(2, 3) + 1)
        del inputs, outputs


def test_the_sessions_own_arrays_are_known_again_and_only_they(bench: Bench) -> None:
    with bench.open() as session:
        inputs, outputs = session.arrays({"x": (2, 3)})
        for start in range(6):
            inputs["x"][:] = rows(2, start)
            before = len(bench.cuda.calls)
            session.run_into(inputs, outputs)
            if start > 1:
                assert bench.cuda.calls[before:] == GRAPH
            np.testing.assert_array_equal(outputs["y"], 2 * rows(2, start) + 1)
        # another shape between, another array in the dict, and one that is wrong
        bench.calls_of(session, rows(4))
        inputs["x"][:] = rows(2, 3)
        session.run_into(inputs, outputs)
        np.testing.assert_array_equal(outputs["y"], 2 * rows(2, 3) + 1)
        session.run_into({"x": rows(2, 8)}, outputs)
        np.testing.assert_array_equal(outputs["y"], 2 * rows(2, 8) + 1)
        with pytest.raises(WrongInput):
            session.run_into({**inputs, "z": rows(2)}, outputs)
        with pytest.raises(WrongInput):
            session.run_into(inputs, {"y": outputs["y"].astype(np.float64)})
        session.close()
        with pytest.raises(WrongInput, match="closed"):
            session.run_into(inputs, outputs)
        del inputs, outputs


def test_an_output_whose_size_only_running_tells(bench: Bench) -> None:
    sparse = plan(x=(-1,), profiles=[((1,), (3,), (9,))], kind="nonzero")
    with bench.open(sparse) as session:
        for given in ([1, -2, 3], [-1, -2, -3], [4, 5, 6], list(range(1, 10)), [1, -2, 3]):
            x = np.array(given, np.float32)
            np.testing.assert_array_equal(session.run({"x": x})["y"], x[x > 0])
        assert session.note == "no CUDA graph: only running tells the size of `y`"
        with pytest.raises(WrongInput, match="only running tells"):
            session.arrays({"x": (3,)})
        bench.trt.refuse["set_output_allocator"] = "no"


def test_too_little_memory_for_such_an_output(bench: Bench) -> None:
    sparse = plan(x=(-1,), profiles=[((1,), (3,), (9000,))], kind="nonzero")
    with bench.open(sparse) as session:
        session.run({"x": np.ones(3, np.float32)})
        bench.cuda.device_bytes = bench.cuda.used() + 10
        with pytest.raises(EngineFailed, match="GPU has too little memory"):
            session.run({"x": np.ones(9000, np.float32)})
        bench.cuda.device_bytes = 1 << 30
        assert session.run({"x": np.ones(3, np.float32)})["y"].shape == (3,)


def test_an_input_on_the_host_whose_values_are_sizes(bench: Bench) -> None:
    sizes = plan(
        x=(2,), kind="filled", profiles=[((2,), (2,), (2,))], values=[(1, 1), (2, 2), (3, 4)]
    )
    with bench.open(sizes) as session:
        for shape in ((2, 2), (3, 4), (1, 1), (1, 1), (2, 3)):
            answer = session.run({"x": np.array(shape)})["y"]
            assert answer.shape == shape
            assert (answer == 7).all()
        with pytest.raises(
            WrongInput, match=r"`x` is \[4, 1\], the engine was built for \(1\.\.3, 1\.\.4\)"
        ):
            session.run({"x": np.array([4, 1])})
        assert "depend on an input's values" in str(session.note)
        with pytest.raises(WrongInput, match="depend"):
            session.arrays()


def test_threads_take_turns(bench: Bench) -> None:
    with bench.open() as session, ThreadPoolExecutor(4) as pool:
        given = [rows(1 + i % 4, i) for i in range(60)]
        answers = list(pool.map(lambda x: session.run({"x": x})["y"], given))
        for x, answer in zip(given, answers, strict=True):
            np.testing.assert_array_equal(answer, 2 * x + 1)


def test_everything_goes_in_order_and_once(bench: Bench) -> None:
    session = bench.open()
    for _ in range(2):
        session.run({"x": rows(2)})
    bench.cuda.log.clear()
    session.close()
    session.close()
    kinds = list(dict.fromkeys(bench.cuda.log))
    assert kinds[:4] == ["graph", "context", "engine", "runtime"]
    assert set(kinds[4:-1]) == {"device memory", "pinned memory"}
    assert kinds[-1] == "stream"
    with pytest.raises(WrongInput, match="closed"):
        session.run({"x": rows(2)})
    with pytest.raises(WrongInput, match="closed"):
        session.arrays({"x": (2, 3)})


def test_a_session_that_is_forgotten_gives_everything_back(bench: Bench) -> None:
    session = bench.open()
    session.run({"x": rows(2)})
    del session


def test_a_forked_process_neither_uses_nor_frees(bench: Bench) -> None:
    session = bench.open()
    session.run({"x": rows(2)})
    before = len(bench.cuda.calls)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        words = []
        for call in (lambda: session.run({"x": rows(2)}), lambda: session.arrays({"x": (2, 3)})):
            try:
                call()
            except WrongInput as error:
                words.append(error.message)
        session.close()
        del session
        gc.collect()
        words.append(str(len(bench.cuda.calls) - before))
        os.write(write, "|".join(words).encode())
        os._exit(0)
    os.waitpid(child, 0)
    told = os.read(read, 1000).decode().split("|")
    assert told == ["the session was opened before this process was forked"] * 2 + ["0"]
    for end in (read, write):
        os.close(end)
    bench.calls_of(session, rows(2))
    session.close()


def test_a_call_that_is_late_leaves_its_work_to_the_next_one(bench: Bench) -> None:
    with bench.open() as session:
        for turn in range(4):
            bench.cuda.busy = 10**6
            with pytest.raises(Late, match="no answer within 1 ms"):
                session.run({"x": rows(2, turn)}, deadline_ms=1)
            bench.cuda.busy = 3
            x = rows(2, turn + 10)
            np.testing.assert_array_equal(session.run({"x": x}, deadline_ms=1e9)["y"], 2 * x + 1)
            bench.calls_of(session, rows(2, turn))
        with pytest.raises(Late):
            session.run({"x": rows(2)}, deadline_ms=0)
        with pytest.raises(WrongInput, match="deadline"):
            session.run({"x": rows(2)}, deadline_ms=float("nan"))
        bench.cuda.busy = 10**6
        with pytest.raises(Late):
            session.run_into({"x": rows(2)}, {"y": rows(2)}, deadline_ms=1)


def test_waiting_for_a_turn_counts(bench: Bench) -> None:
    with bench.open() as session:
        session._lock.acquire()
        with pytest.raises(Late):
            session.run({"x": rows(2)}, deadline_ms=1)
        session._lock.release()
        bench.calls_of(session, rows(2))


def test_another_gpu_than_the_first_is_chosen_in_every_thread(bench: Bench) -> None:
    with bench.open(device=1) as session:
        assert bench.cuda.calls[1] == "cudaSetDevice"
        assert bench.calls_of(session, rows(2))[0] == "cudaSetDevice"


def use(session: TensorRtSession) -> None:
    """Three shapes, twice and thrice, so that graphs are made, kept and dropped."""
    for count in (1, 2, 2, 1, 4, 2, 4, 1):
        np.testing.assert_array_equal(session.run({"x": rows(count)})["y"], 2 * rows(count) + 1)


def test_a_failure_of_any_call_of_cuda_leaks_nothing() -> None:
    whole = Bench()
    with whole.open(graphs=2) as session:
        use(session)
    total = len(whole.cuda.calls)
    assert total > 60
    failures = 0
    for number in range(1, total + 1):
        bench = Bench()
        bench.cuda.fails_at = (number, 700)
        note = None
        try:
            session = bench.open(graphs=2)
            try:
                use(session)
                note = session.note
            finally:
                session.close()
        except EngineFailed as error:
            failures += 1
            assert "illegal memory access" in error.message
            error.__traceback__ = None
        else:
            # a failure of `cudaFreeHost` is one of work before, which was waited for
            seen = "illegal" in str(note) or bench.cuda.calls[number - 1] == "cudaFreeHost"
            assert seen, f"call {number} failed unseen"
        session = None  # type: ignore[assignment]
        bench.all_is_given_back()
    assert failures > total // 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("create_execution_context", "make a context: no reason of mine"),
        ("set_optimization_profile_async", "choose profile 1"),
        ("set_input_shape", r"take shape \(8, 3\)"),
        ("set_tensor_address", "take the memory of `x`"),
        ("infer_shapes", "tell the shapes behind `x`"),
        ("execute_async_v3", "run the engine"),
    ],
)
def test_whatever_tensorrt_refuses_is_an_error_in_its_words(
    bench: Bench, call: str, words: str
) -> None:
    with bench.open(BUCKETS) as session:
        bench.trt.refuse[call] = "no reason of mine"
        with pytest.raises(EngineFailed, match=words):
            session.run({"x": rows(2)})
        del bench.trt.refuse[call]
        bench.calls_of(session, rows(2))


def test_a_context_for_which_memory_lacks(bench: Bench) -> None:
    with bench.open() as session:
        bench.trt.refuse["create_execution_context"] = "Requested amount of GPU memory is not there"
        with pytest.raises(EngineFailed, match=r"too little memory, \d+ of \d+ MB are free"):
            session.run({"x": rows(2)})


@pytest.mark.parametrize(
    ("data", "words", "advice"),
    [
        (plan(version="10.13.3"), "built by another version than this tensorrt 10.3.0", "compile"),
        (
            plan(capability=(8, 9)),
            r"another GPU than this Fake Orin, compute capability 8\.7",
            "com",
        ),
        (b"nothing like a plan", "damaged or is none", "compile"),
        (plan()[:-20], "damaged or is none", "compile"),
        (b"", "damaged or is none", "compile"),
        (plan(scratch=2 << 30), "GPU has too little memory: 2.15 GB were asked for", "smaller"),
    ],
)
def test_engines_that_do_not_open(bench: Bench, data: bytes, words: str, advice: str) -> None:
    with pytest.raises(EngineFailed, match=words) as caught:
        bench.open(data)
    assert advice in str(caught.value.hint)
    caught.value.__traceback__ = None


def test_too_little_memory_while_the_engine_is_opened(bench: Bench) -> None:
    bench.trt.refuse["deserialize_cuda_engine"] = "Error Code 2: OutOfMemory (no more is told)"
    with pytest.raises(EngineFailed, match="too little memory to open the engine"):
        bench.open()
    bench.trt.refuse["deserialize_cuda_engine"] = ""
    with pytest.raises(EngineFailed, match="it gave no reason"):
        bench.open()


def test_a_library_that_does_not_start(bench: Bench) -> None:
    bench.trt.refuse["Runtime"] = "CUDA initialization failure with error: 35"
    with pytest.raises(EngineFailed, match=r"10\.3\.0 does not start on this GPU: CUDA init"):
        bench.open()


@pytest.mark.parametrize("gpu", [{"driver": 0}, {"driver": 11040}, {"gpus": 0}])
def test_the_first_question_is_whether_there_is_a_gpu(gpu: dict[str, int]) -> None:
    bench = Bench(**gpu)
    with pytest.raises(Unsupported):
        bench.open()
    assert not bench.trt.log
    bench.all_is_given_back()


def test_streamed_weights_and_code_of_another_version(bench: Bench) -> None:
    with bench.open(plan(streamable=1000), streamed_bytes=200, host_code=True, dla_core=1):
        assert bench.trt.budget == 200
        assert bench.trt.host_code
    with bench.open(plan(streamable=1000)):
        assert bench.trt.budget == 77


def test_kernels_made_ready_are_kept_for_the_next_opening(bench: Bench, tmp_path: Path) -> None:
    bench.trt.config = True
    path = tmp_path / "kernels"
    with bench.open(cache=path) as session:
        bench.calls_of(session, rows(2))
        assert bench.trt.loaded_cache is None
    assert path.read_bytes() == b"kernels"
    with bench.open(cache=path):
        assert bench.trt.loaded_cache == b"kernels"
    with bench.open(cache=tmp_path / "nowhere" / "kernels"):
        pass


def test_every_error_is_of_ours() -> None:
    assert issubclass(EngineFailed, EdgeError)
