"""What a bundle may hold at most, and documents that are read within it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Limits:
    """The strict limits of the format, each held before anything of that size is allocated.

    Attributes:
        file_bytes: a whole bundle.
        manifest_bytes: the manifest's text.
        manifest_values: values in it, counted by the commas and brackets of its text.
        document_bytes: any other document, inflated.
        nesting: how deep lists and objects of a document lie in one another.
        string_chars: a text in the manifest.
        name_chars: the name of a part, an engine, a format, a precision or a version.
        parts: runs of bytes in the file.
        payloads: ways to open the model.
        payload_bytes: one payload, inflated; one ONNX file holds no more.
        golden_samples: inputs with their answers.
        array_bytes: one golden array.
        array_dimensions: axes of one array.
    """

    file_bytes: int = 1 << 36
    manifest_bytes: int = 4 << 20
    manifest_values: int = 1 << 18
    document_bytes: int = 64 << 20
    nesting: int = 32
    string_chars: int = 1 << 16
    name_chars: int = 256
    parts: int = 4096
    payloads: int = 16
    payload_bytes: int = (1 << 31) - 1
    golden_samples: int = 64
    array_bytes: int = 1 << 30
    array_dimensions: int = 32


LIMITS = Limits()
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def manifest_of(text: bytes) -> Any:
    """A manifest's document.

    Raises:
        ValueError, RecursionError: it is no JSON (RFC 8259), or passes a limit.
    """
    if len(text) > LIMITS.manifest_bytes:
        raise ValueError(f"of {len(text)} bytes, {LIMITS.manifest_bytes} at most")
    values = sum(map(text.count, (b",", b"[", b"{")))
    if values > LIMITS.manifest_values:
        raise ValueError(f"of about {values} values, {LIMITS.manifest_values} at most")
    return strict_json(text, LIMITS.string_chars)


def strict_json(text: bytes, most_chars: int | None = None) -> Any:
    """A document whose objects name no key twice, whose numbers are finite, whose texts can be
    written, and that lies no deeper than the limit.

    Args:
        most_chars: of one text in it; as many as there are where None.

    Raises:
        ValueError, RecursionError: it is not such a document.
    """
    document = json.loads(
        text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_once
    )
    level = [document]
    for _ in range(LIMITS.nesting + 1):
        _short((value for value in level if isinstance(value, str)), most_chars)
        inside = [value for value in level if isinstance(value, (dict, list))]
        if not inside:
            _printable(text, document)
            return document
        level = []
        for value in inside:
            level += value.values() if isinstance(value, dict) else value
            _short(value if isinstance(value, dict) else (), most_chars)
    raise ValueError(f"nested deeper than {LIMITS.nesting}")


def _short(texts: Iterable[str], most: int | None) -> None:
    if most is not None and any(len(text) > most for text in texts):
        raise ValueError(f"with a text of more than {most} characters")


def _printable(text: bytes, document: Any) -> None:
    """Half a character, `\\ud800`, is text to JSON alone: no screen, file or log takes it."""
    if SURROGATE.search(text):
        try:
            json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("with half a character in a text") from error


def _finite(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(f"with {word} for a number")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("with a key twice")
    return found


def canonical(value: Any) -> bytes:
    """The one way in which a value is written where its bytes are signed: keys sorted, no spaces,
    ASCII alone."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
