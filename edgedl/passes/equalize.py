"""Weights of neighbouring layers brought to even ranges, and high biases handed on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from edgedl.core.model import Model
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.passes.calibrate import watching
from edgedl.passes.channels import PRODUCTS, Part, Site, apply, largest_read
from edgedl.passes.graph import constant, drop_unused_initializers, read, rewrite
from edgedl.passes.sites import find_sites, with_shapes
from edgedl.passes.smooth import ROOM, Maxima, within_bounds

MOST_SAMPLES = 64
MOST_ROUNDS = 100
SETTLED = 1e-3
MOST_FACTOR = 1e4
DEVIATIONS = 3.0


@dataclass(frozen=True, eq=False)
class Seen:
    """What samples show of the tensors between neighbouring layers, by name and channel, float64:
    the largest magnitudes, the least values, means and standard deviations."""

    largest: Mapping[str, np.ndarray] = field(default_factory=dict)
    least: Mapping[str, np.ndarray] = field(default_factory=dict)
    mean: Mapping[str, np.ndarray] = field(default_factory=dict)
    deviation: Mapping[str, np.ndarray] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for kind in (self.largest, self.least, self.mean, self.deviation):
            for name, found in sorted(kind.items()):
                digest.update(f"{name} {found.shape}".encode() + found.tobytes())
        return {"tensors": len(self.largest), "digest": digest.hexdigest()}


def channels_seen(model: Model, samples: Samples, progress: Progress = silent) -> Seen:
    """What 64 samples at most show of what products make that others read.

    Raises:
        Missing: no engine is installed. EngineFailed: the engine refuses the model.
    """
    graph = with_shapes(read(model.path))
    axes: dict[str, int] = {}
    for site in find_sites(graph, PRODUCTS):
        spatial = site.source.op_type in ("Conv", "ConvTranspose")
        tensors = [bound.node.outputs[0] for bound in site.bounds]
        moving = _absorbing(site)
        for value in [*tensors, moving] if moving is not None else tensors:
            axes[value.name or ""] = 1 if spatial else -1
    if not axes:
        return Seen()
    largest: dict[str, np.ndarray] = {}
    least: dict[str, np.ndarray] = {}
    sums: dict[str, np.ndarray] = {}
    squares: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    few = samples.take(range(min(MOST_SAMPLES, len(samples))))
    with watching(model, few, list(axes)) as session:
        for i, feed in enumerate(few):
            seen = session.run(feed)
            for name, axis in axes.items():
                array = np.moveaxis(seen[name], axis, -1)
                array = array.reshape(-1, array.shape[-1]).astype(np.float64)
                first = name not in counts
                high, low = np.abs(array).max(axis=0), array.min(axis=0)
                largest[name] = high if first else np.maximum(largest[name], high)
                least[name] = low if first else np.minimum(least[name], low)
                sums[name] = array.sum(axis=0) + (0 if first else sums[name])
                squares[name] = (array**2).sum(axis=0) + (0 if first else squares[name])
                counts[name] = counts.get(name, 0) + len(array)
            progress("ranges of channels", i + 1, len(few))
    means = {name: total / counts[name] for name, total in sums.items()}
    spans = {n: np.sqrt(np.maximum(squares[n] / counts[n] - means[n] ** 2, 0)) for n in means}
    return Seen(largest, least, means, spans)


@dataclass(frozen=True)
class Equalize:
    """The same function with weights whose channels have even ranges, and smaller biases.

    Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (ICCV
    2019), sections 4.1 and 4.1.1: where a product reads what another made, clipped at zero, pooled
    or moved at most, channel j is divided by sqrt(r1 / r2), r1 and r2 being the largest weights
    that make it and that read it, over and over until no factor changes; of three layers in a row,
    the middle one by channel, all come to the cube root of the product of their ranges. What a
    channel always exceeds moves on into the biases of what reads it: its mean less three standard
    deviations, and no more than its least value less a quarter of what that is below the mean. A
    clip with an upper end stays as it is; channels that reach it keep their factor of 1.

    Attributes:
        samples: what channels hold is found with.
        absorb: whether high biases move on.
    """

    name: ClassVar[str] = "equalize"
    samples: Samples
    absorb: bool = True

    def __call__(self, model: Model) -> Model:
        return rewrite(model, EqualizeBy(channels_seen(model, self.samples), self.absorb))


@dataclass(frozen=True)
class EqualizeBy:
    """What `Equalize` does, with ranges that were found before."""

    name: ClassVar[str] = "equalize"
    seen: Seen
    absorb: bool = True

    def __call__(self, model: Model) -> Model:
        return rewrite(model, self)

    def edit(self, graph: ir.Model) -> None:
        sites = find_sites(with_shapes(graph), PRODUCTS)
        whole = [np.ones(site.channels) for site in sites]
        for _ in range(MOST_ROUNDS):
            change = 0.0
            for i, site in enumerate(sites):
                factors = self._factors(site, whole[i])
                if factors is None:
                    continue
                apply(graph.graph, site, factors)
                whole[i] = whole[i] * factors
                change = max(change, float(np.abs(np.log(factors)).max()))
            if change < SETTLED:
                break
        if self.absorb:
            for site, factors in zip(sites, whole, strict=True):
                self._absorb(graph.graph, site, factors)
        drop_unused_initializers(graph)

    def _factors(self, site: Site, before: np.ndarray) -> np.ndarray | None:
        """What a site's channels are divided by now, after they were by `before`."""
        made, taken = site.made[0].largest(), largest_read(site)
        if not (np.isfinite(made).all() and np.isfinite(taken).all()):
            return None
        used = (made > 0) & (taken > 0)
        factors = np.sqrt(np.divide(made, taken, out=np.ones_like(made), where=used))
        total = np.clip(factors * before, 1 / MOST_FACTOR, MOST_FACTOR)
        if site.bounds:
            within = within_bounds(total, site, Maxima(self.seen.largest))
            if within is None:
                return None
            total = within
        return np.asarray(total / before)

    def _absorb(self, graph: ir.Graph, site: Site, factors: np.ndarray) -> None:
        value = _absorbing(site)
        mean = self.seen.mean.get(value.name or "") if value is not None else None
        if value is None or mean is None or mean.size != site.channels:
            return
        least, deviation = self.seen.least[value.name or ""], self.seen.deviation[value.name or ""]
        always = np.minimum(mean - DEVIATIONS * deviation, mean - ROOM * (mean - least))
        held = np.maximum(0.0, always) / factors
        biases = [_bias_behind(part) for part in site.read]
        own = _bias_behind(site.made[0])
        if own is None or None in biases or not held.any() or not np.isfinite(held).all():
            return
        _add(graph, own, -held)
        for part, bias in zip(site.read, biases, strict=True):
            assert bias is not None
            _add(graph, bias, taken_through(part, held))


