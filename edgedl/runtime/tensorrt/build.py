"""Engines built from ONNX by TensorRT's own parser and builder, one code path from 10.3 to 11.4."""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edgedl.core.engines import LISTED, install_of
from edgedl.core.errors import BadModel, EngineFailed, Missing, Unsupported, nearest
from edgedl.core.progress import Progress, silent
from edgedl.core.registry import installed
from edgedl.runtime.tensorrt.layers import Layer, layers_of
from edgedl.runtime.tensorrt.refusals import Refused, refused_operators, tidy
from edgedl.runtime.tensorrt.settings import Bounds, Build, check_profiles

NAMES = ("tensorrt", "tensorrt_rtx")
HARDWARE = {
    "same_compute_capability": "SAME_COMPUTE_CAPABILITY",
    "ampere_plus": "AMPERE_PLUS",
}
MOST_LINES = 40
LOGGERS: dict[str, Any] = {}
# By words of the builder's errors, in lower case: what to do.
WAYS_OUT = {
    "fp32 gemm is not supported": "this GPU wants half precision: `edgedl compress MODEL --fp16"
    " --target tensorrt`",
    "within workspace limit": "give a larger `workspace_bytes`, or leave it out",
    "out of memory": "close other programs, or give a smaller `workspace_bytes`",
    "insufficient memory": "close other programs, or give a smaller `workspace_bytes`",
    "libnvinfer_lean": "leave `version_compatible` out: this library cannot write such plans",
    "cuda_success": "leave `refit` out, or build on a machine with a GPU",
    "fp8": "fp8 wants compute capability 8.9 (Ada, Hopper) or later; int8 runs everywhere",
}


def module(name: str | None = None) -> ModuleType:
    """The library of this name, or `tensorrt`, and else `tensorrt_rtx`, where none is named.

    Raises:
        Missing: it is not installed, or does not load; the hint says how to get it.
    """
    wanted = NAMES if name is None else (name,)
    here = next((one for one in wanted if installed(one)), None)
    if here is None:
        raise Missing(
            f"building needs {' or '.join(f'`{one}`' for one in wanted)}, which is not installed",
            hint="; or ".join(
                install_of(one) if one in LISTED else f"known: {', '.join(NAMES)}" for one in wanted
            ),
        )
    try:
        return importlib.import_module(here)
    except (ImportError, OSError, RuntimeError) as error:
        raise Missing(
            f"`{here}` is installed, but does not load ({error})", hint=install_of(here)
        ) from error


def is_rtx(library: ModuleType) -> bool:
    """Whether it is TensorRT-RTX, which builds ahead of time and ends the work at the first use."""
    return library.__name__ == "tensorrt_rtx"


def label(library: ModuleType) -> str:
    """The library's name and version, for messages."""
    return f"TensorRT{'-RTX' * is_rtx(library)} {library.__version__}"


def ahead_of_time(library: ModuleType) -> tuple[str, ...]:
    """The compute capabilities that the library builds for without such a GPU, as `SM86`; none
    where it builds for the GPU of its machine alone."""
    known = getattr(getattr(library, "ComputeCapability", None), "__members__", {})
    return tuple(name for name in known if name.startswith("SM"))


@dataclass(frozen=True, eq=False)
class Parsed:
    """A network that the parser has read, and all that has to live as long as it does."""

    library: ModuleType
    said: Said
    builder: Any
    network: Any
    parser: Any

    def inputs(self) -> dict[str, tuple[int, ...]]:
        """By input, its shape, -1 for a dynamic axis; of a shape tensor, as many -1 as values."""
        found = {}
        for number in range(self.network.num_inputs):
            tensor = self.network.get_input(number)
            shape = tuple(tensor.shape)
            if tensor.is_shape_tensor:
                shape = (-1,) * (shape[0] if shape else 1)
            found[tensor.name] = shape
        return found


@dataclass(frozen=True, eq=False)
class Built:
    """An engine as bytes.

    Attributes:
        plan: the serialized engine.
        timing_cache: what the builder measured, for the next build; None where it keeps none.
        warnings: what the builder said at warning level and above.
        layers: what the engine consists of, where that was asked for.
    """

    plan: bytes
    timing_cache: bytes | None
    warnings: tuple[str, ...]
    layers: tuple[Layer, ...] = ()


