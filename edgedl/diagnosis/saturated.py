"""What a processor without VNNI would make of the int8 products, emulated and carried through.

The sums of neighbouring products are those of `edgedl.passes.saturation`; the error that they make
at each operator is added to its result in the float model with all quantizers on.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from edgedl.core.samples import Samples
from edgedl.diagnosis.losses import loss
from edgedl.passes.quantizers import Grid
from edgedl.passes.saturation import MOST, saturating_product
from edgedl.passes.switches import Switchboard

MOST_PRODUCTS = 4e8
MOST_SAMPLES = 4


@dataclass(frozen=True)
class Saturated:
    """The losses of samples with and without saturation, and the operators that saturate: the
    share of noise in their results, the worst first."""

    exact: np.ndarray
    saturating: np.ndarray
    operators: tuple[tuple[str, float], ...]
    left_out: int


@dataclass(frozen=True)
class Product:
    """An operator whose input and weights are 8-bit codes."""

    node: str
    result: str
    source: str
    activation: Grid
    codes: np.ndarray
    scale: np.ndarray
    offset: int


def products(board: Switchboard) -> list[Product]:
    """Products of 8-bit codes in which a pair of weights can pass 16 bits."""
    placeholders = {
        board.tensors[one.stored]: one for one in board.found if one.kind == "activation"
    }
    found = []
    for switch, one in enumerate(board.found):
        grid = one.grid
        if (
            one.kind != "weight"
            or one.node not in board.inputs_of
            or grid is None
            or grid.axis not in (None, 0, 1, -1)
        ):
            continue
        if one.operator not in ("Conv", "Gemm", "MatMul") or one.dtype != "int8":
            continue
        reads = placeholders.get(board.inputs_of[one.node][0])
        if reads is None or reads.grid is None or reads.grid.axis is not None:
            continue
        array = np.asarray(board.given(switch))
        if array.ndim < 2 or board.attributes[one.node].get("group", 1) != 1:
            continue
        if reads.dtype not in ("uint8", "int8"):
            continue
        columns, scale = _columns(board, one.node, one.operator, array, grid)
        if columns is None or scale is None:
            continue
        pairs = np.abs(columns[: columns.shape[0] // 2 * 2].reshape(-1, 2, columns.shape[1])).sum(1)
        if pairs.size and pairs.max() * 255 > MOST:
            offset = 128 if reads.dtype == "int8" else 0
            found.append(
                Product(one.node, board.tensors[one.node], board.tensors[reads.stored], reads.grid,
                        columns, scale, offset)
            )  # fmt: skip
    return found


def _columns(
    board: Switchboard, node: str, operator: str, array: np.ndarray, grid: Grid
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Weights' codes as (summed, made), neighbours as the kernels pair them, and their scales."""
    attributes = board.attributes[node]
    rank = array.ndim
    if operator == "Conv":
        if rank != 4 or any(d != 1 for d in attributes.get("dilations", [1])):
            return None, None
        if grid.axis not in (None, 0):
            return None, None
        shape = [-1, 1, 1, 1] if grid.axis == 0 else []
        codes = np.rint(array / grid.scale.reshape(shape)).astype(np.int64)
        if codes.shape[1] % 2:
            codes = np.pad(codes, ((0, 0), (0, 1), (0, 0), (0, 0)))
        lines = codes.transpose(2, 3, 1, 0).reshape(-1, codes.shape[0])
        return lines, np.broadcast_to(grid.scale, (codes.shape[0],))
    if rank != 2:
        return None, None
    made = 0 if operator == "Gemm" and attributes.get("transB", 0) else 1
    if attributes.get("transA", 0) or (grid.axis is not None and grid.axis % 2 != made):
        return None, None
    shape = [-1 if i == made else 1 for i in range(2)] if grid.axis is not None else []
    codes = np.rint(array / grid.scale.reshape(shape)).astype(np.int64)
    return (codes.T if made == 0 else codes), np.broadcast_to(grid.scale, (array.shape[made],))


