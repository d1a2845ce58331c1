"""What a session gives back, whatever fails, and how it tells."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest

from edgedl.core.errors import EngineFailed, Unsupported, WrongInput
from edgedl.runtime.tensorrt.session import TensorRtSession
from tests.runtime.tensorrt.bench import BUCKETS, Bench, rows
from tests.runtime.tensorrt.fake_trt import plan


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
