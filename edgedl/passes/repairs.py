"""Repairs of a float graph before it is quantized, as plain data that a plan can name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from edgedl.core.errors import BadValue
from edgedl.core.model import Model
from edgedl.passes.channels import PRODUCTS
from edgedl.passes.graph import read
from edgedl.passes.sites import find_sites
from edgedl.passes.smooth import find_groups

Kind = Literal["equalize", "smooth"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Repair:
    """One repair and its settings, as `Equalize` and `Smooth` have them."""

    kind: Kind
    alpha: float = 0.5
    insert: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            message = f"`alpha` is {self.alpha:g}"
            raise BadValue(message, keys=("alpha",), hint="a number from 0 to 1")

    @property
    def label(self) -> str:
        """What became of the model, in a few words."""
        return "equalized" if self.kind == "equalize" else f"smoothed by {self.alpha:g}"

    def to_json(self) -> dict[str, Any]:
        if self.kind == "equalize":
            return {"kind": self.kind}
        return {"kind": self.kind, "alpha": self.alpha, "insert": self.insert}


def worth_equalizing(model: Model) -> bool:
    """Whether a convolution of the graph reads what a product made and nothing else reads."""
    sites = find_sites(read(model.path).graph, PRODUCTS)
    return any(part.node.op_type == "Conv" for site in sites for part in site.read)


def worth_smoothing(model: Model, insert: bool) -> bool:
    """Whether matrix products with constant weights read what can be divided: what a norm or a
    product makes, or anything that is computed where multiplications may be inserted."""
    graph = read(model.path).graph
    products = [part.node for site in find_sites(graph) for part in site.read]
    if insert:
        products += [part.node for group in find_groups(graph) for part in group.parts]
    return any(node.op_type in ("MatMul", "Gemm") for node in products)
