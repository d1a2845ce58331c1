"""Texts to inputs: a row of token ids, by the `tokenizers` library."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from edgedl.core.errors import BadSamples, BadValue
from edgedl.core.registry import missing

MOST_JSON = 1 << 25
MOST_LENGTH = 1 << 17
MOST_BYTES = 1 << 24


@dataclass(frozen=True)
class Text:
    """What turns a text into an input: token ids, cut behind `length`, filled up with `padding`.

    Attributes:
        tokenizer: what `tokenizers.Tokenizer.to_str` writes; its own truncation and padding are
            not obeyed.
        length: tokens of the input, special ones included.
        padding: the id that follows a shorter text.
        layout: the axes of the input: `n` is 1, `t` are the tokens.
        input: the model's input; its only one where None.
    """

    kind: ClassVar[str] = "text"
    suffixes: ClassVar[frozenset[str]] = frozenset({".txt"})

    tokenizer: str
    length: int
    padding: int = 0
    layout: Literal["nt", "t"] = "nt"
    dtype: Literal["int64", "int32"] = "int64"
    input: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.length <= MOST_LENGTH:
            hint = f"1 to {MOST_LENGTH} tokens"
            raise BadValue(f"`length` is {self.length}", keys=("length",), hint=hint)
        if not 0 <= self.padding < 2**31:
            hint = "the id of a token, 0 or more"
            raise BadValue(f"`padding` is {self.padding}", keys=("padding",), hint=hint)
        if len(self.tokenizer) > MOST_JSON:
            message = f"`tokenizer` has {len(self.tokenizer)} characters"
            raise BadValue(message, keys=("tokenizer",), hint=f"{MOST_JSON} at most")
        try:
            document = json.loads(self.tokenizer)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict) or "model" not in document:
            message, hint = "`tokenizer` is no tokenizer's JSON", "what `Tokenizer.to_str` writes"
            raise BadValue(message, keys=("tokenizer",), hint=hint)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of the input."""
        return (1, self.length) if self.layout == "nt" else (self.length,)

    @property
    def decoder(self) -> str:
        """The library that makes the tokens, and its version."""
        return f"tokenizers {tokenizers().__version__}"

    @cached_property
    def _encoder(self) -> Any:
        library = tokenizers()
        try:
            found = library.Tokenizer.from_str(self.tokenizer)
        except Exception as error:
            reason = " ".join(str(error).split())[:120]
            message = f"the tokenizer cannot be used ({reason})"
            raise BadSamples(message, hint="pip install --upgrade tokenizers") from error
        found.no_truncation()
        found.no_padding()
        return found

    @property
    def vocabulary(self) -> int:
        """How many ids there may be, the padding among them.

        Raises:
            Missing: the library is not installed.
        """
        ids = self._encoder.get_vocab(with_added_tokens=True).values()
        return int(max(self.padding, *ids)) + 1

    def decode(self, path: str | Path) -> str:
        """The text of a UTF-8 file.

        Raises:
            BadSamples: the file is missing, too large, or no UTF-8.
        """
        try:
            with Path(path).open("rb") as file:
                content = file.read(MOST_BYTES + 1)
            if len(content) > MOST_BYTES:
                raise _bad(path, f"larger than {MOST_BYTES >> 20} MiB")
            return content.decode("utf-8-sig")
        except FileNotFoundError as error:
            raise _bad(path, "no such file") from error
        except UnicodeDecodeError as error:
            raise _bad(path, f"no UTF-8 at byte {error.start}") from error
        except OSError as error:
            raise _bad(path, f"cannot be read ({error.strerror})") from error

    def apply(self, raw: str) -> np.ndarray:
        """The model's input, of a text: as many tokens as `length` says, of `dtype`, cut off or
        filled up; behind an axis of 1 in the layout `nt`.

        Raises:
            BadSamples: it is none. Missing: the library is not installed.
        """
        if not isinstance(raw, str):
            raise BadSamples(f"{type(raw).__name__} is no text", hint="give a `str`")
        if len(raw) > MOST_BYTES:
            raise BadSamples(f"a text of {len(raw)} characters", hint=f"{MOST_BYTES} at most")
        try:
            raw.encode()
        except UnicodeEncodeError:
            message = "the text holds half a character (a lone surrogate)"
            raise BadSamples(message, hint="decode it as UTF-8") from None
        ids = self._encoder.encode(raw).ids[: self.length]
        found = np.full(self.length, self.padding, self.dtype)
        found[: len(ids)] = ids
        return found[None] if self.layout == "nt" else found


def tokenizers() -> Any:
    """The library `tokenizers`.

    Raises:
        Missing: it is not installed.
    """
    try:
        import tokenizers as library
    except ModuleNotFoundError as error:
        raise missing(error, "turning texts into tokens") from error
    return library


def _bad(path: str | Path, reason: str) -> BadSamples:
    return BadSamples(reason, where=str(path), hint="remove it, or put a sound one")