def taken_through(part: Part, held: np.ndarray) -> np.ndarray:
    """What a constant of each channel becomes behind a product, [output channels]."""
    weight = part.array().astype(np.float64)
    through = weight.reshape(part.view) * held.reshape(part.factors)
    node = part.node
    if node.op_type == "Conv":
        return np.asarray(through.reshape(weight.shape).sum(axis=tuple(range(1, weight.ndim))))
    turned = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    return np.asarray(through.sum(axis=1 if turned else 0))


@dataclass(frozen=True, eq=False)
class _Bias:
    """Where a product's bias stands, and its output channels."""

    node: ir.Node
    position: int
    channels: int


def _bias_behind(part: Part) -> _Bias | None:
    node, weight = part.node, part.array()
    if node.op_type == "MatMul":
        uses = list(node.outputs[0].uses())
        if weight.ndim != 2 or len(uses) != 1 or uses[0].node.op_type != "Add":
            return None
        bias = uses[0].node.inputs[1 - uses[0].idx]
        fits = bias is not None and bias.const_value is not None and not bias.is_graph_input()
        if not fits or bias is None or bias.shape is None:
            return None
        sizes = [size for size in bias.shape.numpy() if size != 1]
        return (
            _Bias(uses[0].node, 1 - uses[0].idx, weight.shape[1])
            if sizes == [weight.shape[1]]
            else None
        )
    turned = node.op_type == "Conv" or (
        node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    )
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    channels = weight.shape[0 if turned else 1]
    if bias is None or bias.const_value is None or bias.is_graph_input():
        return None
    return _Bias(node, 2, channels) if bias.const_value.size == channels else None


def _add(graph: ir.Graph, bias: _Bias, by: np.ndarray) -> None:
    value = bias.node.inputs[bias.position]
    assert value is not None
    assert value.const_value is not None
    array = value.const_value.numpy().astype(np.float64)
    moved = (array + by.reshape(array.shape)).astype(np.float32)
    name = f"{bias.node.name}_{bias.position}_absorbed"
    if value.name == name:
        value.const_value = ir.tensor(moved, name=name)
    else:
        bias.node.replace_input_with(bias.position, constant(graph, name, moved))


def _absorbing(site: Site) -> ir.Value | None:
    """The tensor of a site whose mean can move on: a product with a bias, clipped at zero at most,
    and read by products without padding."""
    node = site.source
    if node.op_type not in ("Conv", "Gemm", "MatMul") or site.bounds:
        return None
    value = node.outputs[0]
    if node.op_type == "MatMul":
        uses = list(value.uses())
        if len(uses) != 1 or uses[0].node.op_type != "Add":
            return None
        value = uses[0].node.outputs[0]
    before = value
    uses = list(value.uses())
    if len(uses) == 1 and uses[0].node.op_type == "Relu":
        value = uses[0].node.outputs[0]
    plain = all(one is value for one in site.inputs) and len(site.made) == (
        1 + (before is not node.outputs[0] or len(node.inputs) > 2)
    )
    return before if plain and all(_unpadded(part.node) for part in site.read) else None


def _unpadded(node: ir.Node) -> bool:
    if node.op_type in ("Gemm", "MatMul"):
        return True
    said = node.attributes.get_string("auto_pad", "NOTSET")
    return (
        node.op_type == "Conv"
        and said in ("NOTSET", "VALID")
        and not any(node.attributes.get_ints("pads", ()))
    )
