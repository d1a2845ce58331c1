"""Outliers of activations moved into the weights that read them, where int8 has room for them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from edgedl.core.model import Model
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.passes.calibrate import watching
from edgedl.passes.channels import (
    Part,
    Site,
    apply,
    largest_read,
    scale,
    shape,
    weight_read_by,
)
from edgedl.passes.graph import constant, drop_unused_initializers, read, rewrite
from edgedl.passes.sites import find_sites, with_shapes

MOST_SAMPLES = 64
QUIET = 0.1
MOST_SPREAD = 1e4
ROOM = 1.25


@dataclass(frozen=True, eq=False)
class Maxima:
    """The largest magnitudes of tensors by channel, float64, in the float model; by tensor name."""

    of: Mapping[str, np.ndarray] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for name, maxima in sorted(self.of.items()):
            digest.update(f"{name} {maxima.shape}".encode() + maxima.tobytes())
        return {"tensors": len(self.of), "digest": digest.hexdigest()}


def channel_maxima(model: Model, samples: Samples, progress: Progress = silent) -> Maxima:
    """The maxima of what products with constant weights read, and of what clips make, over 64
    samples at most.

    Raises:
        Missing: no engine is installed. EngineFailed: the engine refuses the model.
    """
    graph = with_shapes(read(model.path))
    axes = {group.value.name or "": group.axis for group in find_groups(graph)}
    axes |= {
        bound.node.outputs[0].name or "": 1 for site in find_sites(graph) for bound in site.bounds
    }
    if not axes:
        return Maxima()
    few = samples.take(range(min(MOST_SAMPLES, len(samples))))
    inputs = {tensor.name for tensor in model.signature.inputs}
    found: dict[str, np.ndarray] = {}
    with watching(model, few, [name for name in axes if name not in inputs]) as session:
        for i, feed in enumerate(few):
            seen = {**feed, **session.run(feed)}
            for name, axis in axes.items():
                array = np.abs(np.moveaxis(seen[name], axis, -1))
                largest = array.reshape(-1, array.shape[-1]).max(axis=0, initial=0.0)
                largest = largest.astype(np.float64)
                found[name] = np.maximum(found[name], largest) if name in found else largest
            progress("maxima of channels", i + 1, len(few))
    return Maxima(found)


@dataclass(frozen=True)
class Smooth:
    """The same function with activations whose channels are of more even size.

    Xiao et al., SmoothQuant (ICML 2023): channel j of what products read is divided by
    max|X_j|^alpha / max|W_j|^(1 - alpha), and their weights are multiplied by it. The division goes
    into the norm, product or constants that make the tensor, by way of what only clips at zero,
    pools or moves; a tensor that something else reads as well is left alone.

    Attributes:
        samples: what the maxima of channels are found with.
        alpha: how much of the outliers moves into the weights, 0 to 1.
        insert: divide where matrix products read, by a multiplication of its own, where nothing
            before it can take the division.
    """

    name: ClassVar[str] = "smooth"
    samples: Samples
    alpha: float = 0.5
    insert: bool = False

    def __call__(self, model: Model) -> Model:
        maxima = channel_maxima(model, self.samples)
        return rewrite(model, SmoothBy(maxima, self.alpha, self.insert))


@dataclass(frozen=True)
class SmoothBy:
    """What `Smooth` does, with maxima that were found before."""

    name: ClassVar[str] = "smooth"
    maxima: Maxima
    alpha: float = 0.5
    insert: bool = False

    def __call__(self, model: Model) -> Model:
        return rewrite(model, self)

    def edit(self, graph: ir.Model) -> None:
        done: set[ir.Node] = set()
        for site in find_sites(with_shapes(graph)):
            factors = self._of_site(site)
            if factors is not None:
                apply(graph.graph, site, factors)
                done |= {part.node for part in site.read}
        if self.insert:
            for group in find_groups(graph.graph):
                if all(part.node.op_type in ("Gemm", "MatMul") for part in group.parts):
                    self._insert(graph.graph, group, done)
        drop_unused_initializers(graph)

    def _of_site(self, site: Site) -> np.ndarray | None:
        seen = [self.maxima.of.get(value.name or "") for value in site.inputs]
        if any(one is None or one.size != site.channels for one in seen):
            return None
        held = np.max([one for one in seen if one is not None], axis=0)
        factors = smoothing(held, largest_read(site), self.alpha)
        if factors is None or not site.bounds:
            return factors
        return within_bounds(factors, site, self.maxima)

    def _insert(self, graph: ir.Graph, group: Group, done: Collection[ir.Node]) -> None:
        value, parts = group.value, [part for part in group.parts if part.node not in done]
        held, sizes = self.maxima.of.get(value.name or ""), shape(value)
        if held is None or not parts or sizes is None or held.size != max(parts[0].factors):
            return
        factors = smoothing(held, np.max([part.largest() for part in parts], axis=0), self.alpha)
        if factors is None:
            return
        wide = [held.size if axis == group.axis % len(sizes) else 1 for axis in range(len(sizes))]
        by = constant(
            graph, f"{value.name}_smoothing", (1 / factors).astype(np.float32).reshape(wide)
        )
        node = ir.node("Mul", [value, by], name=f"{value.name}_smoothed")
        smoothed = node.outputs[0]
        smoothed.name, smoothed.type, smoothed.shape = f"{node.name}_out", value.type, value.shape
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], node)
        else:
            graph.insert_after(producer, node)
        for part in parts:
            scale(graph, part, factors)
            part.node.replace_input_with(0, smoothed)


def smoothing(held: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray | None:
    """The factors that activations with these maxima are divided by, [channels], float64.

    The quietest tenth of the channels shares a factor, as in NNCF, so that channels that hardly
    ever speak do not decide; None where nothing is to be gained, or something is not finite.
    """
    if not (np.isfinite(held).all() and np.isfinite(weights).all()):
        return None
    used = (held > 0) & (weights > 0)
    if used.sum() < 2:
        return None
    factors = np.ones_like(held)
    factors[used] = held[used] ** alpha / weights[used] ** (1 - alpha)
    least = np.quantile(factors[used], QUIET)
    factors = np.where(used, np.clip(factors, least, MOST_SPREAD * least), least)
    return np.asarray(factors / np.exp(np.mean(np.log(factors))))


def within_bounds(factors: np.ndarray, site: Site, maxima: Maxima) -> np.ndarray | None:
    """Factors with which clips between source and readers do what they did: 1 where a clip was
    reached, and otherwise such that a quarter more than the largest value is still below it."""
    found = factors.copy()
    for bound in site.bounds:
        held = maxima.of.get(bound.node.outputs[0].name or "")
        if held is None or held.size != found.size:
            return None
        if np.isinf(bound.high):
            continue
        free = ROOM * held < bound.high
        found = np.where(free, np.maximum(found, ROOM * held / bound.high), 1.0)
    return np.asarray(found)


@dataclass(frozen=True, eq=False)
class Group:
    """Products with constant weights that read one tensor, and the axis of its channels."""

    value: ir.Value
    axis: int
    parts: tuple[Part, ...]


def find_groups(graph: ir.Graph) -> list[Group]:
    """Every tensor that products with constant weights read, in graph order."""
    found: dict[tuple[ir.Value, int], list[Part]] = {}
    for node in graph:
        value = node.inputs[0] if node.inputs else None
        sizes = shape(value)
        if value is None or not sizes or value.const_value is not None:
            continue
        axis = 1 if node.op_type in ("Conv", "ConvTranspose") else len(sizes) - 1
        channels = sizes[axis] if axis < len(sizes) else None
        part = weight_read_by(node, channels, axis, len(sizes)) if channels else None
        if part is not None and node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            found.setdefault((value, axis), []).append(part)
    return [Group(value, axis, tuple(parts)) for (value, axis), parts in found.items()]
