"""The one file that ships, written; `layout` says how its bytes lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, eq=False)
class Contents:
    """What a bundle is written from.

    Attributes:
        payloads: each with its part's bytes, as `stored` makes them where they may be deflated.
        names: the original names of nodes and tensors, by the short ones in the payloads.
        processing: what stands before and behind the network, bound to its signature.
    """

    signature: Signature
    payloads: Sequence[tuple[Payload, bytes]]
    golden: Golden
    history: Sequence[Step]
    notes: Mapping[str, Any]
    names: Mapping[str, str] | None = None
    processing: Processing | None = None

    def blocks(self) -> tuple[bytes, ...]:
        """What is written, before each block is padded: header and manifest, then parts."""
        payloads = [payload for payload, _ in self.payloads]
        parts: dict[str, bytes] = {payload.part: data for payload, data in self.payloads}
        index, golden_parts = pack(self.golden)
        parts |= golden_parts
        manifest = {
            "signature": self.signature.to_json(),
            "payloads": [payload.to_json() for payload in payloads],
            "golden": index,
            "notes": dict(self.notes),
        }
        parts["about/history"] = document_of([step.to_json() for step in self.history])
        parts["about/names"] = document_of(dict(self.names or {}))
        if self.processing is not None:
            parts[PROCESSING] = document_of(self.processing.to_json())
        return file_blocks(manifest, parts, version_of(payloads))


def write_bundle(path: Path, contents: Contents) -> None:
    """Write a bundle, whole or not at all.

    Raises:
        EdgeError: the file cannot be written.
    """
    blocks = contents.blocks()
    with atomic_write(path) as work, work.open("wb") as file:
        write_blocks(file, blocks)
