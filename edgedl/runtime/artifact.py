"""Whatever can be run: a bundle, an ONNX file, or a folder that holds one of them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedl.core.engines import ON_GPU
from edgedl.core.errors import BadBundle, BadModel, EngineFailed
from edgedl.core.target import target_of
from edgedl.runtime import any_engine, engine, installed_engines
from edgedl.runtime.bundle import SUFFIX, Bundle, is_bundle, open_bundle, read_bundle
from edgedl.runtime.session import Session
from edgedl.runtime.settings import refuse_unknown
from edgedl.runtime.sign.admit import TrustSource
from edgedl.runtime.sign.sealed import KeySource


@dataclass(frozen=True)
class Artifact:
    """A file to run, and how: its engine, the precision asked of it, and the engine's settings.

    `data` is the path of an ONNX file, or a bundle's payload. `identity` is a bundle's, by which
    another process knows it again; `secrets` are the keys by which it was opened, in hex, by their
    names.
    """

    path: Path
    engine: str
    precision: str
    settings: Mapping[str, Any]
    data: bytes | Path
    bytes: int
    identity: str | None = field(default=None, kw_only=True)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False, kw_only=True)

    @property
    def on_gpu(self) -> bool:
        """Whether its engine runs it on a GPU."""
        return engine(self.engine).on_gpu

    def open(self, threads: int | None = None) -> Session:
        """A session of it.

        Raises:
            EngineFailed: the engine refuses it; the hint names another that takes an ONNX file.
        """
        try:
            run = engine(self.engine)
            return run.open_model(self.data, settings=self.settings, threads=threads)
        except EngineFailed as error:
            other = self._taken_by() if self.identity is None and error.hint is None else None
            if other is None:
                raise
            hint = f"--target {other} takes it"
            raise EngineFailed(error.message, where=str(self.path), hint=hint) from error

    def _taken_by(self) -> str | None:
        """Another engine of this machine's processor that opens the file; None where none does."""
        for name in installed_engines():
            if name == self.engine or name in ON_GPU:
                continue
            with contextlib.suppress(EngineFailed):
                engine(name).open_model(self.data, settings={}, threads=1).close()
                return name
        return None

    def names(self) -> Mapping[str, str]:
        """A bundle's original names by the short ones of its payload; empty for an ONNX file."""
        return read_bundle(self.path, sparing=True).names() if is_bundle(self.path) else {}


def find_model(path: str | Path) -> Path:
    """The file at a path, or the only bundle or ONNX file in a folder.

    Raises:
        BadModel: there is none, or there are several.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.exists():
            raise BadModel(
                "no such file", where=str(path), hint="give the path of a model or a bundle"
            )
        return path
    found = sorted([*path.glob(f"*{SUFFIX}"), *path.glob("*.onnx")])
    if len(found) != 1:
        raise BadModel(
            f"{len(found) or 'no'} models in this folder", where=str(path), hint="name the file"
        )
    return found[0]


def find_artifact(
    path: str | Path,
    engine_name: str | None = None,
    *,
    trust: TrustSource | None = None,
    key: KeySource | None = None,
    identity: str | None = None,
) -> Artifact:
    """The artifact at a path, for this engine or the first that is installed.

    An ONNX file runs in the engine's float32 setting. `trust` and `key` are those of `edgedl.open`,
    and where a signer is asked for, nothing but a signed bundle is taken. `identity` is that of a
    bundle that was admitted before, and stands for `trust`.

    Raises:
        BadModel, BadBundle: the file is missing or unsound. Missing: its engine is not installed.
        Untrusted: no trusted key signed it. BadKey: it is encrypted, and its key is not given.
        Unsupported: it brings a setting that is not known here.
    """
    path = find_model(path)
    if is_bundle(path) or trust is not None or identity is not None:
        used: dict[str, str] = {}
        noted = None if key is None else _noting(key, used)
        bundle = _bundle(path, trust, noted, identity)
        payload = bundle.payload(engine_name, installed_engines())
        refuse_unknown(payload.engine, payload.settings)
        return Artifact(
            path,
            payload.engine,
            payload.precision,
            payload.settings,
            bundle.payload_bytes(payload),
            bundle.size_bytes,
            identity=bundle.identity,
            secrets=used,
        )
    if path.suffix not in (".onnx", ".pb"):
        raise BadModel(
            "neither a bundle nor an ONNX file",
            where=str(path),
            hint=f"bundles end in `{SUFFIX}`, ONNX files in `.onnx`",
        )
    chosen = engine(engine_name) if engine_name else any_engine()
    data = path.with_name(path.name + ".data")
    size = path.stat().st_size + (data.stat().st_size if data.exists() else 0)
    return Artifact(path, chosen.name, "float32", {}, path, size)


def _bundle(
    path: Path, trust: TrustSource | None, key: KeySource | None, identity: str | None
) -> Bundle:
    if identity is None:
        return open_bundle(path, trust=trust, key=key)
    bundle = read_bundle(path, key=key)
    if bundle.identity != identity:
        raise BadBundle(
            "it was replaced since it was opened", where=str(path), hint="begin again with this one"
        )
    return bundle


def _noting(key: KeySource, used: dict[str, str]) -> KeySource:
    """The same, which keeps what it gave."""
    if not callable(key):
        return key

    def noted(name: str) -> bytes:
        found = key(name)
        if isinstance(found, (bytes, bytearray)):
            used[name] = found.hex()
        return found

    return noted


def key_of_secrets(secrets: Mapping[str, str]) -> KeySource | None:
    """What gives the keys that an artifact was opened by; None where there were none."""
    return (lambda name: bytes.fromhex(secrets.get(name, ""))) if secrets else None


def engine_of_target(name: str | None) -> str | None:
    """The engine that `--target` names; None for `cpu`, which leaves the choice open.

    Raises:
        BadOption: unknown target. Missing: its engine is not installed.
    """
    if name is None:
        return None
    engines = target_of(name).engines
    if len(engines) > 1:
        return None
    if engines[0] not in installed_engines():
        engine(engines[0])
    return engines[0]
