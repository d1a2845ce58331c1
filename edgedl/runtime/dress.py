"""What a session is put into when it is opened, by the caller's wishes."""

from __future__ import annotations

from typing import cast

from edgedl.runtime.bundle import Bundle
from edgedl.runtime.opening import OpenedSession


def dressed(session: OpenedSession, bundle: Bundle, *, warm: bool, finite: bool) -> OpenedSession:
    """The bundle's session, warm and careful where that is asked for; it is closed where that
    fails.

    Raises:
        BadBundle: the golden samples are damaged. EngineFailed: the engine failed on the first.
    """
    try:
        if warm:
            from edgedl.runtime.warm import warm as warmed

            warmed(session, next(iter(bundle.golden(1).inputs), None))
        if finite:
            from edgedl.runtime.finite import Finite

            return cast("OpenedSession", Finite(session))
    except BaseException:
        session.close()
        raise
    return session
