"""Samples in, answers out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedl.core.progress import Progress, silent
from edgedl.core.store import check_writable
from edgedl.inputs import (
    ProcessingSource,
    SampleSource,
    open_inputs,
)
from edgedl.runtime import session_of
from edgedl.runtime.artifact import engine_of_target, find_artifact, find_model
from edgedl.runtime.bundle import Bundle, is_bundle, open_bundle
from edgedl.runtime.run import write_answers
from edgedl.runtime.session import Session
from edgedl.runtime.sign.admit import TrustSource
from edgedl.runtime.sign.sealed import KeySource


def run(
    bundle: str | Path,
    inputs: SampleSource,
    output: str | Path,
    *,
    preprocess: ProcessingSource | None = None,
    threads: int | None = None,
    target: str | None = None,
    trust: TrustSource | None = None,
    key: KeySource | None = None,
    progress: Progress = silent,
    notice: Callable[[str], None] | None = None,
    **opening: Any,
) -> int:
    """Run every sample and save the outputs by name, one row a sample; returns how many.

    Inputs may be raw files, a folder or one, where `preprocess` or the bundle says what turns them
    into inputs; an array `files` then names the rows. A bundle is opened as by `edgedl.open`, with
    its `trust` and `key` and what else it takes, `opening`; `notice` is told in a line of each
    payload that was skipped, and why.

    Raises:
        EdgeError: a file is unsound, its engine is missing, the inputs do not fit, or the outputs
            of two samples have unlike shapes.
    """
    check_writable(Path(output), bundle, inputs)
    path, engine_name = find_model(bundle), engine_of_target(target)
    model: Path | Bundle = path
    session: Session
    if trust is not None or is_bundle(path):
        model = open_bundle(path, sparing=True, trust=trust, key=key)
        session = session_of(model, threads=threads, engine_name=engine_name, **opening)
        if notice is not None:
            for skipped in session.opened.skipped:
                notice(f"skipped: {skipped}")
    else:
        session = find_artifact(path, engine_name).open(threads)
    with session:
        bound = open_inputs(inputs, preprocess, [model])[0].bind(session.signature)
        return write_answers(session, bound, output, progress)