def parsed(
    model: bytes | str | Path, *, library: ModuleType | None = None, verbose: bool = False
) -> Parsed:
    """A strongly typed network: every precision is what the ONNX file says.

    Args:
        model: an ONNX file's bytes, or its path, beside which its external data lies.
        verbose: keep everything that the builder will say, which costs time.

    Raises:
        Refused: the parser takes the file not, or not all of its operators. BadModel: there is no
            such file. Missing: no library.
    """
    library = library or module()
    if not isinstance(model, bytes) and not Path(model).is_file():
        raise BadModel("no such file", where=str(model), hint="give the path of an ONNX file")
    said = Said(verbose)
    log = _logger(library, said)
    builder = library.Builder(log)
    typed = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = library.OnnxParser(network, log)
    read = isinstance(model, bytes)
    if not (parser.parse(model) if read else parser.parse_from_file(str(model))):
        raise Refused(label(library), refused_operators(parser))
    return Parsed(library, said, builder, network, parser)


def takes(model: bytes, *, library: ModuleType | None = None) -> bool:
    """Whether the parser has a layer for every node, as far as it tells without building."""
    library = library or module()
    log = _logger(library, Said(False))
    builder = library.Builder(log)
    # The network has to outlive the parser's question.
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    return bool(library.OnnxParser(network, log).supports_model_v2(model))


def built(
    model: bytes | str | Path,
    build: Build | None = None,
    *,
    library: ModuleType | None = None,
    timing_cache: bytes | None = None,
    progress: Progress = silent,
    layers: bool = False,
) -> Built:
    """The engine of an ONNX file, for the GPU of this machine, or for those that the build names.

    Args:
        timing_cache: what an earlier build gave; one that does not fit is left out.
        progress: is told of the builder's own phases and steps.
        layers: tell what the engine consists of; the build says more then, and takes longer.

    Raises:
        Refused: the parser takes an operator not. EngineFailed: the builder gives up; its own words
            are in the message. Unsupported: the library has not what the build asks for.
        BadOption: profiles do not fit the model. Missing: no library.
    """
    build = build or Build()
    found = parsed(model, library=library, verbose=layers)
    check_profiles(build, found.inputs())
    config = configured(found, build)
    if layers:
        config.profiling_verbosity = found.library.ProfilingVerbosity.DETAILED
    # TensorRT-RTX times nothing before the first use.
    cache = None if is_rtx(found.library) else timing_cache_of(config, timing_cache)
    config.progress_monitor = _monitor(found.library, progress)
    plan = found.builder.build_serialized_network(found.network, config)
    if plan is None:
        raise EngineFailed(
            f"{label(found.library)} cannot build the model: {_said(found.said)}",
            hint=_way_out(found.said.lines),
        )
    return Built(
        bytes(plan),
        bytes(cache.serialize()) if cache is not None else None,
        tuple(found.said.lines),
        layers_of(found.said.told) if layers else (),
    )


def configured(found: Parsed, build: Build) -> Any:
    """The builder's configuration.

    Raises:
        Unsupported: this library has not what the build asks for, or knows no such GPU.
    """
    library, config = found.library, found.builder.create_builder_config()
    if build.workspace_bytes is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, build.workspace_bytes)
    for wanted, name in (
        (build.version_compatible, "VERSION_COMPATIBLE"),
        (build.weight_streaming, "WEIGHT_STREAMING"),
        (build.refit, "REFIT"),
        (build.sparse, "SPARSE_WEIGHTS"),
    ):
        if wanted:
            config.set_flag(_member(library, "BuilderFlag", name))
    if build.hardware != "same":
        if is_rtx(library):
            raise Unsupported(
                f"{label(library)} knows no hardware compatibility",
                hint="name the GPUs in `compute_capabilities`, such as SM86",
            )
        level = _member(library, "HardwareCompatibilityLevel", HARDWARE[build.hardware])
        config.hardware_compatibility_level = level
    if build.optimization_level is not None:
        config.builder_optimization_level = build.optimization_level
    if build.tiling is not None:
        level = _member(library, "TilingOptimizationLevel", build.tiling.upper())
        config.tiling_optimization_level = level
    if build.dla_core is not None:
        _use_dla(found, config, build.dla_core)
    _set_capabilities(library, config, build.compute_capabilities)
    for profile in build.profiles:
        made = found.builder.create_optimization_profile()
        for bounds in profile.inputs:
            _set_bounds(found.network, made, bounds)
        config.add_optimization_profile(made)
    return config


