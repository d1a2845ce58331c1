"""The device side: bundles and sessions on numpy and one engine, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgedl.core.errors import Missing
from edgedl.core.registry import installed, resolve
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.session import Operator, Session

if TYPE_CHECKING:
    from edgedl.runtime.process import Processing

ENGINES = {
    "onnxruntime": "edgedl.runtime.ort:ENGINE",
    "openvino": "edgedl.runtime.openvino:ENGINE",
}


class Engine(Protocol):
    """What an engine's file offers under the name `ENGINE`.

    Attributes:
        on_gpu: whether its sessions run on a GPU.
    """

    name: str
    version: str
    on_gpu: bool

    def precisions(self) -> tuple[str, ...]:
        """Float precisions that are fast on this machine, `float32` first."""

    def open_model(
        self, model: bytes | str | Path, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> Session:
        """A session on an ONNX model, given as a path or as its bytes.

        Raises:
            EngineFailed: the engine refuses the model.
        """

    def operators(
        self,
        model: bytes | str | Path,
        feed: Mapping[str, np.ndarray],
        *,
        settings: Mapping[str, Any],
        threads: int | None = None,
        runs: int = 1,
    ) -> list[Operator]:
        """What one run of the model really executes, by the engine's own account, timed over
        `runs` of them where there are more than one."""


def engine(name: str) -> Engine:
    """The engine of this name.

    Raises:
        BadOption: unknown. Missing: not installed; the hint says how to install it.
    """
    found: Engine = resolve(ENGINES, name, kind="engine", group="edgedl.engines")
    return found


def installed_engines() -> tuple[str, ...]:
    """The engines whose package is installed here, found out without importing one."""
    return tuple(name for name in ENGINES if installed(name))


def any_engine() -> Engine:
    """An installed engine, onnxruntime where there is a choice.

    Raises:
        Missing: there is none.
    """
    names = installed_engines()
    if not names:
        raise Missing(
            "no engine is installed", hint="pip install 'edgedl[onnxruntime]' or 'edgedl[openvino]'"
        )
    return engine(names[0])


def processing(path: str | Path) -> Processing | None:
    """What stands before and behind the network in the bundle at `path`; None where it does not
    say.

    Raises:
        BadBundle: the file is damaged, is no bundle, or is of a later kind.
    """
    return open_bundle(path).processing()


def open(  # noqa: A001
    path: str | Path, *, threads: int | None = None, engine_name: str | None = None
) -> Session:
    """A session on the bundle at `path`; it never writes to disk.

    Args:
        path: a bundle.
        threads: processor threads for one call; the engine's own choice where None.
        engine_name: take the payload of this engine; the bundle's first that can be opened here
            where None.

    Raises:
        BadBundle: the file is damaged or is no bundle.
        Missing: no engine of the bundle's is installed.
        EngineFailed: the engine refuses the model.
    """
    bundle = open_bundle(path)
    payload = bundle.payload(engine_name, installed_engines())
    chosen = engine(payload.engine)
    data = bundle.payload_bytes(payload)
    return chosen.open_model(data, settings=payload.settings, threads=threads)
