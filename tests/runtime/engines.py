"""Engines of a third party, each with a fault of its own, and one that builds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgedl.core.errors import EngineFailed
from edgedl.runtime import any_engine
from edgedl.runtime.session import Session

BUILT = b"built: "


class Plain:
    """Whatever engine is installed, under another name."""

    name, version, on_gpu = "plain", "3.1", False

    def precisions(self) -> tuple[str, ...]:
        return ("float32",)

    def open_model(self, model: Any, *, settings: Any, threads: int | None = None) -> Session:
        return any_engine().open_model(model, settings={}, threads=threads)

    def operators(self, *_: Any, **__: Any) -> list[Any]:
        return []


class Refusing(Plain):
    def open_model(self, model: Any, *, settings: Any, threads: int | None = None) -> Session:
        raise EngineFailed("refusing refuses the model")


class Raising(Plain):
    def open_model(self, model: Any, *, settings: Any, threads: int | None = None) -> Session:
        raise ZeroDivisionError("division by zero\nand more of it")


class Crashing(Plain):
    def open_model(self, model: Any, *, settings: Any, threads: int | None = None) -> Session:
        os.abort()


class Wrong(Plain):
    """Gives twice the answers."""

    def open_model(self, model: Any, *, settings: Any, threads: int | None = None) -> Session:
        session = super().open_model(model, settings=settings, threads=threads)
        run = session.run

        def twice(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: 2 * array for name, array in run(inputs).items()}

        vars(session)["run"] = twice
        return session


class Building(Plain):
    """Keeps a model as the model behind a word; `events` tells what it was asked for."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def open_model(self, model: Any, *, settings: Any, threads: int | None = None) -> Session:
        self.events.append("plain")
        return super().open_model(model, settings=settings, threads=threads)

    def open_and_compile(
        self, model: bytes, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> tuple[Session, bytes]:
        self.events.append("built")
        made = b"" if settings.get("no form") else BUILT + model
        return any_engine().open_model(model, settings={}, threads=threads), made

    def open_compiled(
        self, data: memoryview, *, settings: Mapping[str, Any], threads: int | None = None
    ) -> Session:
        self.events.append("compiled")
        if bytes(data[: len(BUILT)]) != BUILT or settings.get("refuses its own"):
            raise EngineFailed("building refuses what it built")
        return any_engine().open_model(bytes(data[len(BUILT) :]), settings={}, threads=threads)


PLAIN, REFUSING, RAISING, CRASHING = Plain(), Refusing(), Raising(), Crashing()
WRONG, BUILDING = Wrong(), Building()
TABLE = {
    name: f"{__name__}:{name.upper()}"
    for name in ("plain", "refusing", "raising", "crashing", "wrong", "building")
}
