"""What the line keeps: results in the store, and a folder that one process alone trains in."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from edgedl.core.errors import EdgeError
from edgedl.core.program import TUNED
from edgedl.core.store import default_store
from edgedl.report.compressed import Compressed

# In the folder of a result: what ships, how it was placed, and what the stage tells of it.
BUNDLE, PLAN, TOLD = "bundle.edl", "plan.yaml", "told.json"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other process trains the same; those of one `torchrun` are one.

    Raises:
        EdgeError: another one does, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise EdgeError(
            f"the store cannot be written ({error.strerror})",
            where=str(default_store().root),
            hint="set EDGEDL_STORE to a folder that can",
        ) from error
    with lock as file:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise EdgeError(
                    "another process is training this recipe",
                    where=str(folder),
                    hint="wait for it, or stop it; what it has trained is not lost",
                ) from error
        yield


def keep_plan(found: Compressed, folder: Path) -> None:
    """Write the plan that ships beside its bundle, and what training moved for it; nothing where
    nothing computes in int8."""
    if found.plan is None:
        return
    (folder / PLAN).write_text(found.plan, encoding="utf-8")
    if found.tuned is not None:
        found.tuned.write(folder / TUNED)


def kept(key: str, build: Callable[[Path], None], told: list[str]) -> Path:
    """The folder of a result, made where it is not there; `kept` is told where it was."""
    made = False

    def building(folder: Path) -> None:
        nonlocal made
        made = True
        build(folder)

    folder = default_store().make(key, building)
    told += [] if made else ["kept"]
    return folder
