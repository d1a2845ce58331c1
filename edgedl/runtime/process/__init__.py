"""What stands before and behind a network: raw files to inputs, outputs to answers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from edgedl.core.errors import BadSamples, BadValue, nearest
from edgedl.core.fields import from_plain, to_plain
from edgedl.core.model import Signature, Tensor
from edgedl.core.registry import load
from edgedl.runtime.process.postprocess import Postprocess, Seen, read, written

if TYPE_CHECKING:
    from edgedl.runtime.process.boxes import Boxes


class Preprocess(Protocol):
    """What turns a raw file into a model's input, in two steps that can be timed apart.

    A frozen dataclass, whose fields are its settings; a kind is one class and a line in `KINDS`.
    """

    kind: ClassVar[str]
    suffixes: ClassVar[frozenset[str]]

    @property
    def input(self) -> str | None:
        """The model's input that it makes; its only one where None."""

    @property
    def dtype(self) -> str:
        """The input's type, by numpy's name."""

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The input's shape, None where it is the file's own."""

    @property
    def decoder(self) -> str:
        """The library whose version the answers may depend on."""

    def decode(self, path: str | Path) -> Any:
        """A file's contents, before any setting but the order of channels is applied.

        Raises:
            BadSamples: the file is missing or damaged. Missing: a library is not installed.
        """

    def apply(self, raw: Any) -> np.ndarray:
        """The input, of what `decode` gives, or a camera or a microphone.

        Raises:
            BadSamples: it cannot become one.
        """


KINDS: Mapping[str, str] = {
    "image": "edgedl.runtime.process.image:Image",
    "sound": "edgedl.runtime.process.sound:Sound",
    "features": "edgedl.runtime.process.features:Features",
    "series": "edgedl.runtime.process.series:Series",
    "table": "edgedl.runtime.process.table:Table",
    "text": "edgedl.runtime.process.text:Text",
}
LAYOUTS = (
    *("nchw", "nhwc", "nhw", "chw", "hwc", "hw", "nt", "nct", "ntc", "t", "ct", "tc"),
    *("ncft", "nctf", "nft", "ntf", "cft", "ctf", "ft", "tf", "nf", "f"),
)


@dataclass(frozen=True)
class Processing:
    """What stands before a network, and what stands behind it, or None."""

    preprocess: Preprocess
    postprocess: Postprocess | None = None

    def before(self, raw: Any) -> dict[str, np.ndarray]:
        """The feed of a session: of a file, given by its path, or of what a device recorded.

        Where texts are recorded, a `str` is the text itself, and a file is given as a `Path`.

        Raises:
            BadSamples: it is missing or damaged, cannot become an input, or nobody has said which.
        """
        return self.feed(self.contents(raw))

    def contents(self, raw: Any) -> Any:
        """What a file holds, given by its path; anything else as it is."""
        is_text = self.preprocess.kind == "text" and isinstance(raw, str)
        if isinstance(raw, (str, os.PathLike)) and not is_text:
            return self.preprocess.decode(os.fspath(raw))
        return raw

    def feed(self, contents: Any) -> dict[str, np.ndarray]:
        """The feed of a session, of what `contents` gives.

        Raises:
            BadSamples: it cannot become an input, or nobody has said which.
        """
        if self.preprocess.input is None:
            raise BadSamples("which input is it for?", hint="`.bind(session.signature)` finds it")
        return {self.preprocess.input: self.preprocess.apply(contents)}

    def seen(self, contents: Any, feed: Mapping[str, np.ndarray]) -> Seen:
        """What the post-processing may want to know of the input beside the outputs."""
        in_picture = getattr(self.postprocess, "of", None) == "picture"
        place = getattr(self.preprocess, "place", None) if in_picture else None
        return Seen(feed, None if place is None else place(contents.shape[:2]))

    def after(self, outputs: Mapping[str, np.ndarray], seen: Seen | None = None) -> Any:
        """The answer that a session's outputs are; the outputs where nothing stands behind.

        Args:
            seen: what the outputs are of: an anomaly is found by comparing with it, and what lies
                in a picture is found by where the input lies there.

        Raises:
            WrongInput: the outputs are not such as the post-processing takes.
        """
        return outputs if self.postprocess is None else self.postprocess.apply(outputs, seen)

    def bind(self, signature: Signature) -> Processing:
        """The same for a model, its input and its output named.

        Raises:
            BadSamples: it makes no such input, or reads no such output.
        """
        name = input_of(self.preprocess, signature).name
        # every kind is a dataclass with this field; the protocol cannot say so
        preprocess = replace(self.preprocess, input=name)  # type: ignore[type-var]
        if self.postprocess is None:
            return Processing(preprocess)
        outputs = [tensor.name for tensor in signature.outputs]
        output = self.postprocess.output or outputs[0]
        for wanted in (output, *(self.boxes.outputs if self.boxes else ())):
            if wanted not in outputs:
                hint = nearest(wanted, outputs)
                raise BadSamples(f"the model has no output `{wanted}` to post-process", hint=hint)
        # and so has every kind of post-processing
        return Processing(preprocess, replace(self.postprocess, output=output))  # type: ignore[type-var]

    @property
    def boxes(self) -> Boxes | None:
        """How the outputs hold boxes, where they do."""
        return getattr(self.postprocess, "boxes", None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: the pre-processing's settings, and `postprocess` beside them."""
        after = self.postprocess
        document = {"kind": self.preprocess.kind, **to_plain(self.preprocess)}
        return {**document, "postprocess": None if after is None else written(after)}

    @classmethod
    def from_json(cls, document: Any) -> Processing:
        """What `to_json` wrote, or a person.

        Raises:
            BadValue: a key is unknown or missing, or a value is impossible; `keys` says which.
        """
        if not isinstance(document, Mapping):
            raise BadValue("no pre-processing in it", hint="begin with `kind: image`")
        settings = {k: v for k, v in document.items() if k not in ("kind", "postprocess")}
        kind = document.get("kind")
        if kind is None:
            known = ", ".join(KINDS)
            raise BadValue("the document lacks `kind`", hint=f"add `kind: ...`, one of {known}")
        if not isinstance(kind, str) or kind not in KINDS:
            message = f"unknown kind of pre-processing `{kind}`"
            raise BadValue(message, keys=("kind",), hint=nearest(str(kind), KINDS))
        found = load(KINDS[kind], f"pre-processing of kind `{kind}`")
        before: Preprocess = from_plain(found, settings, also=("kind", "postprocess"))
        after = document.get("postprocess")
        if after is None:
            return cls(before)
        try:
            return cls(before, read(after))
        except BadValue as error:
            raise error.under(("postprocess",)) from None


