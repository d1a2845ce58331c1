"""edgedl takes a neural network from training to a device."""

from __future__ import annotations

TYPE_CHECKING = False
__version__ = "0.1.0"

VERBS = {
    "open": "edgedl.runtime:open",
    "processing": "edgedl.runtime:processing",
    "answering": "edgedl.runtime.answering:answering",
    "check": "edgedl.runtime.check:check",
    "warm": "edgedl.runtime.warm:warm",
    "run_batch": "edgedl.runtime.batches:run_batch",
    "Workers": "edgedl.runtime.workers:Workers",
    "Stream": "edgedl.runtime.stream:Stream",
    "make": "edgedl.line.make:make",
    "shrink": "edgedl.line.brought:shrink",
    "compress": "edgedl.pipeline:compress",
    "compile": "edgedl.backends.compile:compile",
    "inspect": "edgedl.verbs:inspect",
    "bench": "edgedl.verbs:bench",
    "eval": "edgedl.verbs:evaluate",
    "diagnose": "edgedl.verbs:diagnose",
    "run": "edgedl.verbs:run",
    "doctor": "edgedl.verbs:doctor",
    "serve": "edgedl.service.run:serve",
    "keygen": "edgedl.runtime.sign.private:keygen",
    "sign": "edgedl.runtime.sign.private:sign",
    "encrypt": "edgedl.runtime.sign.encrypt:encrypt",
    "verify": "edgedl.runtime.sign.verify:verify",
    "trust": "edgedl.runtime.sign.trust:trust",
    "EdgeError": "edgedl.core.errors:EdgeError",
}

# What stands in for a verb where the device's part of edgedl is installed alone.
ON_DEVICE = {
    "run": "edgedl.runtime.run:run",
    "compile": "edgedl.runtime.compiling:compile",
}

if TYPE_CHECKING:
    from typing import Any

    from edgedl.backends.compile import compile as compile  # noqa: A004
    from edgedl.core.errors import EdgeError as EdgeError
    from edgedl.line.brought import shrink as shrink
    from edgedl.line.make import make as make
    from edgedl.pipeline import compress as compress
    from edgedl.runtime import open as open  # noqa: A004
    from edgedl.runtime import processing as processing
    from edgedl.runtime.answering import answering as answering
    from edgedl.runtime.batches import run_batch as run_batch
    from edgedl.runtime.check import check as check
    from edgedl.runtime.sign.encrypt import encrypt as encrypt
    from edgedl.runtime.sign.private import keygen as keygen
    from edgedl.runtime.sign.private import sign as sign
    from edgedl.runtime.sign.trust import trust as trust
    from edgedl.runtime.sign.verify import verify as verify
    from edgedl.runtime.stream import Stream as Stream
    from edgedl.runtime.warm import warm as warm
    from edgedl.runtime.workers import Workers as Workers
    from edgedl.service.run import serve as serve
    from edgedl.verbs import bench as bench
    from edgedl.verbs import diagnose as diagnose
    from edgedl.verbs import doctor as doctor
    from edgedl.verbs import evaluate as eval  # noqa: A004, F401
    from edgedl.verbs import inspect as inspect
    from edgedl.verbs import run as run

__all__ = ["__version__", *VERBS]


def __getattr__(name: str) -> Any:
    if name not in VERBS:
        raise AttributeError(f"module `edgedl` has no attribute `{name}`")
    from edgedl.core.registry import installed, load

    path = VERBS[name]
    if name in ON_DEVICE and not installed("edgedl.verbs"):
        path = ON_DEVICE[name]
    return load(path, f"`edgedl.{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
