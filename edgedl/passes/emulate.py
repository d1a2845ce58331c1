"""What a quantized graph answers on a processor without VNNI, computed on any processor.

Products of codes are computed exactly in float, and at each that can pass 16 bits what saturation
takes from its sums is added. The graph is cut into stages at those products, so that an error is
carried on as it would be there.

The order in which neighbours are added is that of onnxruntime 1.31 on Haswell, emulated by qemu,
and of OpenVINO 2026.4 under `ONEDNN_MAX_CPU_ISA=AVX2`; both were matched code by code.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgedl.core.errors import Missing
from edgedl.core.memory import usable_cores
from edgedl.core.model import Model, Signature
from edgedl.core.store import default_store
from edgedl.passes.graph import FILE_NAME, drop_unused_initializers, read
from edgedl.passes.integers import PRODUCTS, Coded, Sums, as_sums, made_axis, product_of_codes
from edgedl.passes.qoperators import expand_integer_operators
from edgedl.passes.saturation import LEAST, MOST
from edgedl.passes.stages import Arrays, Staged
from edgedl.runtime import installed_engines

EXACT = {"unfused": ["WeightBiasQuantization", "QDQSelectorActionTransformer"]}
RUNNER, WEIGHTS = "onnxruntime", "weights.bin"


@dataclass(frozen=True, eq=False)
class Product:
    """A product of 8-bit codes of which a pair of weights can pass 16 bits.

    Attributes:
        node: the operator whose product it is, and `maker` the node that makes `result`.
        codes: the tensor of activations' codes.
        result: its float result, as it is without saturation.
        offset: what the kernels add to signed codes, which makes them unsigned.
        zero: the code of 0, which convolutions are padded with.
        weights: int16 (summed, made) a group, in the order in which neighbours are added.
        unit: what 1 of each sum stands for, (made of all groups,) or a scalar, float64.
        taps: a convolution's kernel, pads, strides and dilations by axis; None for a matrix.
        spare: channels added to a convolution's input to make them even.
    """

    node: str
    maker: str
    codes: str
    result: str
    offset: int
    zero: int
    weights: tuple[np.ndarray, ...]
    unit: np.ndarray
    taps: Taps | None = None
    spare: int = 0

    def error(self, codes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """What saturation takes from the result, float32 of this shape."""
        unsigned = codes.astype(np.int16) + self.offset
        unit = self.unit.reshape(-1, 1)
        if self.taps is None:
            gap = missing(unsigned.reshape(-1, unsigned.shape[-1]).T, self.weights[0])
            return np.asarray((gap * unit).T.reshape(shape), np.float32)
        parts = []
        for i, weights in enumerate(self.weights):
            channels = unsigned.shape[1] // len(self.weights)
            part = unsigned[:, i * channels : (i + 1) * channels]
            read = self.taps.read(part, self.zero + self.offset, self.spare)
            parts.append(missing(read, weights))
        gap = np.concatenate(parts) * unit
        moved = np.moveaxis(gap.reshape(shape[1], shape[0], *shape[2:]), 0, 1)
        return np.ascontiguousarray(moved, np.float32)


@dataclass(frozen=True)
class Taps:
    """Where a convolution reads, an entry a spatial axis; pads at the front, then at the back, or
    by ONNX's `auto_pad`."""

    kernel: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    auto: str = "NOTSET"

    def read(self, codes: np.ndarray, zero: int, spare: int) -> np.ndarray:
        """What is summed at each position, (taps * channels, positions), channels innermost."""
        spans = [1 + d * (k - 1) for k, d in zip(self.kernel, self.dilations, strict=True)]
        pads = ((0, 0), (0, spare), *self._pads(codes.shape[2:], spans))
        padded = np.pad(codes, pads, constant_values=zero)
        axes = tuple(range(2, padded.ndim))
        windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)
        steps = tuple(slice(None, None, step) for step in (1, 1, *self.strides, *self.dilations))
        ordered = windows[steps].transpose((*(axis + len(axes) for axis in axes), 1, 0, *axes))
        return np.asarray(ordered.reshape(padded.shape[1] * int(np.prod(self.kernel)), -1))

    def _pads(self, sizes: Sequence[int], spans: Sequence[int]) -> tuple[tuple[int, int], ...]:
        if not self.auto.startswith("SAME"):
            return self.pads
        found = []
        for size, span, stride in zip(sizes, spans, self.strides, strict=True):
            total = max((-(-size // stride) - 1) * stride + span - size, 0)
            less, more = total // 2, total - total // 2
            found.append((less, more) if self.auto == "SAME_UPPER" else (more, less))
        return tuple(found)


def missing(read: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums of neighbouring products kept in 16 bits, less the same sums without that bound.

    Only what is large enough to pass the bound is multiplied.

    Args:
        read: codes from 0 to 255, int16 (summed, positions).
        weights: codes from -128 to 127, int16 (summed, made).

    Returns:
        int64 (made, positions).
    """
    found = np.zeros((weights.shape[1], read.shape[1]), np.int64)
    even = read.shape[0] // 2 * 2
    wide = weights[:even].astype(np.int32)
    most = read[:even].max(axis=1, initial=0).astype(np.int32)[:, None]
    pairs = (even // 2, 2, weights.shape[1])
    above = (np.maximum(wide, 0) * most).reshape(pairs).sum(axis=1) > MOST
    below = (np.minimum(wide, 0) * most).reshape(pairs).sum(axis=1) < LEAST
    passing = above | below
    for pair in np.flatnonzero(passing.any(axis=1)):
        one, two = wide[2 * pair : 2 * pair + 2, passing[pair]]
        x, y = read[2 * pair : 2 * pair + 2]
        largest = int(max(np.abs(one).max(), np.abs(two).max()))
        places = np.flatnonzero((x + y) > MOST // largest)
        if not places.size:
            continue
        sums = np.multiply.outer(one, x[places].astype(np.int32))
        sums += np.multiply.outer(two, y[places].astype(np.int32))
        over = np.maximum(sums - MOST, 0) + np.minimum(sums - LEAST, 0)
        found[np.ix_(np.flatnonzero(passing[pair]), places)] -= over
    return found


def could_pass(weights: np.ndarray) -> bool:
    """Whether a pair of neighbours passes 16 bits where both activations are 255."""
    pairs = weights[: weights.shape[0] // 2 * 2].astype(np.int32)
    pairs = pairs.reshape(-1, 2, weights.shape[1])
    above = np.maximum(pairs, 0).sum(axis=1) * 255 > MOST
    return bool((above | (np.minimum(pairs, 0).sum(axis=1) * 255 < LEAST)).any())


def products(graph: ir.Model, engine_name: str) -> list[Product]:
    """The products of codes in a graph of quantizers that this engine adds in 16 bits.

    For onnxruntime, those between quantizers are written as sums of whole numbers, in place.
    """
    sums = as_sums(graph) if engine_name == RUNNER else {}
    found = []
    for node in graph.graph:
        mine = sums.get(node.name or "")
        codes = product_of_codes(node) if mine is None else (mine.data, mine.weight)
        if codes is None or codes[1].codes.dtype != ir.DataType.INT8:
            continue
        if mine is None and engine_name == RUNNER and node.op_type == "Conv":
            continue  # it computes in float, as no quantizer stands behind it
        if engine_name == "openvino" and codes[1].zero.any():
            continue  # so does OpenVINO where weights have a zero point
        made = _product(node, *codes, mine, spare=engine_name == "openvino")
        if made is not None and any(could_pass(part) for part in made.weights):
            found.append(made)
    return found


def _product(
    node: ir.Node, data: Coded, weight: Coded, sums: Sums | None, *, spare: bool
) -> Product | None:
    assert weight.codes.const_value is not None
    codes = weight.codes.const_value.numpy().astype(np.int16)
    real = data.scale.astype(np.float64) * weight.scale
    shared: dict[str, Any] = {
        "maker": node.name or "",
        "node": node.name or "" if sums is None else sums.node,
        "codes": data.codes.name or "",
        "result": node.outputs[0].name or "",
        "offset": 128 if data.dtype == np.int8 else 0,
        "zero": int(data.zero[0]),
        "unit": real if sums is None else np.ones(1),
    }
    if node.op_type != "Conv":
        columns = codes.T if made_axis(node) == 0 else codes
        return Product(**shared, weights=(np.ascontiguousarray(columns),))
    groups = node.attributes.get_int("group", 1)
    if codes.shape[1] == 1 and groups > 1:  # depthwise kernels add single products
        return None
    taps = _taps(node, codes.shape[2:])
    more = codes.shape[1] % 2 if spare else 0
    if more and groups > 1:
        return None
    codes = np.pad(codes, ((0, 0), (0, more), *((0, 0),) * (codes.ndim - 2)))
    lines = np.moveaxis(codes, 1, -1)
    made = codes.shape[0] // groups
    weights = tuple(
        np.ascontiguousarray(lines[i * made : (i + 1) * made].reshape(made, -1).T)
        for i in range(groups)
    )
    return Product(**shared, weights=weights, taps=taps, spare=more)


def _taps(node: ir.Node, kernel: Sequence[int]) -> Taps:
    axes = len(kernel)
    pads = node.attributes.get_ints("pads", [0] * (2 * axes))
    strides = node.attributes.get_ints("strides", [1] * axes)
    dilations = node.attributes.get_ints("dilations", [1] * axes)
    both = tuple(zip(pads[:axes], pads[axes:], strict=True))
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    return Taps(tuple(kernel), both, tuple(strides), tuple(dilations), auto)


def not_emulated(model: Model) -> tuple[str, ...]:
    """The operators that compute on codes and count as exact: whose scales are found in each call,
    LSTMs, and others that are not written as float operators between quantizers."""
    graph = read(model.path)
    _name_all(graph)
    found = list(expand_integer_operators(graph))
    for node in graph.graph:
        makers = [value.producer() if value is not None else None for value in node.inputs[:2]]
        kinds = [maker.op_type if maker is not None else "" for maker in makers]
        coded = node.op_type in PRODUCTS and kinds == ["DequantizeLinear"] * 2
        if coded and product_of_codes(node) is None:
            found.append(f"`{node.name}` ({node.op_type})")
    return tuple(found)


class Emulated:
    """A session that answers as the engine would where products of codes are added in 16 bits.

    `operators` are those that can saturate; `noise` is, by node, the power of what saturation took
    and that of the result, summed over the calls so far.
    """

    def __init__(
        self, model: Model, engine_name: str, *, saturating: bool, threads: int | None = None
    ) -> None:
        """Cut the graph.

        Args:
            saturating: whether sums are kept in 16 bits; else they are exact.

        Raises:
            Missing: onnxruntime, which computes the stages, is not installed. BadModel: the file is
                unsound.
        """
        if RUNNER not in installed_engines():
            raise Missing(
                "answers of another processor are computed by onnxruntime, which is not installed",
                hint="pip install 'edgedl[onnxruntime]'",
            )
        self.signature: Signature = model.signature
        graph = read(model.path)
        _name_all(graph)
        expand_integer_operators(graph)
        _name_all(graph)
        risky = products(graph, engine_name)
        common.RemoveUnusedNodesPass()(graph)
        common.TopologicalSortPass()(graph)
        drop_unused_initializers(graph)
        risky = risky if saturating else []
        self._products = {product.maker: product for product in risky}
        self.operators = tuple(product.node for product in risky)
        self.noise: dict[str, tuple[float, float]] = {}
        root = default_store().root
        root.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix=".emulated-", dir=root))
        path = self._folder / FILE_NAME
        ir.save(graph, path, external_data=WEIGHTS, size_threshold_bytes=256)
        del graph
        cuts = {name: (one.codes, one.result) for name, one in self._products.items()}
        threads = usable_cores() if threads is None else threads
        self._staged = Staged(path, cuts, RUNNER, EXACT, threads)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Outputs by name.

        Raises:
            WrongInput: the inputs do not fit. EngineFailed: a stage does not run.
        """
        return self._staged.run(inputs, self._saturate)

    def _saturate(self, maker: str, values: Arrays) -> None:
        product = self._products[maker]
        result = values[product.result]
        error = product.error(values[product.codes], result.shape)
        lost, power = self.noise.get(product.node, (0.0, 0.0))
        self.noise[product.node] = (
            lost + float(np.sum(error.astype(np.float64) ** 2)),
            power + float(np.sum(result.astype(np.float64) ** 2)),
        )
        values[product.result] = result + error

    def close(self) -> None:
        """Give the stages' memory and files back."""
        self._staged.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Emulated:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _name_all(graph: ir.Model) -> None:
    for i, node in enumerate(graph.graph):
        node.name = node.name or f"{node.op_type}_{i}_unnamed"
        for k, value in enumerate(node.outputs):
            if not value.name and list(value.uses()):
                value.name = f"{node.name}_{k}"
