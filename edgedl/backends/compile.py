"""`edgedl.compile`: what a bundle's engines make of it here, kept, or carried in a new bundle."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from edgedl.backends.added import compiled_into
from edgedl.core.errors import BadOption
from edgedl.core.progress import Progress, silent
from edgedl.core.store import check_writable
from edgedl.runtime import compiling
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.compiling import Compiled, Notice
from edgedl.runtime.layout import HEADER, SIGNED
from edgedl.runtime.sign.admit import TrustSource
from edgedl.runtime.sign.sealed import KeySource

UNSIGNED = "what was written is not signed, as the bundle was: sign it with `edgedl sign`"


def compile(  # noqa: A001
    bundle: str | Path,
    output: str | Path | None = None,
    *,
    target: str | None = None,
    threads: int | None = None,
    cache: str | Path | None = None,
    trust: TrustSource | None = None,
    key: KeySource | None = None,
    progress: Progress = silent,
    notice: Notice = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Compiled:
    """Have everything that a bundle's engines compile on this machine made now.

    Args:
        output: a new bundle, which carries what OpenVINO and onnxruntime compile to machines like
            this one; where None, it is kept on this machine, as `edgedl.runtime.compiling.compile`
            says. The new bundle is not signed.
        target, threads, cache, trust, key, notice: as there.

    Returns:
        A row for each payload: made, kept already, or why not.

    Raises:
        NoPayload: nothing of it can be compiled here; the message has each reason.
        BadOption: the bundle has no payload for the target, or both a cache and an output are
            given.
        BadBundle, Untrusted, BadKey: as `edgedl.open`. EdgeError: the file cannot be written.
    """
    if output is None:
        return compiling.compile(
            bundle, target=target, threads=threads, cache=cache, trust=trust, key=key,
            progress=progress, notice=notice, clock=clock,
        )  # fmt: skip
    if cache is not None:
        raise BadOption(
            "--cache and -o exclude one another",
            hint="--cache keeps it on this machine, -o carries it to others; call it twice",
        )
    check_writable(Path(output))
    opened = open_bundle(bundle, trust=trust, key=key)
    signed = HEADER.unpack(opened.data.read(0, HEADER.size))[1] == SIGNED
    wanted = compiling.aimed(opened, target)
    rows, _ = compiled_into(opened, Path(output), wanted, threads, clock)
    return Compiled(opened.path, rows, Path(output), (UNSIGNED,) if signed else ())
