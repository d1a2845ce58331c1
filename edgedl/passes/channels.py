"""Factors of a tensor's channels, moved from the constants that make it into those that read it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgedl.passes.graph import constant

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Part:
    """A constant operand with one slice a channel: of a product's weights, a bias or a norm.

    `view` is a shape of the constant in which factors of shape `factors` stand for its channels.
    """

    node: ir.Node
    position: int
    view: tuple[int, ...]
    factors: tuple[int, ...]

    def array(self) -> np.ndarray:
        value = self.node.inputs[self.position]
        assert value is not None
        assert value.const_value is not None
        return np.asarray(value.const_value.numpy())

    def largest(self) -> np.ndarray:
        """The largest magnitude of each channel, [channels]."""
        magnitude = np.abs(self.array().astype(np.float64)).reshape(self.view)
        others = tuple(i for i, size in enumerate(self.factors) if size == 1)
        return np.asarray(magnitude.max(axis=others, initial=0.0).reshape(-1))

    def multiply(self, factors: np.ndarray) -> np.ndarray:
        """The constant with each channel times its factor, float32, in its own shape or, where
        one value stood for all channels, with one a channel."""
        array = self.array()
        scaled = array.astype(np.float64).reshape(self.view) * factors.reshape(self.factors)
        shape = array.shape if scaled.size == array.size else scaled.shape
        return np.asarray(scaled.reshape(shape), np.float32)


@dataclass(frozen=True)
class Bound:
    """A clip at zero and at `high`, one number for all channels, within a site."""

    node: ir.Node
    high: float


@dataclass(frozen=True, eq=False)
class Site:
    """A tensor whose channels can be divided by factors where it is made, and multiplied where it
    is read.

    Attributes:
        source: the node that makes it.
        made: constants that are divided by the factors.
        read: weights that are multiplied by them, of products that read it.
        bounds: clips between the two, which want factors of 1 where they bind.
        inputs: the tensors that the products read, in the order of `read`.
    """

    source: ir.Node
    channels: int
    made: tuple[Part, ...]
    read: tuple[Part, ...]
    bounds: tuple[Bound, ...]
    inputs: tuple[ir.Value, ...]

    @property
    def name(self) -> str:
        """The name of the tensor that the source makes."""
        return self.source.outputs[0].name or ""


def apply(graph: ir.Graph, site: Site, factors: np.ndarray) -> None:
    """Divide a site's tensor by the factors, [channels], and multiply what reads it."""
    for part in site.made:
        scale(graph, part, 1 / factors)
    for part in site.read:
        scale(graph, part, factors)


def scale(graph: ir.Graph, part: Part, factors: np.ndarray) -> None:
    """Multiply the channels of a constant for its node alone; other readers keep what they had."""
    value = part.node.inputs[part.position]
    assert value is not None
    name = f"{part.node.name}_{part.position}_scaled"
    if value.name == name:
        del graph.initializers[name]
    part.node.replace_input_with(part.position, constant(graph, name, part.multiply(factors)))


def weight_read_by(node: ir.Node, channels: int, axis: int, rank: int) -> Part | None:
    """The weights of a product along its input channels, where these are on its operand's axis."""
    kernel = floats(node.inputs[1]) if len(node.inputs) > 1 else None
    if kernel is None:
        return None
    rest = kernel.shape[2:]
    ones = (1,) * len(rest)
    groups = node.attributes.get_int("group", 1) or 1
    if node.op_type == "Conv":
        if axis != 1 or kernel.shape[1] * groups != channels or kernel.shape[0] % groups:
            return None
        view = (groups, kernel.shape[0] // groups, kernel.shape[1], *rest)
        return Part(node, 1, view, (groups, 1, kernel.shape[1], *ones))
    if node.op_type == "ConvTranspose":
        fits = axis == 1 and kernel.shape[0] == channels
        return Part(node, 1, kernel.shape, (channels, 1, *ones)) if fits else None
    if axis != rank - 1:
        return None
    if node.op_type == "Gemm" and not node.attributes.get_int("transA", 0):
        turned = bool(node.attributes.get_int("transB", 0))
        fits = kernel.shape[1 if turned else 0] == channels
        return (
            Part(node, 1, kernel.shape, (1, channels) if turned else (channels, 1))
            if fits
            else None
        )
    if node.op_type == "MatMul" and kernel.ndim >= 2 and kernel.shape[-2] == channels:
        return Part(node, 1, kernel.shape, (*(1,) * (kernel.ndim - 2), channels, 1))
    return None


def shape(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """A value's dimensions, None for those that are not fixed; None for unknown rank."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def floats(value: ir.Value | None) -> np.ndarray | None:
    """The array of a float32 constant."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    if value.const_value.dtype != ir.DataType.FLOAT or value.producer() is not None:
        return None
    return value.const_value.numpy()


def largest_read(site: Site) -> np.ndarray:
    """The largest magnitude of the weights that read each channel, [channels]."""
    return np.asarray(np.max([part.largest() for part in site.read], axis=0))
