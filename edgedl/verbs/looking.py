"""What is in a file, and what a machine can do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import edgedl
from edgedl.benchmark.machine import INT8_FLAGS, Machine, energy_counters, this_machine
from edgedl.core.engines import ON_GPU
from edgedl.core.errors import EdgeError, Unsupported
from edgedl.core.registry import installed, load, version
from edgedl.core.store import default_store
from edgedl.inputs import load_model
from edgedl.runtime import ENGINES, engine, how_to_get, installed_engines
from edgedl.runtime.artifact import find_model
from edgedl.runtime.bundle import Bundle, is_bundle, open_bundle
from edgedl.runtime.sign.verify import envelopes_of
from edgedl.verbs.artifacts import with_shapes

# Distributions, the extra that brings each, and what for.
TOOLS = (
    ("onnx", "build", "reading and writing models"),
    ("onnx-ir", "build", "compressing"),
    ("onnxscript", "build", "compressing"),
    ("PyYAML", "build", "recipes and pre-processing"),
    ("Pillow", "images", "photos as samples, and before a network on the device"),
    ("torch", "train", "training; not needed to compress or to run"),
)


def inspect(
    model: str | Path, *, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Any]:
    """What is in a model or a bundle, as plain JSON.

    Of an encrypted bundle it is what lies in clear: `encrypted` names the keys, and nothing is said
    of operators, parameters and weights. `signed` is what signatures claim; only `verify` proves
    one.

    Raises:
        BadModel, BadBundle: the file is missing or unsound.
    """
    path = find_model(model)
    bundle = open_bundle(path) if is_bundle(path) else None
    if bundle is not None and all(payload.sealed for payload in bundle.payloads):
        steps = [step.to_json() for step in bundle.history()]
        return {**bundle.signature.to_json(), **_around(bundle), "history": steps}
    loaded = load_model(path)
    if shapes:
        loaded = with_shapes(loaded, shapes)
    inspect_model = load("edgedl.passes.inspect:inspect", "`edgedl inspect`")
    found: dict[str, Any] = inspect_model(loaded).to_json()
    return found if bundle is None else {**found, **_around(bundle)}


def _around(bundle: Bundle) -> dict[str, Any]:
    """What a bundle says around its models, which is never encrypted."""
    processing = bundle.processing()
    return {
        "bytes": bundle.size_bytes,
        "payloads": [
            {**payload.to_json(), "bytes": bundle.parts[payload.part].bytes}
            for payload in bundle.payloads
        ],
        "notes": dict(bundle.notes),
        "processing": None if processing is None else processing.to_json(),
        "encrypted": sorted({one.sealed.key for one in bundle.payloads if one.sealed is not None}),
        "signed": [{"key": one.key_id, **one.statement.to_json()} for one in envelopes_of(bundle)],
    }


def doctor() -> dict[str, Any]:
    """What this machine can do and what is missing, as plain JSON.

    Returns:
        `version` of edgedl; `machine`, as `Machine.to_json` tells it; `int8`, a sentence; `engines`
        and `tools`, a row each with `name`, `version` (None where it is not to be had) and
        `install`; `energy`, the counters that can be read; `store`, its folder.
    """
    machine = this_machine()
    return {
        "version": edgedl.__version__,
        "machine": machine.to_json(),
        "int8": _int8(machine),
        "engines": [_engine(name) for name in ENGINES],
        "tools": [
            {
                "name": package,
                "version": version(package),
                "for": purpose,
                "install": f"pip install 'edgedl[{extra}]'",
            }
            for package, extra, purpose in TOOLS
        ],
        "energy": list(energy_counters()),
        "store": str(default_store().root),
    }


def _engine(name: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "version": None,
        "precisions": [],
        "install": how_to_get(name),
        "builder": None,
    }
    if name in installed_engines():
        try:
            found = engine(name)
            # what an engine on a GPU finds out only by trying
            getattr(found, "ready", lambda: None)()
            row |= {"version": found.version, "precisions": list(found.precisions())}
        except Unsupported as error:
            row["install"] = f"{error}; {error.hint}" if error.hint else str(error)
        except (ImportError, OSError, EdgeError) as error:
            row["install"] = f"it is installed, but does not load ({error})"
    if name in ON_GPU and row["version"] is None and installed(name):
        row["builder"] = _builder(name)
    return row


def _builder(name: str) -> dict[str, Any] | None:
    """What the library of a GPU's engine can do where it can run nothing; None where it does not
    load."""
    module = load("edgedl.runtime.tensorrt.build:module", "building")
    ahead_of_time = load("edgedl.runtime.tensorrt.build:ahead_of_time", "building")
    try:
        library = module(name)
    except EdgeError:
        return None
    return {"version": str(library.__version__), "ahead_of_time": list(ahead_of_time(library))}


def _int8(machine: Machine) -> str:
    """What int8 is good for on a processor."""
    fast = sorted(INT8_FLAGS & set(machine.isa))
    if fast:
        return f"fast: {', '.join(fast)}"
    if "avx2" in machine.isa:
        return "no VNNI: u8 x s8 products saturate at 16 bits, accuracy may fall, little is gained"
    return "no int8 dot product found; gains will be small"
