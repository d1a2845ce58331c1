"""onnxruntime's GPU engines without a GPU: errors in words, options, what sessions promise."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgedl.core.errors import BadOption, BadValue, EngineFailed, Missing, Unsupported, WrongInput
from edgedl.runtime import engine
from edgedl.runtime.ort.gpu import CUDA, TENSORRT, TINY, OrtGpuEngine
from edgedl.runtime.ort.gpu_session import OrtGpuSession
from edgedl.runtime.ort.said import failed, no_provider
from tests.models import conv_net, dynamic_net
from tests.runtime.ort.fakes import NAMES, faked, instead
from tests.runtime.test_session import image, typed_net

GRAPH = pytest.mark.parametrize("graph", [False, True])


@pytest.fixture(scope="module", params=NAMES)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OrtGpuEngine:
    return instead(request.param, tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> OrtGpuEngine:
    return instead("onnxruntime-cuda", tmp_path_factory.mktemp("here"))


def wanted(net: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with engine("onnxruntime").open_model(net.SerializeToString(), settings={}) as session:
        return session.run(feed)


def opened(made: OrtGpuEngine, net: onnx.ModelProto, **settings: Any) -> OrtGpuSession:
    return made.open_here(net.SerializeToString(), settings, None)


def test_the_tiny_model_is_one() -> None:
    net = onnx.load_from_string(TINY)
    onnx.checker.check_model(net)
    assert [node.op_type for node in net.graph.node] == ["MatMul"]


def test_a_child_process_tries_and_builds_before_this_one_opens(
    real: OrtGpuEngine, tmp_path: Path
) -> None:
    net = conv_net()
    path = tmp_path / "net.onnx"
    onnx.save(net, path)
    feed = {"x": image(1, 3, 8, 8)}
    for model in (net.SerializeToString(), path):
        with real.open_model(model, settings={}) as session:
            np.testing.assert_allclose(session.run(feed)["logits"], wanted(net, feed)["logits"])
    assert real.store is not None
    kept = len(list(real.store.root.glob("??/*/opened.json")))
    assert kept == (3 if real.name.endswith("tensorrt") else 1)
    again = replace(real, open_work="tests.runtime.ort.fakes:crash")
    with again.open_model(path, settings={}) as session:
        assert session.run(feed)["logits"].shape == (1, 5)


@GRAPH
def test_what_is_written_into_an_input_later_is_seen(here: OrtGpuEngine, graph: bool) -> None:
    net, given, outputs = conv_net(), image(1, 3, 8, 8), {"logits": np.empty((1, 5), np.float32)}
    with opened(here, net, graph=graph) as session:
        for factor in (1, 3, 0):
            given *= factor
            expected = wanted(net, {"x": given})["logits"]
            session.run_into({"x": given}, outputs)
            np.testing.assert_allclose(outputs["logits"], expected, atol=1e-6)
            answer = session.run({"x": given})["logits"]
            np.testing.assert_array_equal(answer, outputs["logits"])
            assert not np.shares_memory(answer, outputs["logits"])


@GRAPH
def test_answers_of_run_are_the_callers(here: OrtGpuEngine, graph: bool) -> None:
    with opened(here, conv_net(), graph=graph) as session:
        first = session.run({"x": image(1, 3, 8, 8)})["logits"]
        kept = first.copy()
        session.run({"x": -image(1, 3, 8, 8)})
        np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(first, kept)


def test_shapes_may_change_and_outputs_of_no_fixed_shape_are_copied(here: OrtGpuEngine) -> None:
    net = dynamic_net()
    with opened(here, net) as session:
        for rows in (3, 1, 2):
            feed = {"x": image(rows, 3, 8, 8)}
            expected = wanted(net, feed)["logits"]
            np.testing.assert_allclose(session.run(feed)["logits"], expected, atol=1e-6)
            outputs = {"logits": np.empty((rows, 5), np.float32)}
            session.run_into(feed, outputs)
            np.testing.assert_allclose(outputs["logits"], expected, atol=1e-6)
        with pytest.raises(WrongInput, match="came out as"):
            session.run_into({"x": image(3, 3, 8, 8)}, outputs)


def test_scalars_integers_and_truth_values(here: OrtGpuEngine) -> None:
    feed = {"n": np.array([3, -4]), "flag": np.array([[True, False, True]]),
            "x": np.array(1.5, np.float32)}  # fmt: skip
    for graph in (False, True):
        with opened(here, typed_net(), graph=graph) as session:
            answer = session.run(feed)
        assert answer["twice"].tolist() == [6, -8]
        assert answer["other"].tolist() == [[False, True, False]]
        assert answer["square"] == 2.25


@GRAPH
def test_threads_do_not_see_one_anothers_inputs(here: OrtGpuEngine, graph: bool) -> None:
    net = conv_net()
    rows = [image(1, 3, 8, 8) * (i + 1) for i in range(4)]
    expected = [wanted(net, {"x": row})["logits"] for row in rows]
    alike: list[bool] = []
    with opened(here, net, graph=graph) as session:

        def work(i: int) -> None:
            for _ in range(30):
                answer = session.run({"x": rows[i]})["logits"]
                alike.append(np.allclose(answer, expected[i], atol=1e-5))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert alike == [True] * 120


@GRAPH
def test_a_closed_session_and_wrong_arrays_are_refused(here: OrtGpuEngine, graph: bool) -> None:
    session = opened(here, conv_net(), graph=graph)
    given = image(1, 3, 8, 8)
    with pytest.raises(WrongInput, match="shares memory"):
        session.run_into({"x": given}, {"logits": given.reshape(-1)[:5].reshape(1, 5)})
    with pytest.raises(WrongInput, match="has shape"):
        session.run({"x": image(1, 3, 8, 9)})
    session.run({"x": given}, deadline_ms=60_000)
    session.close()
    session.close()
    for _ in range(2):
        with pytest.raises(WrongInput, match="closed"):
            session.run({"x": given})
        with pytest.raises(WrongInput, match="closed"):
            session.run_into({"x": given}, {"logits": np.empty((1, 5), np.float32)})


def test_a_graph_wants_fixed_shapes_and_settings_are_checked(here: OrtGpuEngine) -> None:
    with pytest.raises(BadOption, match="needs fixed shapes"):
        opened(here, dynamic_net(), graph=True)
    with pytest.raises(BadValue, match="grahp"):
        opened(here, conv_net(), grahp=True)
    with pytest.raises(BadOption, match="device -1"):
        opened(here, conv_net(), device=-1)


def test_operators_tell_what_fell_to_the_processor(here: OrtGpuEngine) -> None:
    found = here.operators(
        conv_net().SerializeToString(), {"x": image(1, 3, 8, 8)}, settings={}, runs=2
    )
    products = [one for one in found if one.kind.startswith("Conv")]
    assert {one.kind for one in products} == {"Conv on the CPU"}
    assert all(one.fallback and one.us is not None and one.us >= 0 for one in found)


@pytest.mark.parametrize("made", [CUDA, TENSORRT])
def test_an_onnxruntime_without_the_provider_says_so(made: OrtGpuEngine) -> None:
    if made.provider in made.ort.get_available_providers():
        pytest.skip("this onnxruntime has the provider")
    with pytest.raises(Missing, match="built without") as caught:
        made.open_model(TINY, settings={})
    assert "onnxruntime-gpu" in (caught.value.hint or "")


def test_a_silent_fall_to_the_processor_is_an_error(tmp_path: Path) -> None:
    made, _ = faked("onnxruntime-cuda", tmp_path, started=("CPUExecutionProvider",))
    with pytest.raises(Unsupported, match="took CPUExecutionProvider in its place"):
        made.open_model(TINY, settings={})


def test_the_missing_library_is_named(tmp_path: Path) -> None:
    made, kind = faked("onnxruntime-cuda", tmp_path)
    with pytest.raises(Unsupported, match=r"`libcudnn\.so\.9` is not found") as caught:
        replace(made, open_work="tests.runtime.ort.fakes:cudnn").open_model(TINY, settings={})
    assert "wants CUDA 13 and cuDNN 9" in (caught.value.hint or "")
    assert kind.asked == []


def test_a_driver_that_crashes_takes_nothing_down(tmp_path: Path) -> None:
    made, kind = faked("onnxruntime-cuda", tmp_path)
    with pytest.raises(EngineFailed, match="crashed"):
        replace(made, open_work="tests.runtime.ort.fakes:crash").open_model(TINY, settings={})
    assert kind.asked == []


def test_a_store_that_cannot_be_written_is_no_reason_not_to_open(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file in the folder's place")
    made, _ = faked("onnxruntime-cuda", tmp_path)
    with made.open_model(TINY, settings={}) as session:
        assert session.run({"x": np.eye(4, dtype=np.float32)})["y"].shape == (4, 4)


def test_operators_on_the_processor_are_told_and_all_of_them_refused(tmp_path: Path) -> None:
    places = ((NAMES["onnxruntime-cuda"], "MatMul"), ("CPUExecutionProvider", "NonZero"))
    made, _ = faked("onnxruntime-cuda", tmp_path, places=places)
    with made.open_model(TINY, settings={}) as session:
        assert session.note is not None
        assert session.note.startswith("1 of 2 operators run on the processor (NonZero)")
    made, _ = faked("onnxruntime-cuda", tmp_path, places=places[1:])
    with pytest.raises(EngineFailed, match="not one of its 1 operators runs on the GPU"):
        made.open_model(TINY, settings={})


def test_providers_and_options_as_they_are_given(tmp_path: Path) -> None:
    made, kind = faked("onnxruntime-tensorrt", tmp_path)
    made.open_model(TINY, settings={"device": 2, "memory_bytes": 7}).close()
    (providers, more) = kind.asked
    assert [one if isinstance(one, str) else one[0] for one in providers] == [
        "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider",
    ]  # fmt: skip
    assert providers[0][1]["device_id"] == providers[1][1]["device_id"] == "2"
    assert Path(providers[0][1]["trt_engine_cache_path"]).is_dir()
    assert Path(providers[0][1]["trt_engine_cache_path"]).is_relative_to(tmp_path)
    assert Path(providers[0][1]["trt_timing_cache_path"]).is_dir()
    assert providers[1][1]["gpu_mem_limit"] == "7"
    assert more["enable_fallback"] == 0


SAID = {
    "BFCArena::AllocateRawInternal Available memory of 5 is smaller than requested bytes of 9": (
        "too little memory", EngineFailed),
    "This session cannot use the graph capture feature as requested by the user as the model has"
    " control flow nodes which can't be supported by CUDAExecutionProvider": (
        "control flow", EngineFailed),
    "This session cannot use the graph capture feature as requested by the user as all the graph"
    " nodes have not been assigned to CUDAExecutionProvider": ("on the processor", EngineFailed),
    "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version": (
        "driver is too old", Unsupported),
    "CUDA failure 100: no CUDA-capable device is detected": ("no NVIDIA GPU", Unsupported),
    "Invalid device ID: 3, must be between 0 (inclusive) and 1": ("no GPU of", Unsupported),
    "cuDNN library was not found": ("cuDNN is not found", Unsupported),
    'Unknown provider option: "trt_new"': ("does not know an option", Unsupported),
    "TensorRT EP Failed to Build Engine.": ("builds no engine", EngineFailed),
}  # fmt: skip


@pytest.mark.parametrize(("said", "wanted"), SAID.items())
def test_what_onnxruntime_raises_is_said_in_words(said: str, wanted: tuple[str, type]) -> None:
    found = failed(RuntimeError(said), "onnxruntime failed")
    assert wanted[0] in found.message
    assert type(found) is wanted[1]
    assert found.hint


def test_what_nobody_knows_is_said_as_it_is() -> None:
    found = failed(RuntimeError("something else\nand more"), "onnxruntime failed")
    assert found.message == "onnxruntime failed: something else"
    assert "something" in no_provider("P", ["", "something", ""], "1.31.1").message
    for library, hint in (("libcuda.so.1", "driver"), ("libnvinfer.so.10", "TensorRT 10"),
                          ("libcublasLt.so.13", "onnxruntime-gpu[cuda,cudnn]")):  # fmt: skip
        told = no_provider("P", [f"{library}: cannot open shared object file"], "1.31.1")
        assert f"`{library}`" in told.message
        assert hint in (told.hint or "")


def test_a_run_out_of_memory_is_said_in_words(tmp_path: Path) -> None:
    made, kind = faked("onnxruntime-cuda", tmp_path)
    with made.open_model(TINY, settings={}) as session:

        def full(*_: Any) -> Any:
            raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")

        kind.run_with_iobinding = full  # type: ignore[method-assign]
        with pytest.raises(EngineFailed, match="the GPU has too little memory"):
            session.run({"x": np.eye(4, dtype=np.float32)})


@pytest.fixture(params=[CUDA, TENSORRT], ids=lambda one: one.name)
def gpu(request: pytest.FixtureRequest) -> OrtGpuEngine:
    made: OrtGpuEngine = request.param
    try:
        made.ready()
    except (Missing, Unsupported) as error:
        pytest.skip(error.message)
    return made


@GRAPH
def test_on_a_gpu_it_answers_as_the_processor_does(gpu: OrtGpuEngine, graph: bool) -> None:
    net, given = conv_net(), image(1, 3, 8, 8)
    with gpu.open_model(net.SerializeToString(), settings={"graph": graph}) as session:
        for factor in (1, 2, -1):
            given *= factor
            expected = wanted(net, {"x": given})["logits"]
            np.testing.assert_allclose(session.run({"x": given})["logits"], expected, atol=1e-2)
