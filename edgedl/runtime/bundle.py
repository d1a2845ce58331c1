"""The one file that ships, read and checked; `layout` says how its bytes lie."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedl.core.engines import ON_GPU, install_of
from edgedl.core.errors import BadBundle, BadOption, BadValue, Missing, Unsupported, nearest
from edgedl.core.model import Signature, Step
from edgedl.core.registry import how_to_upgrade
from edgedl.runtime.contained import refuse_outward
from edgedl.runtime.deflate import inflate, of_document
from edgedl.runtime.golden import Golden, parts_of, unpack
from edgedl.runtime.gpu import nvidia_gpu_here
from edgedl.runtime.layout import (
    AGAIN,
    HEADER,
    MAGIC,
    SIGNED,
    Part,
    checked,
    holds,
)
from edgedl.runtime.limits import LIMITS
from edgedl.runtime.payload import COMPILED, FORMATS, Payload, version_of
from edgedl.runtime.sign.admit import TrustSource, admitted, head_digest, trust_of
from edgedl.runtime.sign.claims import signature_of
from edgedl.runtime.sign.sealed import WAY_OUT, KeySource, unseal
from edgedl.runtime.window import Window, opened

if TYPE_CHECKING:
    from edgedl.runtime.process import Processing
    from edgedl.runtime.sign.trust import Proof, Trust

SUFFIX = ".edl"
PROCESSING = "about/processing"
# What this engine and its providers compile is an ONNX file again.
ONNX_COMPILER = "onnxruntime"
# Larger parts may be left to be checked when they are read.
MOST_AT_ONCE = 1 << 18


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle; what is read of it was checked, and is a copy that nobody else can write to.

    Attributes:
        path: the file.
        signature: inputs and outputs.
        payloads: models by engine, the best first.
        notes: what was measured when it was made, as plain JSON.
        head: header and manifest as they were checked.
        proofs: who signed it, of the keys that were trusted; empty where none was asked for.
        key: gives the keys of encrypted payloads by their names.
    """

    path: Path
    signature: Signature
    payloads: tuple[Payload, ...]
    parts: Mapping[str, Part]
    notes: Mapping[str, Any]
    golden_index: Mapping[str, Any]
    data: Window
    head: bytes
    proofs: tuple[Proof, ...] = ()
    key: KeySource | None = None

    def read(self, name: str) -> bytes:
        """The contents of a part, as they lie there; of a payload's, `payload_bytes`.

        Raises:
            BadBundle: they were altered, also since it was opened.
        """
        part = self.parts[name]
        contents = self.data.read(part.offset, part.bytes)
        if not holds(part, contents):
            raise BadBundle(f"part `{name}` was altered", where=str(self.path), hint=AGAIN)
        return contents

    def payload_bytes(self, payload: Payload) -> bytes:
        """A payload as its engine takes it, inflated where it lies deflated.

        Raises:
            BadBundle: it does not inflate to what the manifest says, its format is of a later
                kind, or it is to be an ONNX file, and is none or names data outside of it.
            BadKey: it is encrypted, and its key was not given, or another one.
        """
        found = self._opened(payload)
        if payload.is_onnx or payload.engine.startswith(ONNX_COMPILER):
            try:
                refuse_outward(found)
            except ValueError as error:
                raise BadBundle(
                    f"its model for {payload.engine} {error}",
                    where=str(self.path),
                    hint="make it again with `edgedl compress`, of a model that you trust",
                ) from error
        return found

    def _opened(self, payload: Payload) -> bytes:
        if payload.format not in FORMATS:
            raise BadBundle(
                f"a payload of the format {payload.format!r} is not known here",
                where=str(self.path),
                hint=how_to_upgrade(),
            )
        lying = self.read(payload.part)
        if payload.sealed is not None:
            view, where = memoryview(lying), str(self.path)
            lying = unseal(view, payload.sealed, payload.binds, self.key, where)
        if payload.inflated is None:
            return lying
        try:
            return inflate(memoryview(lying), payload.inflated)
        except ValueError as error:
            raise BadBundle(
                f"its model for {payload.engine} {error}", where=str(self.path), hint=AGAIN
            ) from error

    @property
    def identity(self) -> str:
        """SHA-256, in hex, of header and manifest, which bind every part."""
        return head_digest(self.head)

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return len(self.data)

    @property
    def onnx(self) -> Payload:
        """The first payload that is an ONNX model, or of a format that is not known here.

        Raises:
            BadBundle: it holds none.
        """
        later = [payload for payload in self.payloads if payload.format not in FORMATS]
        found = [*(payload for payload in self.payloads if payload.is_onnx), *later]
        if not found:
            raise self._compiled_only()
        return found[0]

    def _compiled_only(self) -> BadBundle:
        return BadBundle(
            "it holds no ONNX model, only what was compiled for one machine",
            where=str(self.path),
            hint="make it again with `edgedl compress`",
        )

    def digest(self, payload: Payload) -> str:
        """The digest, in hex, that what an engine is given of a payload was compared with."""
        if payload.inflated is not None:
            return payload.inflated.sha256
        return self.parts[payload.part].digest

    def of_engine(self, engine: str | None) -> tuple[Payload, ...]:
        """The payloads of this engine, or all, in order.

        Raises:
            BadOption: there is none for the engine.
        """
        found = tuple(one for one in self.payloads if one.engine == (engine or one.engine))
        if not found:
            raise BadOption(
                f"the bundle has no payload for `{engine}`",
                where=str(self.path),
                hint=nearest(str(engine), {one.engine for one in self.payloads}),
            )
        return found

    def payload(self, engine: str | None, installed: Sequence[str]) -> Payload:
        """The ONNX payload of this engine, or the first whose engine is installed.

        Raises:
            BadOption: the bundle has none for the engine. Missing: none of its engines is here.
            Unsupported: its engine needs a GPU, and there is none.
        """
        found = self.of_engine(engine)
        for payload in found:
            if payload.engine in installed and payload.format != COMPILED:
                return payload
        if all(one.format == COMPILED for one in found):
            raise self._compiled_only()
        wanted = engine or found[0].engine
        if wanted in ON_GPU and not nvidia_gpu_here():
            raise Unsupported(
                f"the bundle needs an NVIDIA GPU for `{wanted}`, and the system shows none",
                where=str(self.path),
                hint="run it on its device; `edgedl doctor` shows what this machine can run",
            )
        raise Missing(
            f"the bundle needs the engine `{wanted}`, which is not installed",
            where=str(self.path),
            hint=install_of(wanted),
        )

    def history(self) -> tuple[Step, ...]:
        """How the model came to be.

        Raises:
            BadBundle: it is damaged.
        """
        try:
            return tuple(Step.from_json(step) for step in of_document(self.read("about/history")))
        except (KeyError, TypeError, ValueError, RecursionError, zlib.error) as error:
            raise BadBundle("its history is damaged", where=str(self.path), hint=AGAIN) from error

    def processing(self) -> Processing | None:
        """What stands before and behind the network; None where the bundle does not say.

        Raises:
            BadBundle: it is damaged, or of a kind that is not known here.
        """
        if PROCESSING not in self.parts:
            return None
        from edgedl.runtime.process import Processing

        try:
            return Processing.from_json(of_document(self.read(PROCESSING)))
        except BadValue as error:
            raise BadBundle(
                f"its pre-processing is not known here: {error.message}",
                where=str(self.path),
                hint=f"{how_to_upgrade()}, or give --preprocess SPEC.yaml",
            ) from error
        except (ValueError, RecursionError, zlib.error) as error:
            raise BadBundle(
                "its pre-processing is damaged", where=str(self.path), hint=AGAIN
            ) from error

    def names(self) -> dict[str, str]:
        """The original names of nodes and tensors, by the short ones in the payloads.

        Raises:
            BadBundle: they are damaged.
        """
        try:
            return dict(of_document(self.read("about/names")))
        except (KeyError, TypeError, ValueError, RecursionError, zlib.error) as error:
            raise BadBundle("its names are damaged", where=str(self.path), hint=AGAIN) from error

    def golden(self, most: int | None = None) -> Golden:
        """Golden inputs and answers; the first `most` of them.

        Raises:
            BadBundle: they are damaged, or pass a limit.
        """
        try:
            names = parts_of(self.golden_index, most)
            return unpack(self.golden_index, {name: self.read(name) for name in names}, most)
        except (AttributeError, KeyError, TypeError, ValueError, EOFError, zlib.error) as error:
            raise BadBundle(
                "its golden samples are damaged", where=str(self.path), hint=AGAIN
            ) from error


