"""Raw rows in memory as samples: prepared one by one as they are used, as on the device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgedl.core.errors import BadSamples, BadValue
from edgedl.core.model import Signature
from edgedl.core.samples import Samples
from edgedl.runtime.process import Processing, input_of
from edgedl.train.data.dataset import Prepared, signature_of
from edgedl.train.shapes import TensorShape


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as a device would record them, and what turns one into a network's input.

    Attributes:
        called: what a row is called in errors; by its number where None.
    """

    raws: Sequence[Any] | np.ndarray
    processing: Processing
    where: str = "samples"
    origin: Mapping[str, Any] | None = None
    called: Callable[[int], str] | None = None

    def __len__(self) -> int:
        return len(self.raws)

    def bind(self, signature: Signature, rows: np.ndarray) -> Rows:  # noqa: ARG002
        """The rows as samples for a model's input.

        Raises:
            BadSamples: the pre-processing makes no input of the model.
        """
        name = input_of(self.processing.preprocess, signature).name
        # every kind is a dataclass with this field; the protocol cannot say so
        before: Any = replace(self.processing.preprocess, input=name)  # type: ignore[type-var]
        return replace(self, processing=replace(self.processing, preprocess=before))

    def name_of(self, row: int) -> str:
        """What a row is called: by its file and line where they are known."""
        return f"row {row}" if self.called is None else self.called(row)

    def load(self, row: int) -> tuple[int, Any]:
        """A row's number, and what is there."""
        return row, self.raws[row]

    def prepare(self, raw: tuple[int, Any]) -> dict[str, np.ndarray]:
        """The model's input.

        Raises:
            BadSamples: the row cannot become one; the error has its number.
        """
        row, contents = raw
        preprocess = self.processing.preprocess
        assert preprocess.input is not None, "samples are bound before they are fed"
        try:
            return {preprocess.input: preprocess.apply(contents)}
        except BadSamples as error:
            where = f"{self.where}: row {row}" if self.called is None else self.called(row)
            raise BadSamples(error.message, where=where, hint=error.hint) from error

    def digest(self, rows: np.ndarray) -> str:
        """SHA-256 of the pre-processing, its library's version, and the rows' contents."""
        preprocess = self.processing.preprocess
        settings = {**Processing(preprocess).to_json(), "input": None}
        digest = hashlib.sha256(json.dumps([settings, preprocess.decoder, len(rows)]).encode())
        for row in rows:
            digest.update(hashlib.sha256(content_of(self.raws[int(row)])).digest())
        return digest.hexdigest()


def content_of(raw: Any) -> bytes:
    """What a raw row holds, as bytes: an array, a text, or values by name."""
    if isinstance(raw, np.ndarray):
        return f"{raw.dtype} {raw.shape} ".encode() + np.ascontiguousarray(raw).tobytes()
    if isinstance(raw, Mapping):
        return json.dumps({name: str(value) for name, value in raw.items()}).encode()
    return str(raw).encode("utf-8", "surrogatepass")


def prepared(
    raws: Sequence[Any] | np.ndarray,
    name: str,
    preprocess: Any,
    where: str,
    called: Callable[[int], str] | None = None,
) -> Prepared:
    """Raw rows behind a pre-processing that makes the input `name`."""
    processing = Processing(replace(preprocess, input=name))
    inputs = {name: shape_of(preprocess)}
    return Prepared(Rows(raws, processing, where, called=called), inputs, processing)


def shape_of(preprocess: Any) -> TensorShape:
    """One sample's shape without its batch axis.

    Raises:
        BadValue: the layout has no batch axis, or a size is left open.
    """
    if not preprocess.layout.startswith("n"):
        message = f"`layout: {preprocess.layout}` has no batch axis, and training needs one"
        raise BadValue(message, keys=(preprocess.kind, "layout"), hint="one that begins with `n`")
    if None in preprocess.shape:
        message = "the pre-processing leaves a size of the input open"
        raise BadValue(message, keys=(preprocess.kind,), hint="add `resize`, or `length`")
    count = int(getattr(preprocess, "vocabulary", 0))
    return TensorShape(tuple(preprocess.shape[1:]), preprocess.dtype, count)


def as_samples(
    made: Prepared, labels: np.ndarray | None, classes: tuple[str, ...], where: str
) -> Samples:
    """All rows of a source as samples, bound to the inputs.

    Raises:
        BadSamples: they do not fit.
    """
    every = np.arange(len(made.source))
    samples = Samples(made.source, labels, every, where, classes)
    return samples.bind(signature_of(made.inputs))
