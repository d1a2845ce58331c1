"""A bundle's answers to many samples, in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgedl.core.errors import BadSamples
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples, open_npz
from edgedl.core.store import atomic_write, check_writable
from edgedl.runtime import session_of
from edgedl.runtime.batches import row_of
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.masks import SUFFIX, write_mask
from edgedl.runtime.process import Processing
from edgedl.runtime.process.files import Files, open_files
from edgedl.runtime.session import Session
from edgedl.runtime.sign.admit import TrustSource
from edgedl.runtime.sign.sealed import KeySource


def run(
    bundle: str | Path,
    inputs: str | Path,
    output: str | Path,
    *,
    preprocess: Processing | None = None,
    threads: int | None = None,
    target: str | None = None,
    trust: TrustSource | None = None,
    key: KeySource | None = None,
    progress: Progress = silent,
    **opening: Any,
) -> int:
    """Run every sample and save the outputs by name, one row a sample; returns how many.

    Args:
        inputs: an `.npz` file, or raw files: a folder, or one.
        preprocess: what turns raw files into inputs; what the bundle carries where None.
        target: the engine; the bundle's first that can be opened here where None or `cpu`.
        trust, key: as `edgedl.open`, and so is what else it takes, `opening`.

    Raises:
        EdgeError: a file is unsound, its engine is missing, the inputs do not fit, or the outputs
            of two samples have unlike shapes.
    """
    check_writable(Path(output), bundle, inputs)
    path = Path(inputs)
    opened = open_bundle(bundle, sparing=True, trust=trust, key=key)
    if path.suffix.lower() == ".npz" and not path.is_dir():
        samples = open_npz(path)
    else:
        processing = preprocess or opened.processing()
        if processing is None:
            message = "nothing says what turns raw files into inputs"
            raise BadSamples(message, where=str(path), hint="`preprocess=`, or an .npz file")
        samples = open_files(path, processing)
    engine_name = None if target == "cpu" else target
    with session_of(opened, threads=threads, engine_name=engine_name, **opening) as session:
        return write_answers(session, samples.bind(session.signature), output, progress)


def write_answers(
    session: Session, bound: Samples, output: str | Path, progress: Progress = silent
) -> int:
    """Save a session's outputs for samples that are bound to it; returns how many samples.

    Where the file is a PNG, the mask of the one picture is what it holds.

    Raises:
        BadSamples: one is damaged, or the outputs of two have unlike shapes. EngineFailed: the
            engine failed while it ran.
    """
    if Path(output).suffix.lower() == SUFFIX:
        return write_mask(session, bound, output, progress)
    rows: dict[str, list[np.ndarray]] = {}
    outputs = {tensor.name: tensor for tensor in session.signature.outputs}
    for i, feed in enumerate(bound):
        for name, array in session.run(feed).items():
            rows.setdefault(name, []).append(row_of(outputs[name], array))
        progress("running", i + 1, len(bound))
    for name, arrays in rows.items():
        if len({array.shape for array in arrays}) > 1:
            raise BadSamples(
                f"output `{name}` has another shape from sample to sample",
                hint="run samples of one size at a time",
            )
    with atomic_write(Path(output)) as work, work.open("wb") as file:
        stacked: dict[str, Any] = {name: np.stack(arrays) for name, arrays in rows.items()}
        if isinstance(bound.source, Files) and "files" not in stacked:
            stacked["files"] = np.asarray(bound.source.names)
        np.savez(file, **stacked)
    return len(bound)