def saturated(
    board: Switchboard, samples: Samples, reference: list[dict[str, np.ndarray]]
) -> Saturated | None:
    """The loss with saturating sums beside that without; None where no pair of weights can."""
    risky = products(board)
    if not risky:
        return None
    few = samples.take(range(min(MOST_SAMPLES, len(reference))))
    watch = list(dict.fromkeys(name for p in risky for name in (p.source, p.result)))
    exact, saturating = [], []
    noise: dict[str, float] = {}
    power: dict[str, float] = {}
    spent, left_out = 0.0, 0
    with ExitStack() as opened:
        plain = opened.enter_context(board.open(board.all_on, watch=watch))
        once = plain.run(few.feed(0))
        ranks = {p.result: once[p.result].ndim for p in risky}
        del once
        injected = opened.enter_context(board.open(board.all_on, inject=ranks))
        for i, feed in enumerate(few):
            seen = plain.run(feed)
            errors, left_out = {}, 0
            for product in risky:
                result = seen[product.result]
                cost = float(result.size) * product.codes.shape[0]
                if spent + cost > MOST_PRODUCTS:
                    left_out += 1
                    errors[f"{product.result}_error"] = np.zeros_like(result)
                    continue
                spent += cost
                error = _error(board, product, seen[product.source], result)
                errors[f"{product.result}_error"] = error
                noise[product.node] = noise.get(product.node, 0.0) + float(np.sum(error**2))
                power[product.node] = power.get(product.node, 0.0) + float(np.sum(result**2))
            exact.append(loss(reference[i], seen))
            saturating.append(loss(reference[i], injected.run({**feed, **errors})))
    ratios = {node: noise[node] / max(power[node], 1e-300) for node in noise}
    worst = sorted(((n, r) for n, r in ratios.items() if r > 0), key=lambda e: -e[1])
    return Saturated(np.asarray(exact), np.asarray(saturating), tuple(worst), left_out)


def _error(board: Switchboard, product: Product, x: np.ndarray, result: np.ndarray) -> np.ndarray:
    grid = product.activation
    zero = int(grid.zero)
    codes = np.rint(x / float(grid.scale)).astype(np.int64) + zero + product.offset
    if board.operators[product.node] == "Conv":
        rows = _patches(board, product, codes, zero + product.offset, result.shape)
    else:
        rows = codes.reshape(-1, codes.shape[-1])
    if rows.shape[0] * product.codes.shape[1] != result.size:
        return np.zeros_like(result)
    gap = saturating_product(rows, product.codes) - rows @ product.codes
    real = (gap * (float(grid.scale) * product.scale)).astype(np.float32)
    if board.operators[product.node] == "Conv":
        batch, made, height, width = result.shape
        return np.ascontiguousarray(real.reshape(batch, height, width, made).transpose(0, 3, 1, 2))
    return np.asarray(real.reshape(result.shape))


def _patches(
    board: Switchboard, product: Product, codes: np.ndarray, zero: int, shape: tuple[int, ...]
) -> np.ndarray:
    """What each position of a convolution reads, (positions, taps * channels)."""
    attributes = board.attributes[product.node]
    pads = attributes.get("pads", [0, 0, 0, 0])
    strides = attributes.get("strides", [1, 1])
    channels = codes.shape[1]
    spare = channels % 2
    padded = np.pad(
        codes, ((0, 0), (0, spare), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=zero
    )
    taps = product.codes.shape[0] // (channels + spare)
    kernel = attributes.get("kernel_shape")
    height = kernel[0] if kernel else round(taps**0.5)
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, (height, taps // height), axis=(2, 3)
    )[:, :, :: strides[0], :: strides[1]][:, :, : shape[2], : shape[3]]
    lines = windows.transpose(0, 2, 3, 4, 5, 1).reshape(-1, product.codes.shape[0])
    return np.asarray(lines)
