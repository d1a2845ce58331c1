"""The one file that ships, written; `layout` says how its bytes lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedl.core.model import Signature, Step
from edgedl.core.store import atomic_write
from edgedl.runtime.bundle import PROCESSING
from edgedl.runtime.deflate import document_of
from edgedl.runtime.golden import Golden, pack
from edgedl.runtime.layout import file_blocks, write_blocks
from edgedl.runtime.payload import Payload, version_of

if TYPE_CHECKING:
    from edgedl.runtime.process import Processing


def write_bundle(
    path: Path,
    *,
    signature: Signature,
    payloads: Sequence[tuple[Payload, bytes]],
    golden: Golden,
    history: Sequence[Step],
    notes: Mapping[str, Any],
    names: Mapping[str, str] | None = None,
    processing: Processing | None = None,
) -> None:
    """Write a bundle, whole or not at all.

    Args:
        payloads: each with its part's bytes, as `stored` makes them where they may be deflated.
        names: the original names of nodes and tensors, by the short ones in the payloads.
        processing: what stands before and behind the network, bound to its signature.

    Raises:
        EdgeError: the file cannot be written.
    """
    blocks = bundle_blocks(
        signature=signature,
        payloads=payloads,
        golden=golden,
        history=history,
        notes=notes,
        names=names,
        processing=processing,
    )
    with atomic_write(path) as work, work.open("wb") as file:
        write_blocks(file, blocks)


def bundle_blocks(
    *,
    signature: Signature,
    payloads: Sequence[tuple[Payload, bytes]],
    golden: Golden,
    history: Sequence[Step],
    notes: Mapping[str, Any],
    names: Mapping[str, str] | None = None,
    processing: Processing | None = None,
) -> tuple[bytes, ...]:
    """What `write_bundle` writes, before each block is padded: header and manifest, then parts."""
    contents: dict[str, bytes] = {payload.part: data for payload, data in payloads}
    index, golden_parts = pack(golden)
    contents |= golden_parts
    manifest = {
        "signature": signature.to_json(),
        "payloads": [payload.to_json() for payload, _ in payloads],
        "golden": index,
        "notes": dict(notes),
    }
    contents["about/history"] = document_of([step.to_json() for step in history])
    contents["about/names"] = document_of(dict(names or {}))
    if processing is not None:
        contents[PROCESSING] = document_of(processing.to_json())
    return file_blocks(manifest, contents, version_of([payload for payload, _ in payloads]))
