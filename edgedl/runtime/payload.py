"""A payload: a model for one engine, and what that engine and its machine must be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgedl.runtime.deflate import DEFLATED, PLAIN, Inflated, deflate
from edgedl.runtime.layout import COMPILING, DEFLATING, SEALING, VERSION, Part
from edgedl.runtime.limits import LIMITS
from edgedl.runtime.machine import Processor
from edgedl.runtime.sign.sealed import Sealed, associated

# What an engine made of a model for itself, and an ONNX model that it is to make that of here.
COMPILED, BUILD = "compiled", "build"
ONNX_FORMATS = (PLAIN, DEFLATED, BUILD)
FORMATS = (*ONNX_FORMATS, COMPILED)
DIGEST = re.compile(r"[0-9a-f]{64}")
NUMBERS = re.compile(r"\d{1,9}(?:\.\d{1,9}){0,7}")


@dataclass(frozen=True)
class Needs:
    """What a payload asks beside its engine; nothing where all is absent.

    Attributes:
        least: the engine's earliest version that opens it.
        most: its latest one.
        machine: the fingerprint of the processor that it was compiled for.
        processor: the same in words.
        flags: instruction sets that must be there, in the kernel's names.
    """

    least: str | None = None
    most: str | None = None
    machine: str | None = None
    processor: str | None = None
    flags: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        version = {"least": self.least, "most": self.most}
        machine = {"fingerprint": self.machine, "processor": self.processor}
        found = {
            "version": {key: value for key, value in version.items() if value is not None},
            "machine": {key: value for key, value in machine.items() if value is not None},
            "flags": list(self.flags),
        }
        return {key: value for key, value in found.items() if value}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Needs:
        """As a manifest states it.

        Raises:
            KeyError, TypeError, ValueError: it is not sound.
        """
        version, machine = document.get("version", {}), document.get("machine", {})
        texts = [version.get("least"), version.get("most"), machine.get("processor")]
        least, most, processor = (None if one is None else short(one) for one in texts)
        for one in (least, most):
            if one is not None and not NUMBERS.match(one):
                raise ValueError(f"a version that is sound: {one!r}")
        fingerprint = machine.get("fingerprint")
        if fingerprint is not None and not DIGEST.fullmatch(fingerprint):
            raise ValueError("a fingerprint that is sound")
        flags = document.get("flags", [])
        if not isinstance(flags, list):
            raise TypeError("flags that are a list")
        return cls(least, most, fingerprint, processor, tuple(map(short, flags)))

    def unmet(self, engine: str, version: str, here: Processor) -> str | None:
        """Why it cannot be opened by this version of its engine on this machine; None where it
        can."""
        found = _numbers(version)
        if self.least is not None and found < _numbers(self.least):
            return f"it needs {engine} {self.least} or later, this is {version}"
        if self.most is not None and found > _numbers(self.most):
            return f"it needs {engine} {self.most} or earlier, this is {version}"
        absent = [flag for flag in self.flags if flag not in here.flags]
        if absent:
            return f"it needs {', '.join(absent)}, which this processor has not"
        if self.machine is not None and self.machine != here.fingerprint:
            there = self.processor or "another"
            return f"it was compiled for a processor that this is not ({there}, here {here.name})"
        return None


@dataclass(frozen=True)
class Payload:
    """A model for one engine: the part that holds it, its format, and how to open it.

    Several payloads may name one part: the same model for several engines.

    Attributes:
        format: `onnx`, `onnx+deflate`, `compiled` (by its engine, for itself) or `build` (an ONNX
            model of which its engine makes its own form where it is opened); a later one may be
            another.
        inflated: what the part holds, where it is deflated.
        needs: what it asks beside its engine.
        sealed: how it is encrypted. What is made of such a payload is never written to disk.
    """

    engine: str
    format: str
    part: str
    precision: str
    settings: Mapping[str, Any]
    inflated: Inflated | None = None
    needs: Needs = Needs()
    sealed: Sealed | None = None

    @property
    def binds(self) -> bytes:
        """What its tag binds, where it is encrypted."""
        inflated = None if self.inflated is None else self.inflated.to_json()
        return associated(self.part, inflated, "" if self.sealed is None else self.sealed.key)

    @property
    def is_onnx(self) -> bool:
        """Whether its part holds an ONNX model."""
        return self.format in ONNX_FORMATS

    def to_json(self) -> dict[str, Any]:
        more: dict[str, Any] = {}
        if self.inflated is not None:
            more["inflated"] = self.inflated.to_json()
        if self.needs != Needs():
            more["needs"] = self.needs.to_json()
        if self.sealed is not None:
            more["sealed"] = self.sealed.to_json()
        return {
            "engine": self.engine,
            "format": self.format,
            "part": self.part,
            "precision": self.precision,
            "settings": dict(self.settings),
            **more,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any], parts: Mapping[str, Part]) -> Payload:
        """A payload of the manifest, whose part is there.

        Raises:
            KeyError, TypeError, ValueError: it is not sound.
        """
        part = parts[document["part"]]
        format_ = short(document["format"])
        inflated = None
        if format_ == DEFLATED or (format_ in (COMPILED, BUILD) and "inflated" in document):
            inflated = Inflated.from_json(document["inflated"], part.bytes)
        needs = Needs.from_json(document.get("needs", {}))
        if format_ == COMPILED and None in (needs.machine, needs.least, needs.most):
            raise ValueError("the machine and the version of what was compiled")
        return cls(
            short(document["engine"]),
            format_,
            part.name,
            short(document["precision"]),
            dict(document["settings"]),
            inflated,
            needs,
            Sealed.from_json(document["sealed"]) if "sealed" in document else None,
        )


def short(text: Any) -> str:
    """A name in a manifest.

    Raises:
        TypeError, ValueError: it is no text, or too long.
    """
    if not isinstance(text, str):
        raise TypeError(f"a text in place of {type(text).__name__}")
    if len(text) > LIMITS.name_chars:
        raise ValueError(f"a name of at most {LIMITS.name_chars} characters")
    return text


def stored(payload: Payload, data: bytes) -> tuple[Payload, bytes]:
    """A payload and its bytes as they are to lie in a file: deflated where that saves enough."""
    found = deflate(data) if payload.format == PLAIN else None
    if found is None:
        return payload, data
    packed, inflated = found
    return replace(payload, format=DEFLATED, inflated=inflated), packed


def version_of(payloads: Sequence[Payload]) -> int:
    """The earliest format version whose readers know these payloads: 4 where one is encrypted, 3
    where one needs more than its engine, or is no portable ONNX model."""
    if any(one.sealed is not None for one in payloads):
        return SEALING
    if any(one.needs != Needs() or one.format in (COMPILED, BUILD) for one in payloads):
        return COMPILING
    return DEFLATING if any(one.format == DEFLATED for one in payloads) else VERSION


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with; `1.31.1rc2` is taken for `1.31.1`."""
    found = NUMBERS.match(version)
    numbers = [int(word) for word in found[0].split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
