"""Engines that were built on this machine, kept by model, build, GPU, driver and TensorRT."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedl.core.errors import BadModel
from edgedl.core.fields import from_plain, to_plain
from edgedl.core.store import Store, key_of
from edgedl.core.units import format_seconds

PLAN, ABOUT, KERNELS = "plan", "engine.json", "kernels"
WORDS = {
    "library": "library",
    "version": "version of it",
    "gpu": "GPU",
    "capability": "compute capability",
    "driver": "driver (CUDA)",
}
Notice = Callable[[str], None]


@dataclass(frozen=True)
class Fingerprint:
    """What an engine is bound to; another of these, and it is built again.

    Attributes:
        library: `tensorrt` or `tensorrt_rtx`.
        version: of that library.
        gpu: its name; two of one kind share their engines.
        capability: the GPU's compute capability, as `8.7`.
        driver: the newest CUDA that the driver serves, as `12.6`.
    """

    library: str
    version: str
    gpu: str
    capability: str
    driver: str

    def differs(self, other: Fingerprint) -> str:
        """What another one had else, in words: `driver (CUDA) 12.4 then, 12.6 now`."""
        pairs = [
            (WORDS[name], getattr(other, name), getattr(self, name))
            for name in WORDS
            if getattr(other, name) != getattr(self, name)
        ]
        return "; ".join(f"{word} {then} then, {now} now" for word, then, now in pairs)


@dataclass(frozen=True)
class Key:
    """Which engine: of what model, built how, for what machine.

    Attributes:
        model: SHA-256 of the ONNX file and of its external data.
        build: the build's settings, as plain values.
    """

    model: str
    build: Mapping[str, Any]
    fingerprint: Fingerprint

    @property
    def name(self) -> str:
        """Its folder's name in the store."""
        document = to_plain(self.fingerprint)
        return key_of(
            kind="tensorrt engine", model=self.model, build=dict(self.build), fingerprint=document
        )


@dataclass(frozen=True)
class Engine:
    """One that was built.

    Attributes:
        kernels: the file in which TensorRT-RTX keeps what it made ready at the first use.
        seconds: how long it took to build, and to try.
    """

    plan: bytes
    kernels: Path
    seconds: float


@dataclass(frozen=True)
class Engines:
    """The engines in a store.

    Args:
        clock: seconds that go on.
    """

    store: Store
    clock: Callable[[], float]

    def find(
        self, key: Key, make: Callable[[Path], None], *, notice: Notice, what: str = "the engine"
    ) -> Engine:
        """The engine of a key, made by `make(folder)` into `folder / "plan"` where it is not there
        whole.

        Args:
            notice: is told in one line why it is built, and how long that may take.

        Raises:
            EdgeError: whatever `make` raises.
        """
        place = self.place(key)
        kept = self._read(place)
        if isinstance(kept, Engine):
            with contextlib.suppress(OSError):
                os.utime(place)
            return kept
        notice(f"{what} is built: {kept or self._reason(key)}; {self._estimate(key)}")
        if place.exists():
            shutil.rmtree(place, ignore_errors=True)

        def build(folder: Path) -> None:
            start = self.clock()
            make(folder)
            plan = (folder / PLAN).read_bytes()
            about = {
                "sha256": hashlib.sha256(plan).hexdigest(),
                "seconds": self.clock() - start,
                "model": key.model,
                "build": dict(key.build),
                "fingerprint": to_plain(key.fingerprint),
            }
            (folder / ABOUT).write_text(json.dumps(about))

        found = self._read(self.store.make(key.name, build))
        assert isinstance(found, Engine), found
        return found

    def forget(self, key: Key) -> None:
        """Throw an engine away, that the next opening builds it again."""
        shutil.rmtree(self.place(key), ignore_errors=True)

    def place(self, key: Key) -> Path:
        """The folder in which the engine of a key is kept, whether it is there or not."""
        return self.store.root / key.name[:2] / key.name

    def _read(self, place: Path) -> Engine | str:
        """The engine in a folder, or why there is none: empty where there never was one."""
        if not place.exists():
            return ""
        try:
            plan = (place / PLAN).read_bytes()
            about = json.loads((place / ABOUT).read_text())
            if hashlib.sha256(plan).hexdigest() != about["sha256"]:
                return "the kept one is damaged, its SHA-256 is another"
            return Engine(plan, place / KERNELS, float(about["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            return "the kept one is damaged, files of it are missing or unreadable"

    def _others(self) -> list[dict[str, Any]]:
        """What is kept of every engine, damaged or not, the last built last."""
        found: list[tuple[float, dict[str, Any]]] = []
        for path in self.store.root.glob(f"??/*/{ABOUT}"):
            with contextlib.suppress(OSError, ValueError):
                document = json.loads(path.read_text())
                if isinstance(document, dict) and {"model", "seconds"} <= document.keys():
                    found.append((path.stat().st_mtime, document))
        return [document for _, document in sorted(found, key=lambda pair: pair[0])]

    def _reason(self, key: Key) -> str:
        same = [one for one in self._others() if one["model"] == key.model]
        alike = [one for one in same if one.get("build") == dict(key.build)]
        for one in reversed(alike):
            with contextlib.suppress(Exception):
                before = from_plain(Fingerprint, one["fingerprint"])
                return key.fingerprint.differs(before) or "the kept one is gone"
        if same:
            return "the settings of the build are others than before"
        return "it is the first time on this machine"

    def _estimate(self, key: Key) -> str:
        """How long it may take, from what building took here before."""
        others = self._others()
        same = [float(one["seconds"]) for one in others if one["model"] == key.model]
        if same:
            return f"about {format_seconds(same[-1])}, as it took then"
        if others:
            times = sorted(float(one["seconds"]) for one in others)
            return f"engines took {format_seconds(times[0])} to {format_seconds(times[-1])} here"
        return "from seconds to minutes, nothing was built here before"


def digest_of(model: bytes | Path) -> str:
    """The SHA-256 of a model: its bytes, and the files beside it that these name.

    Raises:
        BadModel: there is no such file.
    """
    try:
        data = model if isinstance(model, bytes) else model.read_bytes()
    except OSError as error:
        hint = "give the path of an ONNX file"
        raise BadModel(f"cannot be read ({error.strerror})", where=str(model), hint=hint) from None
    digest = hashlib.sha256(data)
    if isinstance(model, Path):
        for path in sorted(model.parent.iterdir()):
            if path != model and path.is_file() and path.name.encode() in data:
                with path.open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
    return digest.hexdigest()
