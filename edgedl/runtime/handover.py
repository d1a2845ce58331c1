"""A bundle that answers at once, while an engine that takes minutes is still being built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from edgedl.core.errors import EdgeError
from edgedl.runtime import GivesWay
from edgedl.runtime.bundle import Bundle
from edgedl.runtime.opening import (
    MOST_SAMPLES,
    Opened,
    OpenedSession,
    Skipped,
    Way,
    engine_of,
    in_words,
    open_first,
    prove,
    refuse_unfit,
)
from edgedl.runtime.payload import COMPILED, Payload

WAITS = "it is being built; this one answers meanwhile"


def open_meanwhile(bundle: Bundle, payloads: Sequence[Payload], way: Way) -> OpenedSession:
    """As `open_first`, but where the payload whose turn it is has to be built, a session of one
    behind it, which gives way once the other is built and has given its golden answers.

    `opened` of the session says which one answers. Where none behind it opens, it waits for the
    build as `open_first` does; where the build fails, the one behind it goes on, and `problem` of
    the session says why.

    Raises:
        EdgeError: none of them opens.
    """
    for place, payload in enumerate(payloads):
        chosen = _builder(payload)
        if chosen is None:
            continue
        others = [one for one in payloads if one is not payload and _builder(one) is None]
        if not others:
            break
        try:
            first = open_first(bundle, others, way)
        except EdgeError:
            break
        if bundle.payloads[first.opened.payload] in payloads[:place]:
            return first
        return _giving_way(bundle, payload, chosen, first, way, place)
    return open_first(bundle, payloads, way)


def _builder(payload: Payload) -> GivesWay | None:
    """The engine that would build this payload here; None where none would."""
    if payload.format == COMPILED or payload.sealed is not None:
        return None
    try:
        chosen = engine_of(payload)
        refuse_unfit(payload, chosen)
    except EdgeError:
        return None
    return chosen if isinstance(chosen, GivesWay) else None


def _giving_way(
    bundle: Bundle, payload: Payload, chosen: GivesWay, first: OpenedSession, way: Way, place: int
) -> OpenedSession:
    """The first session, until the payload at this place of the order is built."""
    most = MOST_SAMPLES[way.golden]

    def because(reason: str, hint: str | None = None) -> Opened:
        skipped = Skipped(payload.engine, payload.precision, payload.format, reason, hint)
        others = first.opened.skipped
        return replace(first.opened, skipped=(*others[:place], skipped, *others[place:]))

    try:
        samples = len(bundle.golden(most).inputs)
        built = Opened(
            bundle.payloads.index(payload), payload.engine, chosen.version, payload.precision,
            payload.format, first.opened.skipped[:place], samples, samples > 0,
        )  # fmt: skip
        made = chosen.open_meanwhile(
            bundle.payload_bytes(payload), first, settings=way.settings(payload),
            check=lambda session: prove(bundle, session, most),
        )  # fmt: skip
    except Exception as error:
        known = in_words(error, payload)
        first.opened = because(known.message, known.hint)
        return first
    made.origins = (because(WAITS), built)
    return cast("OpenedSession", made)
