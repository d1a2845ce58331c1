"""TensorRT and TensorRT-RTX as engines of this toolkit: ONNX in, built once here, answers out.

No line of it has run on a GPU yet; builds ahead of time run in tests, all else against fakes.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.core.errors import EdgeError
from edgedl.core.fields import to_plain
from edgedl.core.progress import Progress, silent
from edgedl.core.store import Store, atomic_write, default_root, key_of
from edgedl.runtime import Standing
from edgedl.runtime.gpu import fast_floats
from edgedl.runtime.meanwhile import Meanwhile
from edgedl.runtime.session import EngineSession, Operator
from edgedl.runtime.tensorrt.apart import (
    BUILD,
    BUILD_LIMIT_SECONDS,
    OPEN_ONCE,
    TRIAL_LIMIT_SECONDS,
    Task,
    done_apart,
)
from edgedl.runtime.tensorrt.build import module
from edgedl.runtime.tensorrt.contexts import Running
from edgedl.runtime.tensorrt.cuda import Cuda, cuda, version_text
from edgedl.runtime.tensorrt.engines import PLAN, Engine, Engines, Fingerprint, Key, digest_of
from edgedl.runtime.tensorrt.inspection import operators_of
from edgedl.runtime.tensorrt.said import WrongPlan
from edgedl.runtime.tensorrt.session import TensorRtSession
from edgedl.runtime.tensorrt.settings import Build, build_of

LOGGER = logging.getLogger(__name__)
MOST_ENGINE_BYTES = 10 * 10**9
Model = bytes | str | Path


def _tell(line: str) -> None:
    LOGGER.warning("%s", line)


def _pass(session: EngineSession) -> None:
    """Nothing is asked of it."""


@dataclass(frozen=True)
class TensorRtEngine:
    """One of the two libraries. Its engines are built in a child process, and kept.

    `settings["build"]` is how the engine is built, as `Build` has it; `settings["graphs"]` how
    many CUDA graphs are kept at most, `settings["device"]` the GPU's number, and
    `settings["streamed_bytes"]` what of streamed weights stays on it. `threads` is not used.

    Attributes:
        name: `tensorrt` or `tensorrt_rtx`, as the library's module is called.
        library: that module.
        find_cuda: the binding; raises Unsupported where there is no GPU.
        progress: is told how a build goes on.
        notice: is told in a line why an engine is built.
        store: where engines are kept; `engines` in the user's store where None.
        build_work, trial_work: what builds and tries in the child process.
    """

    name: str
    library: Any
    find_cuda: Callable[[], Cuda] = cuda
    progress: Progress = silent
    notice: Callable[[str], None] = _tell
    store: Store | None = None
    build_work: str = BUILD
    trial_work: str = OPEN_ONCE
    build_limit_seconds: float = BUILD_LIMIT_SECONDS
    clock: Callable[[], float] = time.monotonic

    on_gpu = True

    @property
    def version(self) -> str:
        """The library's."""
        return str(self.library.__version__)

    def precisions(self) -> tuple[str, ...]:
        """By the GPU's compute capability; `float32` alone where there is none."""
        try:
            return ("float32", *fast_floats(self.find_cuda().device(0).capability))
        except EdgeError:
            return ("float32",)

    def ready(self) -> None:
        """Look whether there is a GPU that CUDA can use.

        Raises:
            Unsupported: there is no driver, no GPU, or the driver is too old.
        """
        self.find_cuda()

    def open_model(
        self, model: Model, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> TensorRtSession:
        """A session on an ONNX model, whose engine is built first where it is not kept.

        Raises:
            Unsupported: there is no driver, no GPU, or the driver is too old. EngineFailed: the
                library refuses the model, or the build crashed; in words.
        """
        return self._opened(model, settings, None)

    def open_meanwhile(
        self,
        model: Model,
        first: EngineSession,
        *,
        settings: Mapping[str, Any],
        check: Callable[[EngineSession], object] = _pass,
    ) -> Meanwhile:
        """`edgedl.runtime.Builder.open_meanwhile`: a session that answers with `first` until the
        engine is built, opened and checked.

        The build goes on in a thread and a child process of its own, and ends with the session.

        Raises:
            Unsupported: there is no GPU that could ever take over.
        """
        self.find_cuda()
        later: Future[EngineSession] = Future()
        cancelled = threading.Event()

        def work() -> None:
            if not later.set_running_or_notify_cancel():
                return
            try:
                session = self._opened(model, settings, cancelled)
                try:
                    check(session)
                except BaseException:
                    session.close()
                    raise
                later.set_result(session)
            except BaseException as error:
                later.set_exception(error)

        made = Meanwhile(first, later, cancel=cancelled.set)
        threading.Thread(target=work, name="edgedl-tensorrt", daemon=True).start()
        return made

    def operators(
        self,
        model: Model,
        feed: Mapping[str, np.ndarray],
        *,
        settings: Mapping[str, Any],
        threads: int | None = None,
        runs: int = 1,
    ) -> list[Operator]:
        """By the library's inspector, of an engine that is built in detail; conversions of type or
        format have the precision `conversion`. More `runs` than one are timed after a warm-up, by
        the library's profiler: each layer's median."""
        with self._opened(model, settings, None, detailed=True) as session:
            return operators_of(self.library, session, feed, runs)

    def prepare(
        self,
        model: Model,
        *,
        settings: Mapping[str, Any],
        cancelled: threading.Event | None = None,
        detailed: bool = False,
    ) -> Engine:
        """The engine of a model, built and tried in child processes where it is not kept.

        Raises:
            Unsupported, EngineFailed: as `open_model`.
        """
        build = build_of(settings.get("build", {}))
        key = self._key(model, build, settings, detailed)
        return self._engines().find(
            key,
            lambda folder: self._make(folder, model, build, key, settings, cancelled, detailed),
            notice=self.notice,
            what=f"the {self.name} engine",
        )

    def stand(
        self,
        model: Model,
        *,
        settings: Mapping[str, Any],
        progress: Progress,
        notice: Callable[[str], None],
    ) -> Standing:
        """`edgedl.runtime.Builder.stand`: the engine is built, and opened once, in child processes.

        Raises:
            Unsupported, EngineFailed: as `open_model`.
        """
        told: list[str] = []

        def tell(line: str) -> None:
            told.append(line)
            notice(line)

        found = replace(self, progress=progress, notice=tell).prepare(model, settings=settings)
        key = self._key(model, build_of(settings.get("build", {})), settings, False)
        return Standing(bool(told), found.seconds, len(found.plan), self._engines().place(key))

    def _opened(
        self,
        model: Model,
        settings: Mapping[str, Any],
        cancelled: threading.Event | None,
        *,
        detailed: bool = False,
    ) -> TensorRtSession:
        found = self.prepare(model, settings=settings, cancelled=cancelled, detailed=detailed)
        try:
            return self._session(found, settings, detailed)
        except WrongPlan as error:
            # the file is whole, and yet this library does not take it: it is built once more
            self.notice(f"the kept {self.name} engine does not open: {error.message}")
        build = build_of(settings.get("build", {}))
        self._engines().forget(self._key(model, build, settings, detailed))
        found = self.prepare(model, settings=settings, cancelled=cancelled, detailed=detailed)
        return self._session(found, settings, detailed)

    def _session(
        self, found: Engine, settings: Mapping[str, Any], detailed: bool
    ) -> TensorRtSession:
        running = replace(
            Running(**self._running(settings)),
            graphs=settings.get("graphs", Running.graphs),
            cache=found.kernels,
            profiled=detailed,
        )
        return TensorRtSession(self.library, self.find_cuda(), found.plan, running)

    def _running(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What of `Running` a trial needs, too, as plain values."""
        build = build_of(settings.get("build", {}))
        return {
            "device": settings.get("device", 0),
            "host_code": build.version_compatible,
            "dla_core": build.dla_core,
            "streamed_bytes": settings.get("streamed_bytes"),
        }

    def _engines(self) -> Engines:
        store = self.store or Store(default_root() / "engines", MOST_ENGINE_BYTES)
        return Engines(store, self.clock)

    def _key(self, model: Model, build: Build, settings: Mapping[str, Any], detailed: bool) -> Key:
        source = model if isinstance(model, bytes) else Path(model)
        document = build.to_json() | ({"detailed": True} if detailed else {})
        return Key(digest_of(source), document, self.fingerprint(settings.get("device", 0)))

    def fingerprint(self, device: int = 0) -> Fingerprint:
        """What this machine's engines are bound to.

        Raises:
            Unsupported: there is no GPU.
        """
        found = self.find_cuda()
        gpu = found.device(device)
        return Fingerprint(
            self.name,
            self.version,
            gpu.name,
            f"{gpu.capability[0]}.{gpu.capability[1]}",
            version_text(found.driver_version()),
        )

    def _make(
        self,
        folder: Path,
        model: Model,
        build: Build,
        key: Key,
        settings: Mapping[str, Any],
        cancelled: threading.Event | None,
        detailed: bool,
    ) -> None:
        """Build into a folder of the store, and open the result once before it is kept."""
        work = folder / "work"
        work.mkdir()
        if isinstance(model, bytes):
            (work / "model.onnx").write_bytes(model)
        timing = self._timing(key.fingerprint)
        if timing.exists():
            (work / "timing").write_bytes(timing.read_bytes())
        what = {
            "engine": self.name,
            "model": None if isinstance(model, bytes) else str(Path(model).resolve()),
            "build": to_plain(build),
            "detailed": detailed,
        }
        task = Task("building the engine", self.build_work, what, self.build_limit_seconds)
        done_apart(task, work, progress=self.progress, cancelled=cancelled)
        trial = {"engine": self.name, "running": self._running(settings)}
        task = Task("trying the new engine", self.trial_work, trial, TRIAL_LIMIT_SECONDS)
        done_apart(task, work, progress=self.progress, cancelled=cancelled)
        if (work / "timing").exists():
            timing.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(timing) as place:
                place.write_bytes((work / "timing").read_bytes())
        (work / PLAN).rename(folder / PLAN)
        shutil.rmtree(work)

    def _timing(self, fingerprint: Fingerprint) -> Path:
        """The file of what builders measured on this machine, which makes further builds faster."""
        name = key_of(kind="tensorrt timing", fingerprint=to_plain(fingerprint))
        return self._engines().store.root / "timing" / name


@cache
def _engine(name: str) -> TensorRtEngine:
    return TensorRtEngine(name, module(name))


def __getattr__(name: str) -> Any:
    """`ENGINE` and `ENGINE_RTX`, whose library is loaded when one of them is asked for.

    Raises:
        Missing: it is not installed; the hint says how to get it.
    """
    names = {"ENGINE": "tensorrt", "ENGINE_RTX": "tensorrt_rtx"}
    if name not in names:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return _engine(names[name])
