"""Named kinds of device, and the quantization scheme that each engine computes fastest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from edgedl.core.engines import LISTED
from edgedl.core.errors import BadOption, nearest

ISA_DOUBT = "onnxruntime has no switch like --isa: it used the whole processor"
PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
MOVES = frozenset(
    {
        "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad",
        "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose",
        "Unsqueeze",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Scheme:
    """How an engine wants its int8 graph written.

    Attributes:
        name: for the plan's listing.
        activations: `asymmetric` is uint8 with a zero point; `symmetric` is int8 with zero point
            0, or uint8 with zero point 0 where a tensor is never negative, unless `signed_only`.
        signed_only: never uint8.
        int8_for_matmul_only: write signed symmetric tensors that anything but matrix products
            reads as uint8 with zero point 128, which is the same grid: OpenVINO 2026.4 computes
            int8 wrongly there, behind Concat and in Add.
        skewed: operators that, in a symmetric scheme, also read tensors with a zero point of their
            own where a range is far from symmetric, as that of SiLU or hard-swish; depthwise
            convolutions do not.
        outputs: whether an int8 operator's output must be quantized too for the engine to take
            its integer kernel.
        optional_outputs: operators whose integer kernel also comes with a float output.
        operators: what the engine computes in int8.
        moves: operators that carry integer codes through unchanged; their outputs take their
            inputs' scale.
        carries: moves that the engine takes conversions through by itself, so that one in front is
            enough: behind each of them OpenVINO 2026.4 computes another.
        bias_apart: whether a Gemm must leave its float bias to an Add behind it, because the
            engine's integer Gemm takes none.
        own_gelu: whether GELU is written as the engine's own operator.
        own_lstm: whether an int8 LSTM is written as the engine's own operator, which quantizes what
            it reads in each call; else it stands between quantizers.
        dynamic: whether the engine has fast kernels for activations quantized in each call.
        shift: operators for which the engine takes another kernel where the weights' zero point
            is not 0: onnxruntime's int8 convolutions, by up to 1.17x faster or 2x slower.
        direct: whether weights stored in 8 bits are expanded by a single Cast, which takes a third
            less memory to open; OpenVINO would take it for a compressed weight.
        dequantizes: whether nothing but DequantizeLinear may read codes, as TensorRT has it:
            weights stored in 8 bits are expanded by that, and tables are stored as they were.
        free_multiplications: whether a multiplication by constants in front of a quantizer costs
            nothing: OpenVINO makes one kernel of the two.
        fuses_adds: whether a convolution's kernel adds what waits beside it: the waiting operand of
            an Add is quantized then, and the convolution's own result, which never leaves the
            kernel, is not; other additions stay float. NVIDIA's "Working with Quantized Types"
            advises this: a pair of quantizers between the two would tear them apart.
    """

    name: str
    activations: Literal["asymmetric", "symmetric"]
    outputs: bool
    operators: frozenset[str]
    moves: frozenset[str]
    signed_only: bool = False
    int8_for_matmul_only: bool = False
    optional_outputs: frozenset[str] = frozenset()
    carries: frozenset[str] = frozenset()
    skewed: frozenset[str] = frozenset()
    bias_apart: bool = False
    own_gelu: bool = False
    own_lstm: bool = False
    dynamic: bool = False
    shift: frozenset[str] = frozenset()
    direct: bool = False
    dequantizes: bool = False
    free_multiplications: bool = False
    fuses_adds: bool = False


ONNXRUNTIME = Scheme(
    "onnxruntime",
    activations="asymmetric",
    outputs=True,
    bias_apart=True,
    own_gelu=True,
    own_lstm=True,
    dynamic=True,
    direct=True,
    shift=frozenset({"Conv"}),
    optional_outputs=frozenset({"MatMul", "Gemm"}),
    operators=PRODUCTS
    | {"Add", "Mul", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Concat", "LSTM"},
    moves=MOVES - {"Concat", "Pad", "Tile", "Expand", "DepthToSpace", "SpaceToDepth"},
)
OPENVINO = Scheme(
    "openvino",
    activations="symmetric",
    int8_for_matmul_only=True,
    free_multiplications=True,
    outputs=False,
    carries=frozenset(
        {"Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
    ),
    operators=PRODUCTS
    | {"ConvTranspose", "Add", "Mul", "AveragePool", "GlobalAveragePool", "Concat", "LSTM", "GRU"},
    moves=MOVES,
)
ONNXRUNTIME_SIGNED = replace(
    ONNXRUNTIME, name="onnxruntime, signed", activations="symmetric", signed_only=True
)
OPENVINO_SKEWED = replace(
    OPENVINO,
    name="openvino, skewed",
    skewed=frozenset({"Conv", "ConvTranspose", "Add", "Mul", "AveragePool", "GlobalAveragePool"}),
)
TENSORRT = Scheme(
    "tensorrt",
    activations="symmetric",
    signed_only=True,
    dequantizes=True,
    fuses_adds=True,
    outputs=False,
    operators=PRODUCTS | {"ConvTranspose", "Add", "AveragePool", "GlobalAveragePool"},
    moves=MOVES,
)
# Its CUDA provider has no int8 kernels of convolutions and products: weights may be stored so.
ONNXRUNTIME_CUDA = replace(
    TENSORRT, name="onnxruntime-cuda", operators=frozenset(), fuses_adds=False
)


@dataclass(frozen=True)
class Processor:
    """A kind of processor that may not be at hand.

    Attributes:
        isa: of `edgedl doctor`'s instruction sets, those that decide what int8 kernels answer.
        cap: the value of `ONEDNN_MAX_CPU_ISA` with which OpenVINO runs here as it does there; None
            where no x86 processor can.
    """

    name: str
    architecture: str
    isa: tuple[str, ...]
    cap: str | None
    about: str

    def machine(self) -> dict[str, Any]:
        """What of `doctor()["machine"]` it is, as far as answers hang on it."""
        return {
            "processor": self.name,
            "architecture": self.architecture,
            "isa": list(self.isa),
            "isa_cap": None,
        }

    def can_run_on(self, isa: Collection[str]) -> bool:
        """Whether OpenVINO, under the cap, runs on a processor of these sets as it does there."""
        return self.cap is not None and set(self.isa) <= set(isa)


PROCESSORS: Mapping[str, Processor] = {
    one.name: one
    for one in (
        Processor("x86-avx2", "x86_64", ("avx2",), "AVX2", "x86 before VNNI, such as Haswell"),
        Processor(
            "x86-avx2-vnni", "x86_64", ("avx2", "avx_vnni"), "AVX2_VNNI", "Intel N100, Core Ultra"
        ),
        Processor(
            "x86-avx512-vnni", "x86_64", ("avx2", "avx512f", "avx512_vnni"), "AVX512_CORE_VNNI",
            "servers and laptops since 2019, without AMX",
        ),
        Processor("arm64-dotprod", "aarch64", ("asimddp",), None, "Cortex-A76 and later"),
        Processor("arm64-nodot", "aarch64", (), None, "Cortex-A53, A72: a Raspberry Pi 4"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A named kind of device: the engines that run there, the best guess first; and what a machine
    must have for them beside their packages, empty where that is nothing."""

    name: str
    engines: tuple[str, ...]
    about: str
    needs: str = ""


TARGETS: Mapping[str, Target] = {
    "cpu": Target(
        "cpu", ("openvino", "onnxruntime"), "the fastest CPU engine that is installed, by measuring"
    ),
    **{name: Target(name, (name,), one.about, one.needs) for name, one in LISTED.items()},
    **{
        one.name: Target(
            one.name,
            ("onnxruntime",) if one.cap is None else ("openvino", "onnxruntime"),
            f"{one.about}; its answers are foretold here",
        )
        for one in PROCESSORS.values()
    },
}
SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        ONNXRUNTIME,
        OPENVINO,
        TENSORRT,
        ONNXRUNTIME_SIGNED,
        OPENVINO_SKEWED,
        ONNXRUNTIME_CUDA,
    )
}
# Engines that a plan may be for: those with a scheme of their name that computes in int8.
PLANNED_ENGINES = tuple(name for name in LISTED if name in SCHEMES and SCHEMES[name].operators)


def target_of(name: str) -> Target:
    """The target of this name.

    Raises:
        BadOption: there is none; the hint says the nearest one.
    """
    if name not in TARGETS:
        raise BadOption(f"unknown target `{name}`", hint=nearest(name, TARGETS))
    return TARGETS[name]
