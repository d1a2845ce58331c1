"""A TensorRT session's answers: which shapes and types, whose arrays, by when."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edgedl.core.errors import EngineFailed, Late, WrongInput
from tests.runtime.tensorrt.bench import BUCKETS, GRAPH, Bench, rows
from tests.runtime.tensorrt.fake_trt import plan


def test_the_signature_is_the_engines(bench: Bench) -> None:
    with bench.open() as session:
        one, other = session.signature.inputs[0], session.signature.outputs[0]
    assert (one.name, one.dtype, one.shape) == ("x", "float32", (None, 3))
    assert (other.name, other.dtype, other.shape) == ("y", "float32", (None, 3))


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
