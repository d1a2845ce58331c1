"""What is fed to the artifacts that are timed: samples, or random arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgedl.benchmark.measure import Feed
from edgedl.core.errors import BadOption, BadSamples
from edgedl.core.model import Signature
from edgedl.core.samples import Samples
from edgedl.runtime.artifact import Artifact
from edgedl.runtime.session import Session

MOST_FEEDS = 32
ENOUGH_FEEDS = 16


def common_signature(artifacts: Mapping[str, Artifact], threads: int) -> Signature:
    """What all of them take.

    Raises:
        BadOption: they take unlike inputs.
    """
    first: tuple[str, Signature] | None = None
    for name, artifact in artifacts.items():
        session: Session = artifact.open(threads)
        signature = session.signature
        session.close()
        if first is None:
            first = name, signature
        elif not _alike(first[1], signature):
            raise BadOption(
                f"`{first[0]}` and `{name}` take unlike inputs",
                hint=f"`edgedl inspect` shows them; time each alone: edgedl bench {name}",
            )
    assert first is not None
    return first[1]


def _alike(a: Signature, b: Signature) -> bool:
    mine = {t.name: t for t in a.inputs}
    if {(t.name, t.dtype) for t in b.inputs} != {(t.name, t.dtype) for t in a.inputs}:
        return False
    for other in b.inputs:
        one = mine[other.name]
        if one.shape is None or other.shape is None:
            continue
        if len(one.shape) != len(other.shape) or any(
            isinstance(x, int) and isinstance(y, int) and x != y
            for x, y in zip(one.shape, other.shape, strict=True)
        ):
            return False
    return True


def timing_feeds(
    signature: Signature, samples: Samples | None, seed: int
) -> tuple[list[Feed], dict[str, Any], list[str]]:
    """What is fed in turn: the first 32 samples, or random arrays where there are none.

    Returns:
        The feeds, where they come from with their SHA-256 as JSON, and doubts.

    Raises:
        BadSamples: there is one sample only. BadOption: a shape is too dynamic for random inputs.
    """
    feeds: list[Feed]
    notes: list[str] = []
    if samples is None:
        feeds = list(random_feeds(signature, seed))
        notes.append("timed on random inputs; give --samples for real ones")
    else:
        bound = samples.bind(signature)
        if len(bound) < 2:
            raise BadSamples(
                "one sample alone is timed from warm caches",
                where=samples.where,
                hint=f"give {ENOUGH_FEEDS} or more, or leave --samples out for random ones",
            )
        feeds = list(bound.take(range(min(MOST_FEEDS, len(bound)))))
        if len(feeds) < ENOUGH_FEEDS:
            notes.append(f"{len(feeds)} samples; {ENOUGH_FEEDS} or more keep caches honest")
    digest = hashlib.sha256()
    for feed in feeds:
        for name, array in sorted(feed.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    source = "random" if samples is None else samples.where
    inputs = {"source": source, "count": len(feeds), "digest": digest.hexdigest()}
    return feeds, inputs, notes


def random_feeds(signature: Signature, seed: int, count: int = 16) -> list[dict[str, np.ndarray]]:
    """Standard normal floats, and zeros or ones for integers, in the inputs' shapes, batch 1.

    Raises:
        BadOption: a dimension other than the batch axis is dynamic.
    """
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in signature.inputs:
        shape = [
            1 if i == 0 and not isinstance(d, int) else d
            for i, d in enumerate(tensor.shape or (None,))
        ]
        if tensor.shape is None or not all(isinstance(d, int) for d in shape):
            raise BadOption(
                f"the shape of input `{tensor}` is dynamic",
                hint=f"fix it, as in `--shape {tensor.name}=1x3x224x224`, or give --samples",
            )
        shapes[tensor.name] = tuple(int(d) for d in shape if d is not None)
    feeds = []
    for _ in range(count):
        feed = {}
        for tensor in signature.inputs:
            drawn = rng.standard_normal(shapes[tensor.name])
            is_float = np.issubdtype(np.dtype(tensor.dtype), np.floating)
            feed[tensor.name] = np.asarray(drawn if is_float else drawn > 0).astype(tensor.dtype)
        feeds.append(feed)
    return feeds
