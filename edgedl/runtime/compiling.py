"""A bundle's payloads compiled before they are first opened, and kept where opening looks."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from edgedl.core.errors import (
    BadOption,
    EdgeError,
    EngineFailed,
    Missing,
    NoPayload,
    Unsupported,
    nearest,
)
from edgedl.core.progress import Progress, silent
from edgedl.core.registry import whole_instead
from edgedl.core.target import TARGETS
from edgedl.runtime import CACHE_VARIABLE, Builder, Compiler
from edgedl.runtime.bundle import Bundle, open_bundle
from edgedl.runtime.cache import Cache
from edgedl.runtime.opening import (
    Way,
    cache_key,
    engine_of,
    open_first,
    open_payload,
    prove,
    refuse_unfit,
)
from edgedl.runtime.payload import COMPILED, Payload
from edgedl.runtime.sign.admit import TrustSource
from edgedl.runtime.sign.sealed import KeySource

State = Literal["made", "kept already", "not made"]
Notice = Callable[[str], None]
QUOTED = re.compile(r"[`']([\w./:-]+)[`']")


@dataclass(frozen=True)
class Outcome:
    """What came of one payload.

    Attributes:
        state: `made` now, `kept already`, or `not made`.
        reason: why it was not made, or not now; empty where there is nothing to say.
        hint: a way out, where it was not made.
        seconds: what making it took, now or then; None where nobody knows.
        bytes: how large it is.
        where: the file or folder that it is kept in.
    """

    engine: str
    precision: str
    format: str
    state: State
    reason: str = ""
    hint: str | None = None
    seconds: float | None = None
    bytes: int | None = None
    where: str | None = None

    @property
    def stands(self) -> bool:
        """Whether the next opening finds it."""
        return self.state != "not made"


@dataclass(frozen=True)
class Compiled:
    """What `compile` did, a row a payload; `output` is the new bundle, where one was written."""

    path: Path
    rows: tuple[Outcome, ...]
    output: Path | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As `edgedl compile --json` prints it."""
        return {
            "bundle": str(self.path),
            "output": None if self.output is None else str(self.output),
            "payloads": [dict(vars(row)) for row in self.rows],
            "notes": list(self.notes),
        }


def _nothing(line: str) -> None:
    """Nobody is told."""


def compile(  # noqa: A001
    bundle: str | Path,
    output: None = None,
    *,
    target: str | None = None,
    threads: int | None = None,
    cache: str | Path | None = None,
    trust: TrustSource | None = None,
    key: KeySource | None = None,
    progress: Progress = silent,
    notice: Notice = _nothing,
    clock: Callable[[], float] = time.perf_counter,
) -> Compiled:
    """Have everything that a bundle's engines compile on this machine made now, and kept for the
    openings that follow; all golden answers of it are compared.

    TensorRT's engines are built in a child process and kept in the store, by GPU, driver and
    version. What OpenVINO and onnxruntime compile is kept in the cache that `edgedl.open` is given,
    for as many threads as that is given.

    Args:
        output: a new bundle is written by the whole of edgedl alone.
        target: take its payloads alone: `cpu`, or an engine's name.
        threads: processor threads of a call; the engine's own choice where None.
        cache: the folder of that cache; what `EDGEDL_CACHE` names where None.
        notice: is told in a line why an engine is built, and how long that may take.

    Returns:
        A row for each payload: made, kept already, or why not.

    Raises:
        NoPayload: nothing of it can be compiled here; the message has each reason.
        BadOption: the bundle has no payload for the target.
        BadBundle, Untrusted, BadKey: as `edgedl.open`.
        Missing: an output is asked for, and here is the device's part of edgedl alone.
    """
    if output is not None:
        raise Missing(
            "`edgedl.compile` writes no bundle here, where the device's part of edgedl is alone",
            hint=f"cache=DIR keeps it on this machine; or {whole_instead()}",
        )
    opened = open_bundle(bundle, sparing=True, trust=trust, key=key)
    folder = cache or os.environ.get(CACHE_VARIABLE)
    way = Way(threads, "all", Cache(Path(folder)) if folder else None)
    rows = tuple(
        tried(payload, partial(_one, opened, payload, way, progress, notice, clock))
        for payload in aimed(opened, target)
    )
    return Compiled(opened.path, standing(opened, rows))


def aimed(bundle: Bundle, target: str | None) -> tuple[Payload, ...]:
    """A bundle's payloads for a target, or for an engine of this name; all where None.

    Raises:
        BadOption: there is none.
    """
    if target is None:
        return bundle.payloads
    engines = TARGETS[target].engines if target in TARGETS else (target,)
    found = tuple(one for one in bundle.payloads if one.engine in engines)
    if not found:
        known = {one.engine for one in bundle.payloads}
        raise BadOption(
            f"the bundle has no payload for `{target}`",
            where=str(bundle.path),
            hint=nearest(target, known),
        )
    return found


