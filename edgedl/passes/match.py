"""Which weights of a float model stand behind the codes of a quantized one: by name or by value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgedl.core.model import Model
from edgedl.passes.graph import read
from edgedl.passes.quantizers import Found

COMPARED = 4096
LEAST_ALIKE = 0.7
SUFFIXES = ("_quantized", "_QuantizeLinear_Input", "_int8", "_bias_quantized")
BETWEEN = frozenset({"Div", "Cast", "Mul", "Identity"})


@dataclass(frozen=True, eq=False)
class FloatWeight:
    """A float weight, read when it is used, and the bias of the operator that reads it."""

    name: str
    node: str
    tensor: ir.TensorProtocol
    bias: np.ndarray | None

    def numpy(self, transposed: bool = False) -> np.ndarray:
        array = np.asarray(self.tensor.numpy())
        return np.ascontiguousarray(array.T) if transposed else array


@dataclass(frozen=True, eq=False)
class Match:
    """A float weight, and whether it stands transposed in the float model."""

    weight: FloatWeight
    transposed: bool

    def array(self) -> np.ndarray:
        return self.weight.numpy(self.transposed).astype(np.float32)


def float_weights(models: Sequence[Model]) -> list[FloatWeight]:
    """The float constants with two elements or more that operators read."""
    found: list[FloatWeight] = []
    for model in models:
        for node in read(model.path).graph:
            for position, value in enumerate(node.inputs):
                if value is None or value.const_value is None or value.is_graph_input():
                    continue
                if value.dtype == ir.DataType.FLOAT and value.const_value.size > 1:
                    bias = bias_of(node)[1] if position != 2 else None
                    found.append(
                        FloatWeight(value.name or "", node.name or "", value.const_value, bias)
                    )
    return found


def activations(models: Sequence[Model]) -> dict[str, tuple[float, float]]:
    """The range that the activation clips to which follows, by the names of the tensors before and
    behind it and of the node that makes what it clips: Relu, or Clip with constants."""
    found: dict[str, tuple[float, float]] = {}
    for model in models:
        for node in read(model.path).graph:
            span = _clipped(node)
            before = node.inputs[0] if node.inputs else None
            if span is None or before is None:
                continue
            found[node.outputs[0].name or ""] = span
            if len(list(before.uses())) == 1:
                found[before.name or ""] = span
                producer = before.producer()
                if producer is not None:
                    found[f"node {producer.name}"] = span
    return found


def _clipped(node: ir.Node) -> tuple[float, float] | None:
    if node.op_type == "Relu":
        return 0.0, float("inf")
    if node.op_type != "Clip":
        return None
    limits = []
    for position, open_end in ((1, float("-inf")), (2, float("inf"))):
        value = node.inputs[position] if len(node.inputs) > position else None
        if value is None:
            limits.append(open_end)
        elif value.const_value is None:
            return None
        else:
            limits.append(float(value.const_value.numpy()))
    return limits[0], limits[1]


def bias_of(node: ir.Node) -> tuple[ir.Value | None, np.ndarray | None]:
    """The constant that an operator adds to its products: its third input, or an Add behind it."""
    if node.op_type in ("Conv", "Gemm", "ConvTranspose"):
        value = node.inputs[2] if len(node.inputs) > 2 else None
        if value is None or value.const_value is None:
            return None, None
        return value, np.asarray(value.const_value.numpy())
    if node.op_type != "MatMul":
        return None, None
    behind = node
    for _ in range(5):
        uses = list(behind.outputs[0].uses())
        if len(uses) != 1:
            return None, None
        behind = uses[0].node
        if behind.op_type == "Add":
            value = behind.inputs[1 - uses[0].idx]
            if value is not None and value.const_value is not None:
                return value, np.asarray(value.const_value.numpy())
            return None, None
        if behind.op_type not in BETWEEN:
            return None, None
    return None, None


def match(
    found: Sequence[Found], weights: Sequence[FloatWeight], names: Mapping[str, str]
) -> dict[str, Match]:
    """Float weights by the `stored` name of the coded ones; those without a likeness are left out.

    Args:
        names: original names by those of the quantized graph.
    """
    by_name: dict[str, list[FloatWeight]] = {}
    by_shape: dict[tuple[int, ...], list[tuple[FloatWeight, bool]]] = {}
    for weight in weights:
        by_name.setdefault(weight.name, []).append(weight)
        for shape, transposed in _shapes(weight):
            by_shape.setdefault(shape, []).append((weight, transposed))
    some: dict[int, np.ndarray] = {}
    matched: dict[str, Match] = {}
    for one in found:
        if one.kind != "weight" or one.value is None:
            continue
        own = _some(one.value)
        candidates = by_shape.get(one.value.shape, [])
        named = [n for name in _names(one, names) for n in by_name.get(name, [])]
        best: tuple[float, Match] | None = None
        for weight, transposed in candidates:
            if transposed or id(weight) not in some:
                sample = _some(weight.numpy(transposed))
                if not transposed:
                    some[id(weight)] = sample
            else:
                sample = some[id(weight)]
            alike = _alike(own, sample) + (0.5 if weight in named else 0.0)
            if best is None or alike > best[0]:
                best = (alike, Match(weight, transposed))
        if best is not None and best[0] >= LEAST_ALIKE:
            matched[one.stored] = best[1]
    return matched


def _shapes(weight: FloatWeight) -> Iterator[tuple[tuple[int, ...], bool]]:
    shape = tuple(int(size) for size in weight.tensor.shape.numpy())
    yield shape, False
    if len(shape) == 2:
        yield shape[::-1], True


def _names(found: Found, names: Mapping[str, str]) -> Iterator[str]:
    for name in (found.tensor, names.get(found.tensor, "")):
        yield name
        for suffix in SUFFIXES:
            if name.endswith(suffix):
                yield name.removesuffix(suffix)


def _some(array: np.ndarray) -> np.ndarray:
    """Elements spread evenly over an array, float64."""
    flat = array.reshape(-1)
    return np.asarray(flat[:: max(1, flat.size // COMPARED)][:COMPARED], np.float64)


def _alike(a: np.ndarray, b: np.ndarray) -> float:
    """1 less the power of the difference over that of the larger; 0 for unlike sizes."""
    power = max(float(a @ a), float(b @ b)) if a.shape == b.shape else 0.0
    return 1 - float((a - b) @ (a - b)) / power if power else 0.0
