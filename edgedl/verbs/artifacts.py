"""What verbs are given, as values: what can be run, and bundles by whom they are trusted to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from edgedl.core.model import Model
from edgedl.core.registry import load
from edgedl.core.store import stored_in_memory
from edgedl.runtime.artifact import Artifact, find_artifact, find_model
from edgedl.runtime.bundle import Bundle, is_bundle, open_bundle
from edgedl.runtime.sign.admit import TrustSource
from edgedl.runtime.sign.sealed import KeySource


def opened_at(path: str | Path, trust: TrustSource | None) -> Path | Bundle:
    """The bundle at a path, by whom it is trusted to be; anything else as it is."""
    found = find_model(path)
    return open_bundle(found, sparing=True, trust=trust) if is_bundle(found) else found


def artifact_at(
    path: str | Path, engine_name: str | None, trust: TrustSource | None, key: KeySource | None
) -> Artifact:
    """What is run of a model; an ONNX file, which nobody signs, stands beside trusted bundles."""
    found = find_model(path)
    asked = trust if is_bundle(found) else None
    return find_artifact(found, engine_name, trust=asked, key=key)


def kept_in_memory(
    paths: Sequence[str | Path], trust: TrustSource | None
) -> AbstractContextManager[None]:
    """Around work on models' graphs: the store is in memory where one of them is encrypted, since
    nothing that is decrypted is written to disk.

    Raises:
        Unsupported: the system has no such memory.
    """
    bundles = [found for path in paths if isinstance(found := opened_at(path, trust), Bundle)]
    sealed = any(payload.sealed is not None for one in bundles for payload in one.payloads)
    return stored_in_memory() if sealed else nullcontext()


def with_shapes(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    """The model with these dimensions fixed, by input."""
    found: Model = load("edgedl.passes.shapes:Shapes", "fixing a shape")(shapes)(model)
    return found
