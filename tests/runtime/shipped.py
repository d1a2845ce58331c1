"""Small bundles with payloads for whatever engines a test names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.passes.graph import to_ship
from edgedl.runtime import any_engine
from edgedl.runtime.golden import Answer, Golden, coarse
from edgedl.runtime.payload import Payload
from edgedl.runtime.writing import Contents, write_bundle
from tests.models import answers, conv_net, feeds, saved

PART = "models/net.onnx"


def payload(engine: str | None = None, format_: str = "onnx", **more: Any) -> Payload:
    """One of the net's part, for an engine, or for one that is installed."""
    values = {"part": PART, "precision": "float32", "settings": {}, **more}
    return Payload(engine or any_engine().name, format_, **values)


@cache
def answered() -> tuple[dict[str, np.ndarray], ...]:
    """Two inputs, coarse, of the net."""
    from edgedl.core.model import Signature, Tensor

    signature = Signature((Tensor("x", "float32", (1, 3, 8, 8)),), ())
    return tuple(coarse(feed) for feed in feeds(signature, 2))


def written(
    path: Path, payloads: Sequence[Payload], *, wrong: float = 0.0, later: float = 0.0, **more: Any
) -> Path:
    """A bundle of one net, whose golden answers are off by `wrong`, the second one's by `later`."""
    model = saved(conv_net(), path.parent)
    data, names = to_ship(model)
    rows = answers(data, list(answered()), any_engine().name)
    off = [wrong, wrong + later]
    golden = [
        {k: Answer.of(v + add) for k, v in row.items()} for row, add in zip(rows, off, strict=True)
    ]
    write_bundle(
        path,
        Contents(
            signature=model.signature,
            payloads=[(one, more.get(one.part, data)) for one in payloads],
            golden=Golden(answered(), tuple(golden), 0.01),
            history=[],
            notes={},
            names=names,
        ),
    )
    return path
