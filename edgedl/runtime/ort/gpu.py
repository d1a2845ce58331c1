"""onnxruntime on an NVIDIA GPU, by its CUDA and its TensorRT execution provider.

onnxruntime opens a model on the processor, and says so in a log alone, where a provider does not
start; here that is an error that names the library that is missing. No line of it has run on a GPU
yet: what is known of a GPU's part was read in onnxruntime's sources and documentation, and all that
does not need one was tried on onnxruntime and onnxruntime-gpu 1.31.1 without CUDA.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edgedl.core.engines import install_of
from edgedl.core.errors import EdgeError, EngineFailed, Missing, Unsupported
from edgedl.core.fields import to_plain
from edgedl.core.store import Store, default_root, key_of
from edgedl.runtime.gpu import fast_floats
from edgedl.runtime.ort.gpu_session import OrtGpuSession
from edgedl.runtime.ort.profile import PROCESSOR, profiled, profiling
from edgedl.runtime.ort.said import failed, no_provider
from edgedl.runtime.ort.session import session_options, signature_of
from edgedl.runtime.ort.settings import (
    Running,
    check_shapes,
    cuda_options,
    running_of,
    tensorrt_options,
)
from edgedl.runtime.ort.types import types_in
from edgedl.runtime.ort.wires import Place
from edgedl.runtime.session import Operator
from edgedl.runtime.tensorrt.apart import Task, done_apart
from edgedl.runtime.tensorrt.cuda import Cuda, cuda

Model = bytes | str | Path
CUDA_PROVIDER, TENSORRT_PROVIDER = "CUDAExecutionProvider", "TensorrtExecutionProvider"
# What it raises of TensorRT; of CUDA it raises nothing.
NOT_LOADED = "Please install TensorRT libraries"
KEEP_PLACES = "session.record_ep_graph_assignment_info"
OPEN, PROFILE = "edgedl.runtime.ort.child:open_once", "edgedl.runtime.ort.child:profile"
TRIAL_LIMIT_SECONDS, BUILD_LIMIT_SECONDS = 120.0, 3600.0
MOST_KEPT_BYTES = 10 * 10**9
DRIVER = Path("/proc/driver/nvidia/version")
# y = x @ x of 4 x 4 in float32, ONNX opset 18.
_OF_THIS_PROCESS: dict[str, tempfile.TemporaryDirectory[str]] = {}
TINY = bytes.fromhex(
    "08093a400a110a01780a017812017922064d61744d756c1201675a130a0178120e0a0c080112080a0208040a020804"
    "62130a0179120e0a0c080112080a0208040a02080442040a001012"
)


@dataclass(frozen=True)
class OrtGpuEngine:
    """One of the two providers. `settings` are those of `edgedl.runtime.ort.settings.Running`.

    The first time on a machine, a child process opens a tiny model, so that a library or a driver
    that crashes takes no application down. TensorRT's engines are built in a child process, too,
    and kept. `threads` is for operators that fall to the processor.

    Attributes:
        provider: onnxruntime's name for it.
        place: where onnxruntime says that its tensors lie.
        ort: onnxruntime's module.
        find_cuda: the binding; raises Unsupported where there is no GPU.
        store: where engines are kept; `onnxruntime` in the user's store where None.
        open_work, profile_work: what opens and profiles in a child process.
    """

    name: str
    provider: str
    place: str = "cuda"
    ort: Any = onnxruntime
    find_cuda: Callable[[], Cuda] = cuda
    store: Store | None = None
    open_work: str = OPEN
    profile_work: str = PROFILE

    on_gpu = True

    @property
    def version(self) -> str:
        """onnxruntime's."""
        return str(self.ort.__version__)

    @property
    def _builds(self) -> bool:
        return self.name == "onnxruntime-tensorrt"

    def precisions(self) -> tuple[str, ...]:
        """By the GPU's compute capability; `float32` alone where there is none."""
        try:
            return ("float32", *fast_floats(self.find_cuda().device(0).capability))
        except EdgeError:
            return ("float32",)

    def ready(self, device: int = 0) -> None:
        """Look whether the provider starts here, in a child process the first time.

        Raises:
            Missing: this onnxruntime was built without it. Unsupported: a library or the GPU is
                missing; the hint says which. EngineFailed: it crashes.
        """
        if self.provider not in self.ort.get_available_providers():
            raise Missing(
                f"this onnxruntime {self.version} was built without its {self.provider}",
                hint=install_of(self.name),
            )
        key = key_of(
            kind="onnxruntime provider",
            engine=[self.name, self.version, str(self.ort.__file__), device],
            machine=[_text(DRIVER), os.environ.get("LD_LIBRARY_PATH", ""), sys.version],
            cuda=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        )
        self._kept(key, partial(self._try, TINY, {"device": device}, TRIAL_LIMIT_SECONDS))

    def open_model(
        self, model: Model, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> OrtGpuSession:
        """A session on an ONNX model, for which TensorRT's engine is built first where it is not
        kept.

        Raises:
            Missing, Unsupported: as `ready`. BadOption: a graph or a profile does not fit the
                model. EngineFailed: onnxruntime refuses it, or no operator of it runs on the GPU.
        """
        running = running_of(settings)
        self.ready(running.device)
        cache = self.prepare(model, settings) if self._builds else None
        try:
            return self.open_here(model, settings, cache, threads)
        except EngineFailed as error:
            if cache is None or "kept TensorRT engine" not in error.message:
                raise
        # of another TensorRT, under the same onnxruntime
        shutil.rmtree(cache, ignore_errors=True)
        return self.open_here(model, settings, self.prepare(model, settings), threads)

    def prepare(self, model: Model, settings: Mapping[str, Any]) -> Path:
        """The folder of a model's TensorRT engines, built in a child process where they are not
        kept.

        Raises:
            EdgeError: as `open_model`.
        """
        running = running_of(settings)
        key = key_of(
            kind="onnxruntime tensorrt",
            model=_digest(model),
            # after which onnxruntime calls the engines' files
            file="" if isinstance(model, bytes) else Path(model).name,
            running=to_plain(running),
            machine=[self.version, _text(DRIVER), self._gpu(running.device)],
        )
        build = partial(self._try, model, dict(settings), BUILD_LIMIT_SECONDS)
        return self._kept(key, build)

    def open_here(
        self,
        model: Model,
        settings: Mapping[str, Any],
        cache: Path | None,
        threads: int | None = None,
    ) -> OrtGpuSession:
        """A session that this process opens, whatever may become of it.

        Args:
            cache: the folder of TensorRT's engines.

        Raises:
            EdgeError: as `open_model`.
        """
        running = running_of(settings)
        engine = self._inference(model, running, cache, session_options(threads))
        note = self._note(engine)
        place = Place(self.place, running.device)
        check_shapes(running, signature_of(engine))
        return OrtGpuSession(engine, place, graph=running.graph, note=note)

    def operators(
        self,
        model: Model,
        feed: Mapping[str, np.ndarray],
        *,
        settings: Mapping[str, Any],
        threads: int | None = None,
        runs: int = 1,
    ) -> list[Operator]:
        """By onnxruntime's profile, in a child process that waits for each kernel, so that times
        are those of the work and not of its launch. What fell to the processor is a fallback whose
        kind says so, and copies to it and back are conversions.

        TensorRT's kernels stand for many operators, and onnxruntime does not tell in what they
        compute: they have the lowest precision that the graph has.
        """
        running = running_of(settings)
        self.ready(running.device)
        cache = self.prepare(model, settings) if self._builds else None
        with tempfile.TemporaryDirectory(prefix="edgedl-profile-") as name:
            folder = Path(name)
            np.savez(folder / "feed.npz", **dict(feed))  # type: ignore[arg-type]
            job = {**self._job(folder, model, settings), "threads": threads, "runs": runs}
            job["cache"] = None if cache is None else str(cache)
            task = Task("profiling", self.profile_work, job, BUILD_LIMIT_SECONDS)
            told = done_apart(task, folder)["operators"]
        return [replace(Operator(**one), layers=tuple(one["layers"])) for one in told]

    def profile_here(
        self,
        model: Model,
        feed: Mapping[str, np.ndarray],
        settings: Mapping[str, Any],
        cache: Path | None,
        threads: int | None,
        runs: int,
    ) -> list[Operator]:
        """`operators`, in this process."""
        running = running_of(settings)

        def opened(prefix: str) -> Any:
            options = profiling(session_options(threads), prefix)
            return self._inference(model, replace(running, graph=False), cache, options)

        found = profiled(opened, feed, runs, on_gpu=True)
        types = types_in(model)
        lowest = next((t for t in ("int8", "float16", "bf16") if t in types), "float32")
        return [
            replace(one, precision=lowest) if one.kind.startswith("TRTKernel") else one
            for one in found
        ]

    def _inference(self, model: Model, running: Running, cache: Path | None, options: Any) -> Any:
        """An `InferenceSession` that has the provider, on which something of the model runs.

        Raises:
            Unsupported: onnxruntime fell back to another. EngineFailed: it refuses the model.
        """
        preload(self.ort)
        options.add_session_config_entry(KEEP_PLACES, "1")
        source = str(model) if isinstance(model, Path) else model
        try:
            engine = self.ort.InferenceSession(
                source,
                options,
                providers=self._providers(model, running, cache),
                enable_fallback=0,
            )
        except Exception as error:
            if NOT_LOADED in str(error):
                raise no_provider(self.provider, [str(error)], self.version) from error
            raise failed(error, "onnxruntime refuses the model") from error
        started = engine.get_providers()
        if not started or started[0] != self.provider:
            said = f"onnxruntime took {', '.join(started) or 'nothing'} in its place"
            raise no_provider(self.provider, [said], self.version)
        return engine

    def _providers(self, model: Model, running: Running, cache: Path | None) -> list[Any]:
        others = [] if self.provider == PROCESSOR else [PROCESSOR]
        cuda = cuda_options(running)
        here = self.ort.get_available_providers()
        if not self._builds or cache is None:
            return [(self.provider, cuda), *others]
        timing = self._store().root / "timing"
        with contextlib.suppress(OSError):
            timing.mkdir(parents=True, exist_ok=True)
        own = tensorrt_options(running, types_in(model), self.version, cache, timing)
        behind = [(CUDA_PROVIDER, uncaptured(cuda))] if CUDA_PROVIDER in here else []
        return [(self.provider, own), *behind, *others]

    def _note(self, engine: Any) -> str | None:
        """How much of the model the processor computes, as far as this onnxruntime tells.

        Raises:
            EngineFailed: all of it.
        """
        tell = getattr(engine, "get_provider_graph_assignment_info", None)
        if tell is None or self.provider == PROCESSOR:
            return None
        nodes = [(part.ep_name, node.op_type) for part in tell() for node in part.get_nodes()]
        kinds = Counter(kind for name, kind in nodes if name == PROCESSOR)
        left = sum(kinds.values())
        if not left:
            return None
        most = ", ".join(kind for kind, _ in kinds.most_common(3))
        if left == len(nodes):
            raise EngineFailed(
                f"not one of its {left} operators runs on the GPU ({most})",
                hint="`--target cpu` computes them faster than onnxruntime does here",
            )
        return (
            f"{left} of {len(nodes)} operators run on the processor ({most}): each may cost copies"
        )

    def _try(self, model: Model, settings: Mapping[str, Any], limit: float, folder: Path) -> None:
        """Open a model in a child process, whose engines stay in the folder.

        Raises:
            EdgeError: it does not open there, or crashes; in words.
        """
        with tempfile.TemporaryDirectory(prefix="edgedl-open-") as name:
            work = Path(name)
            job = {**self._job(work, model, settings), "cache": str(folder)}
            task = Task("opening the model on the GPU", self.open_work, job, limit)
            try:
                done_apart(task, work)
            except Unsupported as error:
                said = (work / "said").read_text(errors="replace").splitlines()
                raise no_provider(self.provider, [*said, error.message], self.version) from error
        (folder / "opened.json").write_text(json.dumps({"engine": self.name}))

    def _job(self, work: Path, model: Model, settings: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(model, bytes):
            (work / "model.onnx").write_bytes(model)
        return {
            "engine": [self.name, self.provider, self.place],
            "model": None if isinstance(model, bytes) else str(Path(model).resolve()),
            "settings": dict(settings),
            "store": str(self._store().root),
        }

    def _kept(self, key: str, build: Callable[[Path], None]) -> Path:
        """A folder of the store; where that cannot be written, one of this process."""
        if key in _OF_THIS_PROCESS:
            return Path(_OF_THIS_PROCESS[key].name)
        store = self._store()
        try:
            return store.make(key, build)
        except EdgeError as error:
            if error.where != str(store.root):
                raise
        folder = tempfile.TemporaryDirectory(prefix="edgedl-onnxruntime-")
        build(Path(folder.name))
        _OF_THIS_PROCESS[key] = folder
        return Path(folder.name)

    def _store(self) -> Store:
        return self.store or Store(default_root() / "onnxruntime", MOST_KEPT_BYTES)

    def _gpu(self, device: int) -> str:
        try:
            found = self.find_cuda().device(device)
        except EdgeError:
            return ""
        return f"{found.name} {found.capability}"


def uncaptured(options: Mapping[str, str]) -> dict[str, str]:
    """The CUDA provider's options behind TensorRT, where no graph is captured twice."""
    return {name: value for name, value in options.items() if name != "enable_cuda_graph"}


def preload(ort: Any) -> None:
    """Load CUDA and cuDNN from packages of NVIDIA's, where this onnxruntime does that; what it
    prints goes to stderr."""
    load = getattr(ort, "preload_dlls", None)
    if load is not None:
        with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(Exception):
            load()


def _digest(model: Model) -> str:
    from edgedl.runtime.tensorrt.engines import digest_of

    return digest_of(model if isinstance(model, bytes) else Path(model))


def _text(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


CUDA = OrtGpuEngine("onnxruntime-cuda", CUDA_PROVIDER)
TENSORRT = OrtGpuEngine("onnxruntime-tensorrt", TENSORRT_PROVIDER)