def find_bundle(path: str | Path) -> Path:
    """The bundle at a path, or the only one in a folder.

    Raises:
        BadBundle: the folder holds none, or several.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"*{SUFFIX}"))
    if len(found) != 1:
        raise BadBundle(
            f"{len(found) or 'no'} bundles in this folder", where=str(path), hint="name the file"
        )
    return found[0]


def is_bundle(path: str | Path) -> bool:
    """Whether a file begins like a bundle, or is named like one."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC[:4] or path.suffix == SUFFIX
    except OSError:
        return path.suffix == SUFFIX


def open_bundle(
    path: str | Path,
    *,
    sparing: bool = False,
    trust: TrustSource | None = None,
    key: KeySource | None = None,
) -> Bundle:
    """The bundle at `path`, with every byte of it checked before anything is believed.

    Args:
        path: a bundle, or a folder that holds one.
        sparing: check parts of more than 256 KiB, which payloads are, only when they are read, so
            that one that is not taken costs nothing.
        trust: public keys, or files or folders of them: one of them must have signed the bundle,
            which is found out before any of it is parsed. Where None, those that the environment
            variable `EDGEDL_TRUST` names, if it does.
        key: takes the name of an encrypted payload's key and returns its 32 bytes.

    Raises:
        BadBundle: the file is missing, no bundle, of a later format, too large, truncated or
            altered.
        Untrusted: no trusted key signed it, or what the signer said no longer holds.
        BadKey: a trusted key cannot be read. BadOption: `key` is no function.
    """
    return read_bundle(path, trust_of(trust), key, sparing=sparing)