def tried(payload: Payload, make: Callable[[], Outcome]) -> Outcome:
    """What `make` gives, or a row with the reason why it fails."""
    try:
        return make()
    except EdgeError as error:
        return not_made(payload, error.message, error.hint)


def not_made(payload: Payload, reason: str, hint: str | None = None) -> Outcome:
    """The row of a payload of which nothing was made."""
    return Outcome(payload.engine, payload.precision, payload.format, "not made", reason, hint)


def standing(bundle: Bundle, rows: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """The rows, of which at least one stands.

    Raises:
        NoPayload: none does.
    """
    if not any(row.stands for row in rows):
        reasons = "; ".join(f"{row.engine} {row.precision}: {row.reason}" for row in rows)
        raise NoPayload(
            f"nothing of it can be compiled here: {reasons}",
            where=str(bundle.path),
            hint=next((row.hint for row in rows if row.hint), None)
            or "`edgedl doctor` shows the engines that are here",
        )
    return tuple(rows)


def refuse_sealed(payload: Payload) -> None:
    """Say that nothing is kept of an encrypted payload.

    Raises:
        Unsupported: it is encrypted.
    """
    if payload.sealed is not None:
        raise Unsupported(
            "it is encrypted, and nothing that is made of it is written to disk",
            hint="it is compiled in memory, at each opening",
        )


def _one(
    bundle: Bundle,
    payload: Payload,
    way: Way,
    progress: Progress,
    notice: Notice,
    clock: Callable[[], float],
) -> Outcome:
    chosen = engine_of(payload)
    refuse_unfit(payload, chosen)
    refuse_sealed(payload)
    row = Outcome(payload.engine, payload.precision, payload.format, "kept already")
    if payload.format == COMPILED:
        session = open_payload(bundle, payload, way)
        with session:
            prove(bundle, session, None)
        size = bundle.parts[payload.part].bytes
        return replace(row, reason="it lies compiled in the bundle", bytes=size)
    if isinstance(chosen, Builder):
        return _built(bundle, payload, chosen, way, row, progress, notice)
    if isinstance(chosen, Compiler):
        return _cached(bundle, payload, chosen, way, row, clock)
    raise Unsupported(f"{payload.engine} opens the model as it is, and has no compiled form of it")


def _built(
    bundle: Bundle,
    payload: Payload,
    chosen: Builder,
    way: Way,
    row: Outcome,
    progress: Progress,
    notice: Notice,
) -> Outcome:
    """By an engine that builds apart and keeps by itself."""
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        notice(line)

    data, settings = bundle.payload_bytes(payload), way.settings(payload)
    try:
        stands = chosen.stand(data, settings=settings, progress=progress, notice=tell)
    except EngineFailed as error:
        words = in_own_names(error.message, bundle.names())
        raise EngineFailed(words, hint=error.hint) from error
    with open_payload(bundle, payload, way) as session:
        prove(bundle, session, None)
    return replace(
        row,
        state="made" if stands.fresh else "kept already",
        reason=told[0] if told else "",
        seconds=stands.seconds,
        bytes=stands.bytes,
        where=str(stands.place),
    )


def in_own_names(message: str, names: Mapping[str, str]) -> str:
    """A message that names nodes as they ship, with the names that the user gave them."""

    def own(found: re.Match[str]) -> str:
        return f"`{names[found[1]]}`" if found[1] in names else found[0]

    return QUOTED.sub(own, message)


def _cached(
    bundle: Bundle,
    payload: Payload,
    chosen: Compiler,
    way: Way,
    row: Outcome,
    clock: Callable[[], float],
) -> Outcome:
    """By an engine whose form the cache keeps: opened as `edgedl.open` opens it."""
    if way.cache is None:
        raise Unsupported(
            "no cache is named that could keep it",
            hint=f"--cache DIR, which `edgedl.open(cache=DIR)` and {CACHE_VARIABLE} name later; or"
            " -o OUT.edl, which carries it to machines like this one",
        )
    start = clock()
    with warnings.catch_warnings():
        # that nothing can be kept is told in the row
        warnings.simplefilter("ignore", RuntimeWarning)
        session = open_first(bundle, [payload], way)
    opened = session.opened
    session.close()
    seconds = clock() - start
    if opened.cache_problem is not None:
        raise Unsupported(
            f"it cannot be kept: {opened.cache_problem}", hint="--cache DIR names another folder"
        )
    key = cache_key(bundle, payload, chosen, way)
    kept = way.cache.find(key)
    if kept is None or not len(kept.data):
        raise Unsupported(
            f"{payload.engine} has no compiled form of this model that opens faster than it"
        )
    return replace(
        row,
        state="kept already" if opened.cached else "made",
        seconds=None if opened.cached else seconds,
        bytes=len(kept.data),
        where=str(way.cache.place(key)),
    )
