"""Provider options: names that onnxruntime-gpu has, and what the settings make of them."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import edgedl
from edgedl.core.errors import Unsupported
from edgedl.runtime.gpu import fast_floats, provider_here
from edgedl.runtime.ort.settings import cuda_options, running_of, tensorrt_options
from edgedl.runtime.ort.types import types_in
from edgedl.runtime.tensorrt.settings import Bounds, Build, Profile
from tests.models import conv_net, saved

DOCUMENT = json.loads((Path(__file__).parent / "options.json").read_text())
BUILD = Build(
    (Profile((Bounds("x", (1, 3), (2, 3), (8, 3)), Bounds("n", (1,), (1,), (4,)))),),
    workspace_bytes=1 << 20, optimization_level=5, sparse=True, dla_core=1, hardware="ampere_plus",
)  # fmt: skip
ALL = {
    "device": 1, "graph": True, "tf32": False, "conv_search": "heuristic", "channels_last": True,
    "memory_bytes": 100, "build": BUILD.to_json(),
}  # fmt: skip
TYPES = frozenset({"float16", "bf16", "int8"})


def made(
    version: str = "1.31.1", types: frozenset[str] = TYPES, **settings: object
) -> dict[str, str]:
    return tensorrt_options(running_of(settings), types, version, Path("c"), Path("t"))


def test_every_option_is_one_that_the_provider_has() -> None:
    names = DOCUMENT["providers"]
    assert len(cuda_options(running_of(ALL))) == 6
    assert set(cuda_options(running_of(ALL))) <= set(names["onnxruntime-cuda"])
    assert len(made(**ALL)) == 18
    assert set(made(**ALL)) <= set(names["onnxruntime-tensorrt"])
    text = (Path(edgedl.__file__).parent / "runtime" / "ort" / "settings.py").read_text()
    constants = [n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)]
    written = {c for c in constants if isinstance(c, str) and c.startswith("trt_") and "}" not in c}
    assert {w for w in written if not w.endswith("_")} <= set(names["onnxruntime-tensorrt"])


def test_every_method_that_is_called_is_there() -> None:
    called = {"Session": {"io_binding", "run", "run_with_iobinding", "get_providers", "get_inputs",
                          "get_outputs", "end_profiling", "get_provider_graph_assignment_info"},
              "IOBinding": {"bind_ortvalue_input", "bind_ortvalue_output", "bind_output",
                            "clear_binding_outputs", "get_outputs"},
              "OrtValue": {"update_inplace", "numpy", "ortvalue_from_numpy",
                           "ortvalue_from_shape_and_type"}}  # fmt: skip
    for kind, methods in called.items():
        assert methods <= set(DOCUMENT["api"][kind])


def test_what_is_not_said_is_onnxruntimes_own_choice() -> None:
    assert cuda_options(running_of({})) == {"device_id": "0"}
    assert made(types=frozenset()) == {
        "device_id": "0", "trt_engine_cache_enable": "1", "trt_engine_cache_path": "c",
        "trt_timing_cache_enable": "1", "trt_timing_cache_path": "t",
    }  # fmt: skip


def test_types_are_allowed_where_the_network_is_weakly_typed() -> None:
    flags = {"trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable"}
    assert not flags & set(made("1.26.0"))
    assert flags <= set(made("1.27.0"))
    assert flags & set(made("1.27.0", frozenset({"int8"}))) == {"trt_int8_enable"}


def test_profiles_as_the_provider_reads_them() -> None:
    options = made(**ALL)
    assert options["trt_profile_min_shapes"] == "x:1x3,n:1"
    assert options["trt_profile_opt_shapes"] == "x:2x3,n:1"
    assert options["trt_profile_max_shapes"] == "x:8x3,n:4"


@pytest.mark.parametrize(
    "build", [{"refit": True}, {"weight_streaming": True}, {"hardware": "same_compute_capability"}]
)
def test_what_onnxruntime_has_no_option_for_is_refused(build: dict[str, object]) -> None:
    with pytest.raises(Unsupported, match="onnxruntime's TensorRT provider"):
        made(build=build)


def test_the_graph_says_which_types_it_has(tmp_path: Path) -> None:
    net = conv_net()
    path = saved(net, tmp_path).path
    assert types_in(path) == types_in(path.read_bytes()) == frozenset()
    for number, name in ((10, "float16"), (16, "bf16"), (1, None)):
        cast = onnx.ModelProto()
        cast.CopyFrom(net)
        cast.graph.node.append(helper.make_node("Cast", ["logits"], ["half"], to=number))
        assert types_in(cast.SerializeToString()) == {name} - {None}
    weight = numpy_helper.from_array(np.zeros(3, np.float16), "w")
    codes = numpy_helper.from_array(np.zeros(3, np.int8), "c")
    net.graph.initializer.extend([weight, codes])
    assert types_in(net.SerializeToString()) == {"float16"}
    net.graph.node.append(helper.make_node("DequantizeLinear", ["c", "s"], ["d"]))
    assert types_in(net.SerializeToString()) == {"float16", "int8"}
    assert types_in(b"nothing like a model") == frozenset()
    assert types_in(tmp_path / "none.onnx") == frozenset()


def test_a_provider_is_found_by_its_library(tmp_path: Path) -> None:
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    assert not provider_here("onnxruntime-cuda", lambda _: None)
    assert not provider_here("onnxruntime-cuda", lambda _: Spec)
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").touch()
    assert provider_here("onnxruntime-cuda", lambda _: Spec)
    assert not provider_here("onnxruntime-tensorrt", lambda _: Spec)


def test_which_gpus_are_fast_in_half_the_bits() -> None:
    assert fast_floats((5, 2)) == ()
    assert fast_floats((6, 1)) == ()
    assert fast_floats((7, 5)) == ("float16",)
    assert fast_floats((9, 0)) == ("float16", "bf16")