def read_bundle(
    path: str | Path,
    trust: Trust | None = None,
    key: KeySource | None = None,
    *,
    sparing: bool = False,
) -> Bundle:
    """As `open_bundle`, but whatever `EDGEDL_TRUST` says: where `trust` is None, any will do.

    Raises:
        BadBundle, Untrusted, BadOption: as `open_bundle`.
    """
    path = find_bundle(path)
    where = str(path)
    if key is not None and not callable(key):
        raise BadOption(f"`key` is {type(key).__name__}", hint=WAY_OUT)
    data = opened(path)
    region, head, proofs = admitted(data, trust)
    manifest, parts = checked(region, head, MOST_AT_ONCE if sparing else None)
    try:
        bundle = Bundle(
            path,
            signature_of(manifest["signature"]),
            _payloads(manifest["payloads"], parts),
            parts,
            dict(manifest["notes"]),
            dict(manifest["golden"]),
            data,
            head,
            proofs,
            key,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadBundle(f"its manifest lacks {error}", where=where, hint=AGAIN) from error
    if not bundle.payloads:
        raise BadBundle("it holds no model", where=where, hint=AGAIN)
    if HEADER.unpack_from(head)[1] not in (SIGNED, version_of(bundle.payloads)):
        raise BadBundle("its header was altered", where=where, hint=AGAIN)
    return bundle


def _payloads(documents: Sequence[Any], parts: Mapping[str, Part]) -> tuple[Payload, ...]:
    if len(documents) > LIMITS.payloads:
        raise ValueError(f"a sound number of payloads: {len(documents)}, {LIMITS.payloads} at most")
    return tuple(Payload.from_json(one, parts) for one in documents)
