"""Run a model once over samples and count what its tensors hold."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgedl.core.memory import available_bytes, usable_cores
from edgedl.core.model import Model
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.passes.graph import FILE_NAME, read, shape_of, write_beside
from edgedl.passes.ranges import Histogram
from edgedl.passes.shapes import Shapes
from edgedl.runtime import any_engine
from edgedl.runtime.session import Session

HISTOGRAM_BYTES = 160_000
DEFAULT_LIMIT_BYTES = 4 * 10**9
FRUGAL = {"memory_pattern": False, "reuse_outputs": True}


@dataclass(frozen=True)
class Forecast:
    """What a calibration will take: its peak beyond what the process holds already, in bytes, the
    groups of tensors, each of which runs the model once over the samples, and the limit."""

    peak_bytes: int
    groups: tuple[tuple[str, ...], ...]
    limit_bytes: int


def forecast(
    model: Model, tensors: Sequence[str], samples: Samples, limit_bytes: int | None = None
) -> Forecast:
    """The memory that `calibrate` will take, and the groups that keep it under the limit.

    The limit, where none is given, is a quarter of the memory that is available. A tensor that
    alone passes it gets a group of its own.
    """
    return _forecast(_concrete(model, samples), model, tensors, limit_bytes)


def _concrete(model: Model, samples: Samples) -> ir.Model:
    """The graph with the samples' shapes; an input that is empty, as a state is before the first
    step, keeps its own."""
    graph = read(model.path)
    shapes = {name: array.shape for name, array in samples.feed(0).items() if array.size}
    Shapes(shapes).edit(graph)
    return graph


def _forecast(
    graph: ir.Model, model: Model, tensors: Sequence[str], limit_bytes: int | None
) -> Forecast:
    if limit_bytes is None:
        limit_bytes = (available_bytes() or DEFAULT_LIMIT_BYTES) // 4
    sizes = {value.name or "": _bytes(value) for node in graph.graph for value in node.outputs}
    live = 2 * max(sizes.values(), default=0)
    fixed = 3 * model.bytes + live
    groups: list[list[str]] = []
    used = room = max(limit_bytes - fixed, 0)
    peak = 0
    for name in tensors:
        size = 2 * sizes.get(name, 0) + HISTOGRAM_BYTES
        if not groups or used + size > room:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
        peak = max(peak, used)
    return Forecast(fixed + peak, tuple(map(tuple, groups)), limit_bytes)


def _bytes(value: ir.Value) -> int:
    shape = shape_of(value)
    if value.shape is None or not all(isinstance(dimension, int) for dimension in shape):
        return 0
    return math.prod(int(d) for d in shape if d is not None) * 4


def calibrate(
    model: Model,
    tensors: Sequence[str],
    samples: Samples,
    *,
    limit_bytes: int | None = None,
    progress: Progress = silent,
) -> dict[str, Histogram]:
    """Histograms of float tensors of the graph, by name, over all samples.

    The model runs once over the samples, or once for each group of tensors where all of them at
    once would pass the memory limit; what is kept does not grow with the samples.

    Raises:
        Missing: no engine is installed. EngineFailed: the engine refuses the model.
    """
    histograms = {name: Histogram() for name in tensors}
    inputs = {tensor.name for tensor in model.signature.inputs}
    graph = _concrete(model, samples)
    plan = _forecast(graph, model, [name for name in tensors if name not in inputs], limit_bytes)
    del graph
    groups = plan.groups or ((),)
    total = len(groups) * len(samples)
    fed = [name for name in tensors if name in inputs]

    def count(seen: dict[str, np.ndarray], watched: Sequence[str]) -> None:
        for name in watched:
            histograms[name].add(seen.pop(name))

    with ThreadPoolExecutor(1) as counter:
        for number, group in enumerate(groups):
            watched = [*group, *(fed if number == 0 else ())]
            with watching(model, samples, group) as session:
                counting = None
                for i, feed in enumerate(samples):
                    seen = {**feed, **session.run(feed)} if group else feed
                    if counting is not None:
                        counting.result()
                    counting = counter.submit(count, seen, watched)
                    progress("calibrating", number * len(samples) + i + 1, total)
                if counting is not None:
                    counting.result()
    return histograms


@contextmanager
def watching(model: Model, samples: Samples, tensors: Sequence[str]) -> Iterator[Session]:
    """A session of the model whose outputs include these tensors."""
    graph = _concrete(model, samples)
    wanted = set(tensors) - {value.name for value in graph.graph.outputs}
    for node in graph.graph:
        graph.graph.outputs.extend(value for value in node.outputs if value.name in wanted)
    folder = Path(tempfile.mkdtemp(prefix=".watching-", dir=model.path.parent))
    try:
        write_beside(graph, model, folder / FILE_NAME)
        del graph
        with any_engine().open_model(
            folder / FILE_NAME, settings=FRUGAL, threads=max(1, usable_cores() - 1)
        ) as session:
            yield session
    finally:
        shutil.rmtree(folder, ignore_errors=True)
