"""Makes what is compared: each peer's file once for a setting and samples, and edgedl's bundle."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from peer_settings import REVISION, SETTINGS, Setting
from peer_task import CALIBRATION, fixed
from processes import limit_of_memory, watched
from zoo import Entry

from edgedl.core.errors import EngineFailed
from edgedl.core.isa import ISA_VARIABLE
from edgedl.core.model import sha256
from edgedl.inputs import load_model
from edgedl.runtime import engine

HERE = Path(__file__).resolve().parent
HELD = 256
BROKEN_LIMIT = 3


@dataclass(frozen=True)
class Made:
    """A file and what it cost, or why there is none.

    `limit_seconds` is what it was given, where it was ended; `skipped` says that nobody tried.
    """

    files: tuple[str, ...] = ()
    bytes: int | None = None
    seconds: float | None = None
    peak_rss_bytes: int | None = None
    notes: tuple[str, ...] = ()
    problem: str = ""
    limit_seconds: float | None = None
    skipped: bool = False
    told: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A model of the suite, the samples that everybody calibrates on, and those held back.

    `float_files` are tried in order: the model with its shapes fixed, then as it was given.
    """

    entry: Entry
    folder: Path
    calibration: Path
    held: Path
    count: int
    shapes: Mapping[str, list[int]]
    float_files: tuple[Path, ...]
    signature: Mapping[str, Any]
    digest: str

    @property
    def reference(self) -> Path:
        return self.folder / f"answers-{self.digest[:12]}.npz"

    def shape_options(self) -> list[str]:
        return [f"{name}={'x'.join(map(str, sizes))}" for name, sizes in self.shapes.items()]


