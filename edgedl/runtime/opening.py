"""A bundle's payloads tried in order on this machine, each against its golden answers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from edgedl.core.errors import (
    BadOption,
    EdgeError,
    EngineFailed,
    Missing,
    NoPayload,
    Unsupported,
    WrongAnswers,
)
from edgedl.core.registry import how_to_upgrade
from edgedl.runtime import Builder, Compiler, Engine, engine
from edgedl.runtime.bundle import Bundle
from edgedl.runtime.golden import parts_of
from edgedl.runtime.machine import this_processor
from edgedl.runtime.payload import COMPILED, Payload
from edgedl.runtime.session import EngineSession, Session
from edgedl.runtime.settings import refuse_unknown

if TYPE_CHECKING:
    from edgedl.runtime.cache import Cache, Kept

GoldenCheck = Literal["first", "all", "none"]
GOLDEN_CHECKS: tuple[GoldenCheck, ...] = ("first", "all", "none")
MOST_SAMPLES: Mapping[str, int | None] = {"first": 1, "all": None, "none": 0}
CACHE_VERSION = 1
_said: set[str] = set()


@dataclass(frozen=True)
class Skipped:
    """A payload that was not taken, and why; `hint` is a way to have it taken."""

    engine: str
    precision: str
    format: str
    reason: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.engine} {self.precision} ({self.format}): {self.reason}"


@dataclass(frozen=True)
class Opened:
    """How a session came about.

    Attributes:
        payload: the one that was taken, counted from 0 in the manifest's order.
        version: its engine's.
        skipped: those before it, in order.
        golden_samples: how many were compared on opening.
        proven: whether golden answers were compared, now or when the cache was written.
        cached: whether the engine opened what it had compiled before.
        cache_problem: why nothing could be kept, where a cache was asked for.
    """

    payload: int
    engine: str
    version: str
    precision: str
    format: str
    skipped: tuple[Skipped, ...] = ()
    golden_samples: int = 0
    proven: bool = False
    cached: bool = False
    cache_problem: str | None = None


class OpenedSession(EngineSession, Protocol):
    """A session that says how it came about."""

    opened: Opened


@dataclass(frozen=True)
class Way:
    """How payloads are to be opened: threads of a call, which golden answers are compared, where
    compiled models are kept, whether each is tried in a process of its own before, and how many
    calls are computed at once by an engine that has to be told."""

    threads: int | None = None
    golden: GoldenCheck = "first"
    cache: Cache | None = None
    apart: bool = False
    at_once: int = 1

    def settings(self, payload: Payload) -> Mapping[str, Any]:
        """A payload's settings, and those of this way."""
        more = {"at_once": self.at_once} if self.at_once > 1 else {}
        return {**payload.settings, **more}


def open_first(bundle: Bundle, payloads: Sequence[Payload], way: Way) -> OpenedSession:
    """A session of the first of these payloads that opens here and gives its golden answers.

    Raises:
        EdgeError: none does: the one's own error, or one that names each reason.
    """
    errors: list[EdgeError] = []
    skipped: list[Skipped] = []
    for payload in payloads:
        try:
            session, opened = _open(bundle, payload, way, tuple(skipped))
        except Exception as error:
            known = in_words(error, payload)
            errors.append(known)
            skipped.append(_skipped(payload, known))
            continue
        found = cast("OpenedSession", session)
        found.opened = opened
        return found
    raise _none_opens(bundle, errors, skipped) from errors[0]


def open_payload(bundle: Bundle, payload: Payload, way: Way) -> EngineSession:
    """A session of a payload, without a look at its golden answers.

    Raises:
        EdgeError: its engine is missing or refuses it, or this is not its machine.
    """
    chosen = engine_of(payload)
    refuse_unfit(payload, chosen)
    if payload.sealed is not None and isinstance(chosen, Builder):
        raise Unsupported(
            f"it is encrypted, and {payload.engine} builds from files and keeps what it built",
            hint="a bundle that is not encrypted, or a payload of another engine",
        )
    data = bundle.payload_bytes(payload)
    settings = way.settings(payload)
    if payload.format != COMPILED:
        return chosen.open_model(data, settings=settings, threads=way.threads)
    if not isinstance(chosen, Compiler):
        raise Unsupported(f"{payload.engine} opens nothing that is compiled here")
    return chosen.open_compiled(memoryview(data), settings=settings, threads=way.threads)


