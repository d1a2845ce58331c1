"""The device side: bundles and sessions on numpy and one engine, nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from edgedl.core.engines import LISTED, ON_GPU, install_of, package_of
from edgedl.core.errors import BadOption, Missing, nearest
from edgedl.core.progress import Progress
from edgedl.core.registry import how_to_install, installed, resolve
from edgedl.runtime.bundle import Bundle, open_bundle
from edgedl.runtime.gpu import PROVIDERS, nvidia_gpu_here, provider_here
from edgedl.runtime.session import EngineSession, Operator
from edgedl.runtime.sign.admit import TrustSource
from edgedl.runtime.sign.sealed import KeySource

if TYPE_CHECKING:
    from edgedl.runtime.meanwhile import Meanwhile
    from edgedl.runtime.opening import GoldenCheck, OpenedSession
    from edgedl.runtime.process import Processing

CACHE_VARIABLE = "EDGEDL_CACHE"
ENGINES = {name: one.runtime for name, one in LISTED.items()}


class Engine(Protocol):
    """What an engine's file offers.

    Attributes:
        name: as it is listed in `edgedl.core.engines`.
        version: of its package, such as `1.20.1`.
        on_gpu: whether its sessions run on a GPU.
    """

    name: str
    version: str
    on_gpu: bool

    def precisions(self) -> tuple[str, ...]:
        """Float precisions that are fast on this machine, `float32` first, then of `bf16` and
        `float16`."""

    def open_model(
        self, model: bytes | str | Path, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> EngineSession:
        """A session on an ONNX model, given as a path or as its bytes.

        Args:
            settings: plain JSON, what the engine's backend gives as `settings(precision)`; with
                none, all that is float in the model computes in float32.
            threads: processor threads for one call; the engine's own choice where None.

        Raises:
            EngineFailed: the engine refuses the model.
        """

    def operators(
        self,
        model: bytes | str | Path,
        feed: Mapping[str, np.ndarray],
        *,
        settings: Mapping[str, Any],
        threads: int | None = None,
        runs: int = 1,
    ) -> list[Operator]:
        """What one run of the model really executes, by the engine's own account, timed over
        `runs` of them where there are more than one: an `Operator` each, of names that differ.

        Args:
            feed: inputs by name, as `run` takes them.

        Raises:
            EngineFailed: the engine refuses the model.
        """


@runtime_checkable
class Compiler(Engine, Protocol):
    """An engine whose compiled form of a model can be kept, for this machine and version alone."""

    def open_and_compile(
        self, model: bytes, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> tuple[EngineSession, bytes]:
        """A session on an ONNX model, and what was compiled for it; empty where that cannot be
        kept.

        Raises:
            EngineFailed: the engine refuses the model. OSError: no room for a passing file.
        """

    def open_compiled(
        self, data: memoryview, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> EngineSession:
        """A session on what was compiled, which answers as the model does.

        Raises:
            EngineFailed: the engine refuses it.
        """


@dataclass(frozen=True)
class Standing:
    """An engine's own form of a model, as it is kept on this machine.

    Attributes:
        fresh: whether it was made now.
        seconds: what making it took, now or then.
        place: the folder that it is kept in.
    """

    fresh: bool
    seconds: float
    bytes: int
    place: Path


@runtime_checkable
class Builder(Engine, Protocol):
    """An engine that builds its own form of a model in a process of its own, and keeps it by
    itself."""

    def stand(
        self,
        model: bytes,
        *,
        settings: Mapping[str, Any],
        progress: Progress,
        notice: Callable[[str], None],
    ) -> Standing:
        """Have the form of a model kept here, built now where it is not.

        Args:
            notice: is told in a line why it is built, and how long that may take.

        Raises:
            Unsupported: this machine cannot. EngineFailed: the engine refuses the model.
        """


@runtime_checkable
class GivesWay(Engine, Protocol):
    """An engine that builds its own form of a model while another session answers."""

    def open_meanwhile(
        self,
        model: bytes,
        first: EngineSession,
        *,
        settings: Mapping[str, Any],
        check: Callable[[EngineSession], object],
    ) -> Meanwhile:
        """A session that answers with `first`, which belongs to it, until the engine's own form is
        built, opened and has passed `check`; where that raises, `first` goes on.

        Raises:
            Unsupported: this machine could never build it.
        """


def engine(name: str) -> Engine:
    """The engine of this name.

    Raises:
        BadOption: unknown. Missing: not installed; the hint says how to install it.
    """
    if name in PROVIDERS and not provider_here(name):
        raise Missing(
            f"engine `{name}` needs a provider that no onnxruntime here has", hint=install_of(name)
        )
    found: Engine = resolve(ENGINES, name, kind="engine", group="edgedl.engines")
    return found


def installed_engines() -> tuple[str, ...]:
    """The engines whose package is installed here, and whose GPU the system shows where they need
    one; found out without importing one."""
    absent = frozenset() if nvidia_gpu_here() else ON_GPU
    return tuple(name for name in ENGINES if name not in absent and _is_installed(name))


def _is_installed(name: str) -> bool:
    return provider_here(name) if name in PROVIDERS else installed(package_of(name))


def how_to_get(name: str) -> str:
    """What to do for an engine that cannot be used here: install it, or another machine."""
    if name in ON_GPU and not nvidia_gpu_here():
        return "it needs an NVIDIA GPU, and the system shows none"
    return install_of(name)


def any_engine() -> Engine:
    """An installed engine, onnxruntime where there is a choice.

    Raises:
        Missing: there is none.
    """
    names = installed_engines()
    if not names:
        raise Missing(
            "no engine is installed",
            hint=" or ".join(map(how_to_install, ("onnxruntime", "openvino"))),
        )
    return engine(names[0])


def processing(path: str | Path, *, trust: TrustSource | None = None) -> Processing | None:
    """What stands before and behind the network in the bundle at `path`; None where it does not
    say. `trust` is that of `open`.

    Raises:
        BadBundle: the file is damaged, is no bundle, or is of a later kind.
        Untrusted: no trusted key signed it, or what the signer said no longer holds.
    """
    return open_bundle(path, sparing=True, trust=trust).processing()


def open(  # noqa: A001
    path: str | Path,
    *,
    threads: int | None = None,
    engine_name: str | None = None,
    golden: GoldenCheck = "first",
    cache: str | Path | None = None,
    apart: bool = False,
    at_once: int = 1,
    warm: bool = False,
    finite: bool = False,
    meanwhile: bool = False,
    trust: TrustSource | None = None,
    key: KeySource | None = None,
) -> OpenedSession:
    """A session on the bundle at `path`.

    It is of the first payload, in the manifest's order, that opens on this machine and gives its
    golden answers. The session's `opened` says which that is, and why those before it were skipped.

    It never writes to disk, but to a cache that the argument or `$EDGEDL_CACHE` names. Every byte
    is checked but those of payloads that are not taken.

    Args:
        path: a bundle.
        threads: processor threads for one call; the engine's own choice where None.
        engine_name: take a payload of this engine, and no other.
        golden: compare the `first` golden answer, `all` or `none`. Where the cache holds a model
            that was compared when it was kept, `first` does not compare it again.
        cache: a folder for what engines compile, `edgedl.runtime.cache.Cache`, which opens faster
            the next time. Where it cannot be written, one RuntimeWarning says so, and the session
            is none the worse.
        apart: try each payload in a process of its own first, so that an engine that crashes there
            is skipped; it takes as long as starting Python and opening once more.
        at_once: calls that OpenVINO computes at once, each with `threads` threads; more wait for
            their turn. onnxruntime computes as many as there are threads that call.
        warm: run the bundle's first golden input, or zeros where it has none, before anything else,
            so that the first call is as fast as those after it.
        finite: refuse inputs that are not finite, at the cost of a pass over them.
        meanwhile: where the payload whose turn it is has to be built on this device, which may take
            minutes, answer with one behind it until then; `opened` says which one answers.
        trust: public keys, or files or folders of them, one of which must have signed the bundle,
            before anything of it is parsed; where None, those that `EDGEDL_TRUST` names, if any.
        key: takes the name of the key by which a model is encrypted, returns its 32 bytes. Nothing
            of such a model is kept in a cache.

    Raises:
        BadBundle: the file is damaged or is no bundle.
        Untrusted: no trusted key signed it, or what the signer said no longer holds.
        BadKey: its models are encrypted, and their key is not given, or another one.
        BadOption: the bundle has no payload for this engine, `golden` is none of its words,
            `threads` or `at_once` is no number from 1, or `key` is no function.
        WrongInput: `warm` is asked for, and sizes are open that no golden input fills.
        Missing: no engine of the bundle's is installed.
        EngineFailed: the engine refuses the model.
        WrongAnswers: its answers are further from the golden ones than the bundle allows.
        Unsupported: it was compiled for another machine or version.
        NoPayload: none opens, for reasons of several kinds; the message names each.
    """
    bundle = open_bundle(path, sparing=True, trust=trust, key=key)
    return session_of(
        bundle,
        threads=threads,
        engine_name=engine_name,
        golden=golden,
        cache=cache,
        apart=apart,
        at_once=at_once,
        warm=warm,
        finite=finite,
        meanwhile=meanwhile,
    )


def session_of(
    bundle: Bundle,
    *,
    threads: int | None = None,
    engine_name: str | None = None,
    golden: GoldenCheck = "first",
    cache: str | Path | None = None,
    apart: bool = False,
    at_once: int = 1,
    warm: bool = False,
    finite: bool = False,
    meanwhile: bool = False,
) -> OpenedSession:
    """`open` of a bundle that was read already, so that what else it says is of the same bytes.

    Raises:
        EdgeError: as `open`, but for what reading the file raises.
    """
    from edgedl.runtime.dress import dressed
    from edgedl.runtime.opening import GOLDEN_CHECKS, Way, open_first

    if golden not in GOLDEN_CHECKS:
        raise BadOption(f"no golden check `{golden}`", hint=nearest(str(golden), GOLDEN_CHECKS))
    for name, value in (("threads", 1 if threads is None else threads), ("at_once", at_once)):
        if not isinstance(value, int) or value < 1:
            raise BadOption(f"`{name}` is {value!r}", hint=f"{name}=1 is the least")
    kept = None
    if cache is not None or os.environ.get(CACHE_VARIABLE):
        from edgedl.runtime.cache import Cache

        kept = Cache(Path(cache or os.environ[CACHE_VARIABLE]))
    way = Way(threads, golden, kept, apart, at_once)
    if meanwhile:
        from edgedl.runtime.handover import open_meanwhile as opening
    else:
        opening = open_first
    session = opening(bundle, bundle.of_engine(engine_name), way)
    return dressed(session, bundle, warm=warm, finite=finite)
