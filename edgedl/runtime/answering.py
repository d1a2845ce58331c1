"""Raw things in, answers out: a session, and what stands before and behind its network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.core.errors import BadBundle, BadOption, nearest
from edgedl.core.model import Signature
from edgedl.runtime import session_of
from edgedl.runtime.batches import takes_batches
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.process import Processing
from edgedl.runtime.session import Closing, Session
from edgedl.runtime.sign.admit import TrustSource
from edgedl.runtime.sign.sealed import KeySource

COLORS = ("rgb", "bgr", "gray")
Outputs = Mapping[str, np.ndarray]


class Answering(Closing):
    """A session that takes raw things and gives answers.

    Raw is the path of a file; an array of pixels, uint8 of shape [height, width, channels]; an
    array of sound at the model's rate, or a `Recording` with its own; frames of sensor values; a
    row of a table by column; a text, as a `str`.

    An answer is what the post-processing's kind says, or the outputs by name where there is none.

    Threads: as many may call at once as the session allows; each has a buffer of its own for inputs
    of one shape. Forks: as the session. Inputs and answers belong to the caller.
    """

    def __init__(
        self, session: Session, processing: Processing, *, color: str | None = None
    ) -> None:
        """Bind the processing to the session's model.

        Args:
            color: the order of the channels of arrays of pixels, `rgb`, `bgr` or `gray`, where it
                is not the model's own.

        Raises:
            BadSamples: the processing makes no input of the model, or reads no output of it.
            BadOption: no such order of channels, or the model takes no pictures.
        """
        self.session = session
        self.processing = processing.bind(session.signature)
        self._run: Callable[..., dict[str, np.ndarray]] = session.run
        self._recolor = _recolor(self.processing, color)
        before = self.processing.preprocess
        buffered = before.kind == "image" and None not in before.shape
        self._shape = before.shape if buffered else None
        self._threads = threading.local()
        in_front = getattr(before, "layout", "")[:1] == "n"
        self._batches = in_front and takes_batches(session.signature)

    @property
    def signature(self) -> Signature:
        """The model's inputs and outputs."""
        return self.session.signature

    def answer(self, raw: Any, **call: Any) -> Any:
        """The answer to one raw thing.

        Args:
            call: what the session's `run` takes beside its inputs.

        Raises:
            BadSamples: it is missing or damaged, or cannot become an input.
            WrongInput: the session is closed, or the outputs are not such as the post-processing
                takes. EngineFailed: the engine failed while it ran.
        """
        contents = self._contents(raw)
        feed = self._feed(contents)
        return self._answer(contents, feed, self._run(feed, **call))

    def answers(self, raws: Iterable[Any], *, batch: int = 1, **call: Any) -> Iterator[Any]:
        """The answers in order, each as soon as it is there.

        Args:
            batch: how many the network is to take at once, where its first axes are free and the
                inputs are alike in shape; elsewhere it takes them one by one.

        Raises:
            BadOption: `batch` is below 1; others as `answer`.
        """
        if batch < 1:
            raise BadOption(f"`batch` is {batch}", hint="1 or more")
        return self._answers(iter(raws), batch if self._batches else 1, call)

    def close(self) -> None:
        """Close the session."""
        self.session.close()

    def _contents(self, raw: Any) -> Any:
        if self._recolor is not None and isinstance(raw, np.ndarray):
            return self._recolor(raw)
        return self.processing.contents(raw)

    def _feed(self, contents: Any) -> dict[str, np.ndarray]:
        """The feed, in this thread's buffer where there is one."""
        if self._shape is None:
            return self.processing.feed(contents)
        before: Any = self.processing.preprocess
        buffer = getattr(self._threads, "buffer", None)
        if buffer is None:
            buffer = self._threads.buffer = np.empty(self._shape, before.dtype)
        return {before.input: before.apply(contents, buffer)}

    def _answer(self, contents: Any, feed: Outputs, outputs: Outputs) -> Any:
        return self.processing.after(outputs, self.processing.seen(contents, feed))

    def _answers(self, raws: Iterator[Any], batch: int, call: Mapping[str, Any]) -> Iterator[Any]:
        if batch == 1:
            for raw in raws:
                yield self.answer(raw, **call)
            return
        while some := [self._contents(raw) for raw in islice(raws, batch)]:
            feeds = [self.processing.feed(contents) for contents in some]
            outputs = self._together(feeds, call)
            for i, contents in enumerate(some):
                yield self._answer(contents, feeds[i], outputs[i])

    def _together(
        self, feeds: Sequence[Mapping[str, np.ndarray]], call: Mapping[str, Any]
    ) -> list[Outputs]:
        """The outputs of each feed, from one call where the network takes them all at once."""
        [name] = feeds[0]
        arrays = [feed[name] for feed in feeds]
        if len(arrays) > 1 and len({array.shape for array in arrays}) == 1:
            found = self._run({name: np.concatenate(arrays)}, **call)
            if all(array.ndim and len(array) == len(arrays) for array in found.values()):
                return [
                    {key: array[i : i + 1] for key, array in found.items()}
                    for i in range(len(arrays))
                ]
        return [self._run(feed, **call) for feed in feeds]


def answering(
    path: str | Path,
    *,
    color: str | None = None,
    trust: TrustSource | None = None,
    key: KeySource | None = None,
    **opening: Any,
) -> Answering:
    """What answers raw things by the bundle at `path`; a `with` closes it.

    Args:
        color: the order of the channels of arrays of pixels, where it is not the model's own.
        trust, key: as `edgedl.open`; nothing of an untrusted bundle is read.
        opening: what else `edgedl.open` takes beside the path.

    Raises:
        BadBundle: the file is damaged or no bundle, or does not say what stands before the network.
        BadSamples, BadOption: as `Answering`; others as `edgedl.open`.
    """
    bundle = open_bundle(path, sparing=True, trust=trust, key=key)
    processing = bundle.processing()
    if processing is None:
        raise BadBundle(
            "it does not say what turns raw things into inputs",
            where=str(path),
            hint="`edgedl compress --preprocess SPEC.yaml` writes it into the bundle;"
            " `edgedl.open` takes arrays",
        )
    session = session_of(bundle, **opening)
    try:
        return Answering(session, processing, color=color)
    except BaseException:
        session.close()
        raise


def _recolor(
    processing: Processing, color: str | None
) -> Callable[[np.ndarray], np.ndarray] | None:
    """What brings an array of pixels into the model's order of channels; None where it is."""
    if color is None:
        return None
    if color not in COLORS:
        raise BadOption(f"`color` is `{color}`", hint=nearest(str(color), COLORS))
    if processing.preprocess.kind != "image":
        message = f"`color` is of pictures, and the model takes a {processing.preprocess.kind}"
        raise BadOption(message, hint="leave it out")
    from edgedl.runtime.process.image import recolored

    wanted: str = getattr(processing.preprocess, "color", color)
    return None if wanted == color else lambda pixels: recolored(pixels, color, wanted)