def engine_of(payload: Payload) -> Engine:
    """A payload's engine, which knows the payload's settings.

    Raises:
        Missing: it is not installed, or not known here.
        Unsupported: a setting is not known here.
    """
    refuse_unknown(payload.engine, payload.settings)
    try:
        return engine(payload.engine)
    except BadOption as error:
        raise Missing(
            f"the engine `{payload.engine}` is not known here", hint=how_to_upgrade()
        ) from error


def refuse_unfit(payload: Payload, chosen: Engine) -> None:
    """Say whether this machine and this version of the engine are what a payload needs.

    Raises:
        Unsupported: they are not, and why.
    """
    reason = payload.needs.unmet(payload.engine, chosen.version, this_processor())
    if reason is not None:
        raise Unsupported(reason, hint="`edgedl compress` on this machine makes one for it")


def prove(bundle: Bundle, session: Session, most: int | None) -> int:
    """Compare a session's answers with the first `most` golden ones; returns how many there were.

    Raises:
        WrongAnswers: they are further away than the bundle allows. EdgeError: it does not run.
    """
    golden = bundle.golden(most)
    for i, feed in enumerate(golden.inputs):
        error = golden.error(i, session.run(feed))
        if not error <= golden.tolerance:
            raise WrongAnswers(
                f"its answers are {error:.2g} away from the golden ones,"
                f" {golden.tolerance:.2g} allowed",
                hint="`edgedl check` compares all; `golden='none'` opens it all the same",
            )
    return len(golden.inputs)


def _open(
    bundle: Bundle, payload: Payload, way: Way, skipped: tuple[Skipped, ...]
) -> tuple[EngineSession, Opened]:
    """A session of a payload that was proven as far as asked."""
    chosen = engine_of(payload)
    refuse_unfit(payload, chosen)
    place = bundle.payloads.index(payload)

    def told(samples: int, **more: Any) -> Opened:
        return Opened(
            place, payload.engine, chosen.version, payload.precision, payload.format, skipped,
            samples, **{"proven": samples > 0, **more},
        )  # fmt: skip

    key = None
    keeps = payload.format != COMPILED and payload.sealed is None
    if way.cache is not None and keeps and isinstance(chosen, Compiler):
        key = cache_key(bundle, payload, chosen, way)
        kept = way.cache.find(key)
        if kept is not None and len(kept.data):
            with contextlib.suppress(EdgeError):
                return _from_kept(bundle, payload, chosen, way, kept, told)
            way.cache.drop(key)
        elif kept is not None:
            key = None
    if way.apart:
        from edgedl.runtime.apart import tried_apart

        if payload.sealed is not None:
            raise Unsupported(
                "it is encrypted, and its key is not given to a process of its own",
                hint="open it without `apart`",
            )
        tried_apart(bundle.path, place, way.threads, way.golden, bundle.identity)
    if key is not None and way.cache is not None and isinstance(chosen, Compiler):
        return _compiled(bundle, payload, chosen, way, key, told)
    session = open_payload(bundle, payload, way)
    return _proven(bundle, session, way, told)


class _Told(Protocol):
    def __call__(self, samples: int, **more: Any) -> Opened: ...


def _proven(
    bundle: Bundle, session: EngineSession, way: Way, told: _Told, **more: Any
) -> tuple[EngineSession, Opened]:
    try:
        return session, told(prove(bundle, session, MOST_SAMPLES[way.golden]), **more)
    except BaseException:
        session.close()
        raise


