"""What the line keeps in the store, and how it lies there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgedl.core.program import TUNED
from edgedl.core.runs import DONE
from edgedl.core.store import default_store
from edgedl.report.compressed import Compressed

# In the folder of a result: what ships, how it was placed, and what the stage tells of it.
BUNDLE, PLAN, TOLD = "bundle.edl", "plan.yaml", DONE


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
