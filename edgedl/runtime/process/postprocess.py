"""Outputs to answers: a table of kinds, each one frozen dataclass, imported when it is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

import numpy as np

from edgedl.core.errors import BadValue, WrongInput, nearest
from edgedl.core.fields import from_plain, to_plain
from edgedl.core.registry import load
from edgedl.runtime.process.place import Place

KINDS: Mapping[str, str] = {
    "softmax": "edgedl.runtime.process.scores:Softmax",
    "sigmoid": "edgedl.runtime.process.scores:Sigmoid",
    "argmax": "edgedl.runtime.process.scores:Argmax",
    "top-k": "edgedl.runtime.process.scores:TopK",
    "threshold": "edgedl.runtime.process.scores:Threshold",
    "binary": "edgedl.runtime.process.scores:Binary",
    "boxes": "edgedl.runtime.process.detect:Detect",
    "values": "edgedl.runtime.process.values:Values",
    "anomaly": "edgedl.runtime.process.values:Anomaly",
    "embedding": "edgedl.runtime.process.values:Embedding",
    "ctc": "edgedl.runtime.process.sequences:Ctc",
    "tags": "edgedl.runtime.process.sequences:Tags",
    "mask": "edgedl.runtime.process.maps:Mask",
    "keypoints": "edgedl.runtime.process.maps:Keypoints",
}
# what bundles of 0.1 wrote for every kind, and which says nothing where a kind has no such setting
SAID_NOTHING: Mapping[str, Any] = {
    "output": None, "axis": -1, "k": 5, "activation": None, "labels": [], "boxes": None,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Seen:
    """What the network was given: its feed, and where that lies in the picture that it is of."""

    feed: Mapping[str, np.ndarray]
    place: Place | None = None


class Postprocess(Protocol):
    """What turns the outputs of one sample into an answer.

    A frozen dataclass, whose fields are its settings; a kind is one class and a line in `KINDS`.
    """

    kind: ClassVar[str]

    @property
    def output(self) -> str | None:
        """The output that is taken; the first where None."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes in order, or none."""

    def apply(self, outputs: Mapping[str, np.ndarray], seen: Seen | None = None) -> Any:
        """The answer that a session's outputs are.

        Raises:
            WrongInput: the outputs are not such as the kind takes.
        """


def read(document: Any) -> Postprocess:
    """The post-processing that a document describes: its `kind`, and that kind's settings.

    Raises:
        BadValue: there is no such kind, a key is unknown or missing, or a value is impossible.
    """
    if not isinstance(document, Mapping):
        raise BadValue("no post-processing in it", hint="`{kind: top-k}`")
    kind = document.get("kind")
    if kind is None:
        raise BadValue("the document lacks `kind`", hint=f"one of {', '.join(KINDS)}")
    if not isinstance(kind, str) or kind not in KINDS:
        message = f"unknown kind of post-processing `{kind}`"
        raise BadValue(message, keys=("kind",), hint=nearest(str(kind), KINDS))
    found = kind_of(kind)
    known = {field.name for field in fields(found)}
    settings = {
        key: value
        for key, value in document.items()
        if key != "kind" and (key in known or not _says_nothing(key, value))
    }
    after: Postprocess = from_plain(found, settings, also=("kind",))
    return after


def kind_of(name: str) -> type[Any]:
    """The class of a kind that `KINDS` knows."""
    found: type[Any] = load(KINDS[name], f"post-processing of kind `{name}`")
    return found


def written(after: Postprocess) -> dict[str, Any]:
    """What `read` reads, every setting named."""
    return {"kind": after.kind, **to_plain(after)}


def taken(outputs: Mapping[str, np.ndarray], name: str | None) -> np.ndarray:
    """The output of this name, as it is; the first where None.

    Raises:
        WrongInput: there is none.
    """
    name = name or next(iter(outputs), "")
    if name not in outputs:
        raise WrongInput(f"`{name}` is not an output", hint=nearest(name, outputs))
    return outputs[name]


def _says_nothing(key: Any, value: Any) -> bool:
    return (
        key in SAID_NOTHING
        and type(value) is type(SAID_NOTHING[key])
        and (value == SAID_NOTHING[key])
    )