def _from_kept(
    bundle: Bundle, payload: Payload, chosen: Compiler, way: Way, kept: Kept, told: _Told
) -> tuple[EngineSession, Opened]:
    """What was kept, compared again only where all golden answers are asked for, or where none were
    compared before: the bytes, the engine and the processor are the same."""
    session = chosen.open_compiled(kept.data, settings=way.settings(payload), threads=way.threads)
    before = bool(kept.said.get("proven"))
    if way.golden == "none" or (way.golden == "first" and before):
        return session, told(0, proven=before, cached=True)
    return _proven(bundle, session, way, told, cached=True)


def _compiled(
    bundle: Bundle,
    payload: Payload,
    chosen: Compiler,
    way: Way,
    key: Mapping[str, Any],
    told: _Told,
) -> tuple[EngineSession, Opened]:
    """A session of what the engine compiles now, which is kept once it has opened and answered;
    where it has not, one of the model as it is. That an engine's own form does not do is kept, too;
    that it could not be made is not, since a disk that is full now may have room the next time."""
    assert way.cache is not None
    data = bundle.payload_bytes(payload)
    how: dict[str, Any] = {"settings": way.settings(payload), "threads": way.threads}
    failed: Exception | None = None
    try:
        plain, made = chosen.open_and_compile(data, **how)
    except (EdgeError, OSError) as error:
        plain, made, failed = chosen.open_model(data, **how), b"", error
    if made:
        with contextlib.suppress(EdgeError):
            session = chosen.open_compiled(memoryview(made), **how)
            found, opened = _proven(bundle, session, way, told)
            plain.close()
            problem = way.cache.keep(key, made, {"proven": opened.proven})
            return found, _with_problem(opened, problem)
    found, opened = _proven(bundle, plain, way, told)
    problem = way.cache.keep(key, b"", {}) if failed is None else str(failed)
    return found, _with_problem(opened, problem)


def _with_problem(opened: Opened, problem: str | None) -> Opened:
    """The same, and a warning once a process where nothing could be kept."""
    if problem is None:
        return opened
    if problem not in _said:
        _said.add(problem)
        message = f"nothing is kept of what was compiled: {problem}"
        warnings.warn(message, RuntimeWarning, stacklevel=7)
    return Opened(**{**vars(opened), "cache_problem": problem})


def cache_key(bundle: Bundle, payload: Payload, chosen: Engine, way: Way) -> dict[str, Any]:
    """All that a compiled model, and whether its answers are right, hang on."""
    golden = json.dumps(bundle.golden_index, sort_keys=True, allow_nan=False).encode()
    parts = [bundle.parts[name].digest for name in parts_of(bundle.golden_index)]
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [os.cpu_count()]
    return {
        "cache": CACHE_VERSION,
        "payload": bundle.digest(payload),
        "engine": payload.engine,
        "version": chosen.version,
        "settings": dict(way.settings(payload)),
        "threads": way.threads,
        "cores": len(cores),
        "processor": this_processor().fingerprint,
        "golden": hashlib.sha256(golden + "".join(parts).encode()).hexdigest(),
    }


def in_words(error: Exception, payload: Payload) -> EdgeError:
    """An error of ours, or what an engine raised, in words."""
    if isinstance(error, EdgeError):
        return error
    first = str(error).strip().split("\n")[0][:300]
    said = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return EngineFailed(f"{payload.engine} cannot open it ({said})")


def _skipped(payload: Payload, error: EdgeError) -> Skipped:
    return Skipped(payload.engine, payload.precision, payload.format, error.message, error.hint)


def _none_opens(
    bundle: Bundle, errors: Sequence[EdgeError], skipped: Sequence[Skipped]
) -> EdgeError:
    where = str(bundle.path)
    kinds = {type(error) for error in errors}
    hint = next((error.hint for error in errors if error.hint), None)
    kind = kinds.pop() if len(kinds) == 1 else NoPayload
    if len(errors) == 1:
        return kind(errors[0].message, where=where, hint=hint)
    reasons = "; ".join(map(str, skipped))
    return kind(f"none of its {len(skipped)} payloads opens: {reasons}", where=where, hint=hint)
