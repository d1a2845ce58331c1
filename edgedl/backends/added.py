"""Payloads added to a bundle that stands: compiled for this machine, or to be built on another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgedl.core.errors import EdgeError, EngineFailed, Unsupported
from edgedl.core.store import atomic_write
from edgedl.runtime import Compiler
from edgedl.runtime.bundle import Bundle, Payload, open_bundle, write_bundle
from edgedl.runtime.machine import this_processor
from edgedl.runtime.opening import engine_of, prove
from edgedl.runtime.payload import BUILD, COMPILED, Needs, short


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
        Unsupported: none of its engines here compiles one. EdgeError: the bundle is damaged, or
            the file cannot be written.
    """
    opened = open_bundle(bundle)
    made: dict[int, tuple[Payload, bytes]] = {}
    reasons: list[str] = []
    plain = [i for i, one in enumerate(opened.payloads) if one.is_onnx and one.format != BUILD]
    for number, i in enumerate(plain):
        payload = opened.payloads[i]
        try:
            made[i] = _compiled(opened, payload, number, threads)
        except EdgeError as error:
            reasons.append(f"{payload.engine}: {error.message}")
    if not made:
        raise Unsupported(
            f"nothing was compiled ({'; '.join(reasons) or 'no ONNX payload'})",
            where=str(opened.path),
            hint="`edgedl doctor` shows the engines that are here",
        )
    parts = {payload.part for payload, _ in made.values()}
    payloads: list[tuple[Payload, bytes]] = []
    for i, payload in enumerate(opened.payloads):
        payloads += [made[i]] if i in made else []
        if payload.part not in parts:
            payloads.append((payload, opened.read(payload.part)))
    _write(opened, Path(output), payloads)
    return tuple(payload for payload, _ in made.values())


def add_recipe(
    bundle: str | Path,
    output: str | Path,
    *,
    engine: str,
    precision: str,
    settings: Mapping[str, Any],
    needs: Needs | None = None,
) -> Payload:
    """Write the bundle with a recipe, in front of the rest, for an engine that is built where the
    bundle is opened: from the part of its first ONNX payload, so that it takes no model's bytes.

    Args:
        settings: plain JSON that the engine's file understands.
        needs: of the engine's version and the machine.

    Raises:
        EdgeError: the bundle holds no ONNX model, or the file cannot be written.
    """
    opened = open_bundle(bundle)
    source = opened.onnx
    recipe = replace(
        source,
        engine=short(engine),
        format=BUILD,
        precision=short(precision),
        settings=dict(settings),
        needs=needs or Needs(),
    )
    kept = [(payload, opened.read(payload.part)) for payload in opened.payloads]
    _write(opened, Path(output), [(recipe, opened.read(source.part)), *kept])
    return recipe


def _compiled(
    bundle: Bundle, payload: Payload, number: int, threads: int | None
) -> tuple[Payload, bytes]:
    """What a payload's engine makes of it for itself, opened and proven."""
    chosen = engine_of(payload)
    if not isinstance(chosen, Compiler):
        raise Unsupported("it has no compiled form")
    how: dict[str, Any] = {"settings": payload.settings, "threads": threads}
    session, made = chosen.open_and_compile(bundle.payload_bytes(payload), **how)
    session.close()
    if not made:
        raise EngineFailed("it has no compiled form of this model")
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
            signature=bundle.signature,
            payloads=payloads,
            golden=bundle.golden(),
            history=bundle.history(),
            notes=bundle.notes,
            names=bundle.names(),
            processing=bundle.processing(),
        )
        open_bundle(work)
