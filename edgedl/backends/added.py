"""Payloads added to a bundle that stands: compiled for this machine, or to be built on another."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from edgedl.core.errors import EngineFailed, Unsupported
from edgedl.core.store import atomic_write
from edgedl.runtime import Builder, Compiler
from edgedl.runtime.bundle import Bundle, open_bundle, read_bundle
from edgedl.runtime.compiling import Outcome, refuse_sealed, standing, tried
from edgedl.runtime.machine import this_processor
from edgedl.runtime.opening import engine_of, prove
from edgedl.runtime.payload import BUILD, COMPILED, Needs, Payload, short
from edgedl.runtime.writing import Contents, write_bundle


def add_compiled(
    bundle: str | Path, output: str | Path, *, threads: int | None = None
) -> tuple[Payload, ...]:
    """Write the bundle with what its engines compile of its ONNX payloads on this machine.

    Each stands in front of the payload that it was made of, to which another machine or another
    version of the engine falls back. It takes about the model's bytes again, and opens as a cached
    one does, on the first opening too and where nothing may be written: for many devices of one
    kind. All golden answers of it were compared. What was compiled for this machine before is
    replaced.

    Returns:
        What was added.

    Raises:
        NoPayload: none of its engines here compiles one. EdgeError: the bundle is damaged, or
            the file cannot be written.
    """
    opened = open_bundle(bundle)
    return compiled_into(opened, Path(output), opened.payloads, threads)[1]


def compiled_into(
    opened: Bundle,
    output: Path,
    wanted: Sequence[Payload],
    threads: int | None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[tuple[Outcome, ...], tuple[Payload, ...]]:
    """Write the bundle with what its engines compile of the wanted payloads: a row for each of
    these, and what was added.

    Raises:
        NoPayload: nothing was compiled, and nothing is written. EdgeError: the file cannot be
            written.
    """
    plain = [i for i, one in enumerate(opened.payloads) if one.is_onnx and one.format != BUILD]
    made: dict[int, tuple[Payload, bytes]] = {}

    def make(payload: Payload) -> Outcome:
        i = opened.payloads.index(payload)
        start = clock()
        made[i] = _compiled(opened, payload, plain.index(i) if i in plain else None, threads)
        seconds, size = clock() - start, len(made[i][1])
        return Outcome(
            payload.engine, payload.precision, payload.format, "made",
            seconds=seconds, bytes=size, where=str(output),
        )  # fmt: skip

    rows = tuple(tried(one, partial(make, one)) for one in wanted if one.format != COMPILED)
    standing(opened, rows)
    parts = {payload.part for payload, _ in made.values()}
    payloads: list[tuple[Payload, bytes]] = []
    for i, payload in enumerate(opened.payloads):
        payloads += [made[i]] if i in made else []
        if payload.part not in parts:
            payloads.append((payload, opened.read(payload.part)))
    _write(opened, output, payloads)
    return rows, tuple(payload for payload, _ in made.values())


def _compiled(
    bundle: Bundle, payload: Payload, number: int | None, threads: int | None
) -> tuple[Payload, bytes]:
    """What a payload's engine makes of it for itself, opened and proven.

    Args:
        number: which of those that a compiled one can stand in front of; None where it is none.
    """
    chosen = engine_of(payload)
    if isinstance(chosen, Builder):
        raise Unsupported(
            f"an engine of {payload.engine}'s belongs to one GPU and one version, and no bundle"
            " carries it",
            hint="without -o, `edgedl compile` builds it here and keeps it",
        )
    refuse_sealed(payload)
    if number is None or not isinstance(chosen, Compiler):
        raise Unsupported(f"{payload.engine} has no compiled form of it that a bundle carries")
    how: dict[str, Any] = {"settings": payload.settings, "threads": threads}
    session, made = chosen.open_and_compile(bundle.payload_bytes(payload), **how)
    session.close()
    if not made:
        raise EngineFailed(f"{payload.engine} has no compiled form of this model")
    with chosen.open_compiled(memoryview(made), **how) as again:
        prove(bundle, again, None)
    here = this_processor()
    needs = Needs(chosen.version, chosen.version, here.fingerprint, short(here.name[:64]))
    part = f"models/{payload.engine}-{number}-{here.fingerprint[:12]}.compiled"
    return replace(payload, format=COMPILED, part=part, inflated=None, needs=needs), made


def _write(bundle: Bundle, output: Path, payloads: Sequence[tuple[Payload, bytes]]) -> None:
    with atomic_write(output) as work:
        write_bundle(
            work,
            Contents(
                signature=bundle.signature,
                payloads=payloads,
                golden=bundle.golden(),
                history=bundle.history(),
                notes=bundle.notes,
                names=bundle.names(),
                processing=bundle.processing(),
            ),
        )
        read_bundle(work)