def _set_bounds(network: Any, profile: Any, bounds: Bounds) -> None:
    inputs = (network.get_input(number) for number in range(network.num_inputs))
    tensor = next(one for one in inputs if one.name == bounds.input)
    give = profile.set_shape_input if tensor.is_shape_tensor else profile.set_shape
    give(bounds.input, bounds.least, bounds.usual, bounds.most)


def _use_dla(found: Parsed, config: Any, core: int) -> None:
    library, cores = found.library, found.builder.num_DLA_cores
    if core >= cores:
        raise Unsupported(
            f"DLA core {core} was asked for, and this machine has {cores or 'none'}",
            hint="leave `dla_core` out: the GPU computes everything then",
        )
    config.default_device_type = library.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(library.BuilderFlag.GPU_FALLBACK)


def _set_capabilities(library: ModuleType, config: Any, names: Sequence[str]) -> None:
    if not names:
        return
    if not hasattr(config, "num_compute_capabilities"):
        raise Unsupported(
            f"{label(library)} builds for the GPU of this machine alone",
            hint="leave `compute_capabilities` out, or build with TensorRT-RTX",
        )
    config.num_compute_capabilities = len(names)
    for number, name in enumerate(names):
        config.set_compute_capability(_member(library, "ComputeCapability", name), number)


def _member(library: ModuleType, kind: str, name: str) -> Any:
    """A value of one of the library's enumerations.

    Raises:
        Unsupported: this version has no such value.
    """
    values = getattr(library, kind, None)
    if not hasattr(values, name):
        known = sorted(getattr(values, "__members__", {}))
        raise Unsupported(f"{label(library)} has no {kind} `{name}`", hint=nearest(name, known))
    return getattr(values, name)


def timing_cache_of(config: Any, given: bytes | None) -> Any:
    """A timing cache that the build reads and fills; an empty one where the given does not fit."""
    for data in dict.fromkeys((given or b"", b"")):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _said(said: Said) -> str:
    """The builder's first error, or its first warning where it told no error, in words; each
    library's reason comes before what follows of it."""
    told = [line for line in (*said.errors, *said.lines) if line]
    return tidy(told[0]) if told else "it gives no reason"


def _way_out(lines: Sequence[str]) -> str:
    said = " ".join(lines).lower()
    found = (advice for word, advice in WAYS_OUT.items() if word in said)
    return next(
        found, "`--target cpu` runs the model without it; please report this with the model"
    )


class Said:
    """What one build was told: warnings and errors in `lines`, the latter in `errors`, too, and all
    else in `told` if `verbose`."""

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.told: list[str] = []

    def hear(self, serious: bool, message: str, *, error: bool = False) -> None:
        """Keep a message."""
        if error and len(self.errors) < MOST_LINES:
            self.errors.append(message)
        if serious and len(self.lines) < MOST_LINES and message not in self.lines:
            self.lines.append(message)
        elif not serious and self.verbose:
            self.told.append(message)


def _logger(library: ModuleType, said: Said) -> Any:
    """The library's one logger, which tells `said` as long as that lives.

    TensorRT keeps the first logger of a process for all that comes later, so it is never let go.
    """
    if library.__name__ not in LOGGERS:

        class Log(library.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                library.ILogger.__init__(self)
                self.hearers: weakref.WeakSet[Said] = weakref.WeakSet()

            def log(self, severity: Any, message: str) -> None:
                serious = severity <= library.ILogger.WARNING
                for hearer in list(self.hearers):
                    hearer.hear(serious, message, error=severity <= library.ILogger.ERROR)

        LOGGERS[library.__name__] = Log()
    logger = LOGGERS[library.__name__]
    logger.hearers.add(said)
    return logger


def _monitor(library: ModuleType, progress: Progress) -> Any:
    """A monitor of the library's that tells `progress` of phases and steps."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            progress(_phase(phase), 0, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            progress(_phase(phase), step + 1, self.steps.get(phase, step + 1))
            return True

        def phase_finish(self, phase: str) -> None:
            steps = self.steps.pop(phase, 1)
            progress(_phase(phase), steps, steps)

    return Monitor()


def _phase(name: str) -> str:
    return f"building: {name[:60].lower()}"