def prepare(entry: Entry, work: Path) -> Case:
    """The first half of the samples, 128 at most, to calibrate on, and the rest held back.

    The shapes are left as they are where the model does not run with them fixed.
    """
    folder = work / entry.name
    folder.mkdir(parents=True, exist_ok=True)
    calibration, held = folder / "calibration.npz", folder / "held.npz"
    with np.load(entry.samples, allow_pickle=False) as given:
        arrays: dict[str, Any] = {name: given[name] for name in given.files}
    total = len(next(iter(arrays.values())))
    count = min(CALIBRATION, total // 2)
    np.savez(calibration, **{name: array[:count] for name, array in arrays.items()})
    np.savez(held, **{name: array[count : count + HELD] for name, array in arrays.items()})
    shapes = {name: [int(n) for n in text.split("x")] for name, text in entry.shapes.items()}
    files: tuple[Path, ...] = (entry.model,)
    if shapes:
        onnx.save(fixed(entry.model, shapes), folder / "fixed.onnx")
        if _runs(folder / "fixed.onnx"):
            files = (folder / "fixed.onnx", entry.model)
        else:
            shapes = {}
    model = load_model(entry.model)
    digest = hashlib.sha256(f"{model.digest} {sha256([calibration, held])}".encode()).hexdigest()
    signature = model.signature.to_json()
    return Case(entry, folder, calibration, held, count, shapes, files, signature, digest)


def _runs(model: Path) -> bool:
    try:
        engine("onnxruntime").open_model(model, settings={}, threads=1).close()
    except EngineFailed:
        return False
    return True


@dataclass(frozen=True)
class Interpreter:
    """A Python, and the versions of the peers that it has."""

    path: str
    versions: Mapping[str, str]


def interpreter(python: str) -> Interpreter:
    """A Python with the versions of those peers that it has."""
    packages = sorted({package for setting in SETTINGS.values() for package in setting.packages})
    code = (
        "import json, sys\nfrom importlib import metadata\nfound = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        found[name] = metadata.version(name)\n"
        "    except metadata.PackageNotFoundError:\n        pass\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run(
        [python, "-c", code, *packages], capture_output=True, text=True, check=True
    )
    return Interpreter(python, json.loads(done.stdout))


def able(setting: Setting, interpreters: Sequence[Interpreter]) -> Interpreter | None:
    """The first that has all of the setting's packages."""
    needed = set(setting.packages)
    return next((one for one in interpreters if one.versions.keys() >= needed), None)


def missing(setting: Setting, interpreters: Sequence[Interpreter]) -> str:
    """The first of the setting's packages that keeps the nearest interpreter from making it."""
    lists = [[p for p in setting.packages if p not in one.versions] for one in interpreters]
    return min(lists, key=len)[0]


def make_peer(
    case: Case,
    name: str,
    interpreters: Sequence[Interpreter],
    limit_seconds: float,
    *,
    only_kept: bool,
) -> Made:
    """A peer's file, from an earlier run where setting, samples and versions are the same.

    What failed is not tried again, unless it was ended at a lower limit.
    """
    setting = SETTINGS[name]
    if not interpreters:
        return Made(problem="no interpreter with the peers was named", skipped=True)
    python = able(setting, interpreters)
    if python is None:
        return Made(
            problem=f"{missing(setting, interpreters)} is not installed there", skipped=True
        )
    parts = {
        "setting": name,
        "revision": REVISION,
        "case": case.digest,
        "shapes": case.shape_options(),
        "versions": {package: python.versions[package] for package in setting.packages},
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    record = case.folder / f"{name}-{key}.json"
    if record.exists():
        kept = Made(**json.loads(record.read_text()))
        if kept.limit_seconds is None or kept.limit_seconds >= limit_seconds:
            return kept
    if only_kept:
        return Made(problem="not made in an earlier run", skipped=True)
    made = _quantized(case, name, key, python.path, limit_seconds)
    record.write_text(json.dumps(asdict(made)))
    return made


def _quantized(case: Case, name: str, key: str, python: str, limit_seconds: float) -> Made:
    file = f"{name}-{key}{SETTINGS[name].suffix}"
    environment = {key: value for key, value in os.environ.items() if key != ISA_VARIABLE}
    environment.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=case.folder) as scratch:
        out = Path(scratch) / file
        command = [python, str(HERE / "peer_quantize.py"), name]
        command += [str(case.entry.model), str(case.calibration), str(out)]
        command += [*case.shape_options(), "--count", str(case.count)]
        done = watched(
            command, limit_seconds=limit_seconds, limit_bytes=limit_of_memory(),
            environment=environment,
        )  # fmt: skip
        made = Made(
            seconds=done.seconds,
            peak_rss_bytes=done.peak_rss_bytes,
            problem=done.problem,
            limit_seconds=limit_seconds if done.problem.startswith("not finished") else None,
        )
        if done.problem:
            return made
        said = json.loads(done.last_line())
        parts = [out, out.with_suffix(".bin"), out.with_name(out.name + ".data")]
        kept = [path for path in parts if path.exists()]
        size = sum(path.stat().st_size for path in kept)
        for path in kept:
            path.replace(case.folder / path.name)
    files = tuple(path.name for path in kept)
    return replace(made, files=files, bytes=size, notes=tuple(said["notes"]))


def compress(
    case: Case,
    target: str,
    threads: int,
    isa: str,
    seconds: float,
    limit_seconds: float,
    *,
    cold: bool,
    effort: str = "fast",
) -> Made:
    """edgedl's bundle, from the same samples and nothing else."""
    parts = [target, str(threads), *([isa] if isa else []), *([effort] if effort != "fast" else [])]
    name = "-".join(parts) + ".edl"
    bundle = case.folder / name
    bundle.unlink(missing_ok=True)
    command = [sys.executable, "-m", "edgedl", "compress", str(case.entry.model), "--int8"]
    command += ["--json", "--samples", str(case.calibration), "--target", target]
    command += ["--threads", str(threads), "--seconds", str(seconds), "-o", str(bundle)]
    command += ["--isa", isa] if isa else []
    command += ["--effort", effort]
    for shape in case.shape_options():
        command += ["--shape", shape]
    with tempfile.TemporaryDirectory(prefix="edgedl-store-") as store:
        done = watched(
            command,
            limit_seconds=limit_seconds,
            limit_bytes=limit_of_memory(),
            environment={**os.environ, **({"EDGEDL_STORE": store} if cold else {})},
            accepted=(0, BROKEN_LIMIT),
        )
    made = Made(
        seconds=done.seconds, peak_rss_bytes=done.peak_rss_bytes, problem=done.problem,
        notes=("from an empty store",) if cold else (),
    )  # fmt: skip
    if done.problem:
        return made
    said = json.loads(done.last_line())
    told = {key: said.get(key) for key in ("precision", "engine", "operators", "doubts", "speedup")}
    return replace(made, files=(bundle.name,), bytes=bundle.stat().st_size, told=told)
