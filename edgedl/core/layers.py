"""Layers as what decides their cost, so that widths can be chosen before anything is cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from edgedl.core.errors import BadValue

Kind = Literal["conv", "conv_transpose", "linear", "lstm", "gru"]
# Products of gates in a step, over those of one dense layer of the same widths.
GATES = {"lstm": 4, "gru": 3}


@dataclass(frozen=True)
class LayerShape:
    """A layer of weights by what decides what it costs.

    Attributes:
        inputs, outputs: channels or features; of a recurrent layer those of a step and its state.
        size: lengths of the input's axes beside channels: height and width of an image, steps of a
            series; for a dense layer, how many rows it is given at once.
        kernel, stride, dilation: along each of these axes; empty for what is no convolution.
        padding: as ONNX has it, all begins before all ends.
        groups: of a convolution; as many as inputs where it is depthwise.
        directions: 2 where a recurrent layer reads both ways.
    """

    kind: Kind
    inputs: int
    outputs: int
    size: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    directions: int = 1

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel is convolved on its own."""
        return self.groups == self.inputs and self.groups > 1

    def with_widths(self, inputs: int, outputs: int) -> LayerShape:
        """The same layer with other widths.

        Raises:
            BadValue: a width is less than 1, or the groups of a convolution do not divide it.
        """
        groups = inputs if self.is_depthwise else self.groups
        if min(inputs, outputs) < 1 or inputs % groups or outputs % groups:
            raise BadValue(
                f"a layer of {groups} groups cannot have {inputs} inputs and {outputs} outputs",
                hint="whole channels for every group",
            )
        return replace(self, inputs=inputs, outputs=outputs, groups=groups)

    @property
    def out_size(self) -> tuple[int, ...]:
        """Lengths of the output's axes beside channels."""
        if self.kind == "conv":
            half = len(self.kernel)
            return tuple(
                (n + self.padding[i] + self.padding[half + i] - self.dilation[i] * (k - 1) - 1)
                // self.stride[i]
                + 1
                for i, (n, k) in enumerate(zip(self.size, self.kernel, strict=True))
            )
        if self.kind == "conv_transpose":
            half = len(self.kernel)
            return tuple(
                (n - 1) * self.stride[i]
                - self.padding[i]
                - self.padding[half + i]
                + self.dilation[i] * (k - 1)
                + 1
                for i, (n, k) in enumerate(zip(self.size, self.kernel, strict=True))
            )
        return self.size

    @property
    def macs(self) -> int:
        """Multiplications with a sum, for one sample."""
        if self.kind in GATES:
            wide = self.outputs * (self.inputs + self.outputs)
            return GATES[self.kind] * self.directions * prod(self.size) * wide
        places = prod(self.size if self.kind == "conv_transpose" else self.out_size)
        return places * prod(self.kernel) * self.inputs * self.outputs // self.groups


# Microseconds of each layer alone on the target, in the precision that will ship.
Price = Callable[[Sequence[LayerShape]], list[float]]


@dataclass(frozen=True)
class Layer:
    """A layer of a network, and the groups of channels that make its widths.

    Attributes:
        name: the module's, dotted.
        shape: as it is now.
        reads, makes: by group, how many of the layer's inputs, or outputs, each channel of the
            group stands for: 1 as a rule, 49 for a dense layer behind 7 x 7 flattened places.
    """

    name: str
    shape: LayerShape
    reads: Mapping[str, int]
    makes: Mapping[str, int]

    def cut(self, gone: Mapping[str, int]) -> LayerShape:
        """The layer's shape once so many channels of each group are gone."""
        less = sum(per * gone.get(group, 0) for group, per in self.reads.items())
        fewer = sum(per * gone.get(group, 0) for group, per in self.makes.items())
        return self.shape.with_widths(self.shape.inputs - less, self.shape.outputs - fewer)


@dataclass(frozen=True)
class Group:
    """Channels that can only be cut together, all through a network.

    Attributes:
        name: that of the first layer that makes them.
        size: how many there are now.
        unit: how many have to go at once, such as those of one attention head.
    """

    name: str
    size: int
    unit: int = 1
