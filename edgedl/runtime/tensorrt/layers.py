"""What an engine consists of, as the builder's log or the engine's inspector tells it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

BEGINS = "Layers:"
ROW = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w*), (?P<rest>.*)$")
TYPE = re.compile(r"Datatype: (\w+)")
SIDES = ("Inputs:", "Constants:", "Outputs:", "TacticName:")
NODES = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
# Kinds of layers that do arithmetic on a grid of weights or of two activations.
PRODUCTS = frozenset({"correlation", "gemm", "conv", "convolution", "deconvolution", "matmul"})
DTYPES = {"Float": "float32", "Half": "float16"}


@dataclass(frozen=True)
class Layer:
    """One kernel of an engine: data types of what it reads, of its constants, and of what it makes.

    `nodes` names the ONNX nodes that it stands for, as far as the builder tells.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def is_product(self) -> bool:
        """Whether it multiplies by weights, or two activations."""
        return self.kind.lower() in PRODUCTS

    @property
    def precision(self) -> str:
        """What it reads its first operand in; `` where it reads none."""
        return (self.inputs or self.constants or ("",))[0]


def layers_of(told: Sequence[str]) -> tuple[Layer, ...]:
    """The layers in a builder's log, the last such list of it; none where it has none.

    The list is the text of a verbose build with detailed profiling, tried on TensorRT-RTX 1.7.
    """
    lists = [message for message in told if message.lstrip().startswith(BEGINS)]
    return tuple(filter(None, map(_layer, lists[-1].splitlines()))) if lists else ()


def _layer(line: str) -> Layer | None:
    row = ROW.match(line.strip())
    if row is None:
        return None
    parts = _parts(row["rest"])
    inputs, constants, outputs = (
        tuple(DTYPES.get(name, name.lower()) for name in TYPE.findall(parts.get(side, "")))
        for side in SIDES[:3]
    )
    nodes = tuple(dict.fromkeys(NODES.findall(line)))
    return Layer(row["name"], row["kind"], inputs, constants, outputs, nodes)


def _parts(rest: str) -> dict[str, str]:
    """A row's text by the word that heads it."""
    at = sorted((rest.find(side), side) for side in SIDES if side in rest)
    ends = [place for place, _ in at[1:]] + [len(rest)]
    return {side: rest[place:end] for (place, side), end in zip(at, ends, strict=True)}
