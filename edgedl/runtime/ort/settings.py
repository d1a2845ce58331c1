"""How onnxruntime is to run on a GPU: plain values that travel in a bundle, and provider options.

Option names are those of onnxruntime-gpu 1.31.1's two provider libraries, which are held against
`tests/runtime/ort/options.json`; no GPU has taken them yet. What they do is told in onnxruntime.ai,
"CUDA Execution Provider" and "TensorRT Execution Provider".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgedl.core.errors import BadOption, Unsupported
from edgedl.core.fields import from_plain, to_plain
from edgedl.core.model import Signature
from edgedl.runtime.tensorrt.settings import Build, Profile, check_profiles

# From this version on, a network is only weakly typed under TensorRT 10 (onnxruntime pull request
# 29779): half precision in the ONNX is computed in float32 unless the provider is allowed it.
WEAK_SINCE = (1, 27)
TYPES = {"float16": "trt_fp16_enable", "bf16": "trt_bf16_enable", "int8": "trt_int8_enable"}


@dataclass(frozen=True)
class Running:
    """What may be said of a session on a GPU beside its model.

    Attributes:
        device: the GPU's number.
        graph: the whole model is launched as one CUDA graph; all shapes must be fixed, and calls
            take turns.
        tf32: products of float32 may round their factors to 10 bits; onnxruntime's own choice,
            which is yes, where None. Of the CUDA provider alone.
        conv_search: how cuDNN chooses kernels of convolutions: by timing all, which it does again
            for each new shape, or by its rules. Of the CUDA provider alone.
        channels_last: convolutions in NHWC. Of the CUDA provider alone.
        memory_bytes: the most that tensors may take on the GPU.
        build: how TensorRT builds, as `edgedl.runtime.tensorrt.settings.Build` has it; of the
            TensorRT provider alone.
    """

    device: int = 0
    graph: bool = False
    tf32: bool | None = None
    conv_search: Literal["exhaustive", "heuristic", "default"] | None = None
    channels_last: bool = False
    memory_bytes: int | None = None
    build: Build = field(default_factory=Build)

    def __post_init__(self) -> None:
        if self.device < 0 or (self.memory_bytes is not None and self.memory_bytes < 1):
            raise BadOption(
                f"device {self.device}, memory_bytes {self.memory_bytes}",
                hint="a GPU's number from 0 on, and bytes from 1 on",
            )


def running_of(settings: Mapping[str, Any]) -> Running:
    """The settings of a bundle or of a caller.

    Raises:
        BadValue: one is unknown, or its value is none.
    """
    return from_plain(Running, {k: v for k, v in settings.items() if k != "at_once"})


def cuda_options(running: Running) -> dict[str, str]:
    """The CUDA provider's."""
    found = {"device_id": str(running.device)}
    if running.graph:
        found["enable_cuda_graph"] = "1"
    if running.tf32 is not None:
        found["use_tf32"] = str(int(running.tf32))
    if running.conv_search is not None:
        found["cudnn_conv_algo_search"] = running.conv_search.upper()
    if running.channels_last:
        found["prefer_nhwc"] = "1"
    if running.memory_bytes is not None:
        found["gpu_mem_limit"] = str(running.memory_bytes)
    return found


def tensorrt_options(
    running: Running, types: Collection[str], version: str, cache: Path, timing: Path
) -> dict[str, str]:
    """The TensorRT provider's.

    Precision stands in the graph: a strongly typed network takes it from there. Where this version
    makes a weakly typed one, it is allowed the types that the graph has.

    Args:
        types: of the graph, as `types_in` has them.
        version: onnxruntime's.
        cache, timing: the folders of its engines, and of what its builder measured.

    Raises:
        Unsupported: the build asks for what onnxruntime has no option for.
    """
    build = running.build
    _refuse_others(build)
    found = {
        "device_id": str(running.device),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(timing),
    }
    if _numbers(version) >= WEAK_SINCE:
        found |= {option: "1" for name, option in TYPES.items() if name in types}
    if running.graph:
        found["trt_cuda_graph_enable"] = "1"
    if build.workspace_bytes is not None:
        found["trt_max_workspace_size"] = str(build.workspace_bytes)
    if build.optimization_level is not None:
        found["trt_builder_optimization_level"] = str(build.optimization_level)
    if build.sparse:
        found["trt_sparsity_enable"] = "1"
    if build.hardware == "ampere_plus":
        found["trt_engine_hw_compatible"] = "1"
    if build.dla_core is not None:
        found |= {"trt_dla_enable": "1", "trt_dla_core": str(build.dla_core)}
    return found | _profile_options(build.profiles)


def _profile_options(profiles: Collection[Profile]) -> dict[str, str]:
    """`input:1x3x8x8,other:4`; an input stands there once for each profile."""
    if not profiles:
        return {}
    bounds = [one for profile in profiles for one in profile.inputs]
    sides = {"min": "least", "opt": "usual", "max": "most"}
    return {
        f"trt_profile_{side}_shapes": ",".join(
            f"{one.input}:{'x'.join(map(str, getattr(one, name)))}" for one in bounds
        )
        for side, name in sides.items()
    }


def _refuse_others(build: Build) -> None:
    plain, given = to_plain(Build()), to_plain(build)
    for name in (
        "version_compatible",
        "weight_streaming",
        "refit",
        "compute_capabilities",
        "tiling",
    ):
        if given[name] != plain[name]:
            raise Unsupported(
                f"onnxruntime's TensorRT provider has no option for `{name}`",
                hint="leave it out, or `--target tensorrt`, which builds with TensorRT itself",
            )
    if build.hardware == "same_compute_capability":
        raise Unsupported(
            "onnxruntime's TensorRT provider builds for this GPU, or for Ampere and later",
            hint="`hardware` is `same` or `ampere_plus` there",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(word) for word in version.split(".")[:2] if word.isdigit())


def check_shapes(running: Running, signature: Signature) -> None:
    """Hold the settings against a model's inputs and outputs.

    Raises:
        BadOption: a graph is asked for and an axis is not fixed, or a profile does not fit.
    """
    shapes: dict[str, list[int]] = {}
    for tensor in signature.inputs:
        if tensor.shape is not None:
            shapes[tensor.name] = [d if isinstance(d, int) else -1 for d in tensor.shape]
    for tensor in (*signature.inputs, *signature.outputs):
        fixed = tensor.shape is not None and all(isinstance(d, int) for d in tensor.shape)
        if running.graph and not fixed:
            raise BadOption(
                f"a CUDA graph needs fixed shapes, and those of `{tensor.name}` are not",
                hint="fix them with `--shape`, or leave `graph` out",
            )
    if running.build.profiles:
        check_profiles(running.build, shapes)