def input_of(preprocess: Preprocess, signature: Signature) -> Tensor:
    """The input of a model that a pre-processing makes.

    Raises:
        BadSamples: there is none of its name, type and shape, or it leaves others unfed.
    """
    inputs = {tensor.name: tensor for tensor in signature.inputs}
    name = preprocess.input or next(iter(inputs), "")
    if name not in inputs:
        raise BadSamples(f"the model has no input `{name}`", hint=nearest(name, inputs))
    if len(inputs) > 1:
        others = ", ".join(f"`{other}`" for other in inputs if other != name)
        raise BadSamples(
            f"one file makes one input, and the model also takes {others}",
            hint="give samples as .npz, with an array for each input",
        )
    tensor = inputs[name]
    if tensor.dtype != preprocess.dtype:
        raise BadSamples(
            f"the pre-processing makes {preprocess.dtype}, the model's input is {tensor}",
            hint=f"`dtype: {tensor.dtype}`, where the kind `{preprocess.kind}` knows it",
        )
    if not could_fit(preprocess.shape, tensor):
        raise BadSamples(
            f"the pre-processing makes {_shown(preprocess.shape)}, the model's input is {tensor}",
            hint=_other_layout(preprocess, tensor)
            or "`session.signature`, or `edgedl inspect`, shows the inputs",
        )
    return tensor


def could_fit(shape: tuple[int | None, ...], tensor: Tensor) -> bool:
    """Whether an input may have this shape, where dimensions are known on both sides."""
    return tensor.shape is None or (
        len(shape) == len(tensor.shape)
        and all(
            not isinstance(wanted, int) or size is None or size == wanted
            for size, wanted in zip(shape, tensor.shape, strict=True)
        )
    )


def _other_layout(preprocess: Preprocess, tensor: Tensor) -> str | None:
    """A layout that would fit, as a hint."""
    for layout in LAYOUTS:
        try:
            other: Preprocess = from_plain(
                type(preprocess), {**to_plain(preprocess), "layout": layout}
            )
        except BadValue:
            continue
        if could_fit(other.shape, tensor):
            return f"`layout: {layout}` would fit"
    return None


def _shown(shape: tuple[int | None, ...]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape)
