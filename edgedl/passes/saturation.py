"""Processors without VNNI add products of 8 bits in 16: which operators overflow, and by how much.

Their instruction (`vpmaddubsw`: AVX2, and AVX-512 before VNNI) multiplies unsigned by signed bytes
and adds neighbouring products with saturation to 16 bits. Two products pass 32,767 where both codes
are large, since 255 * 127 * 2 = 64,770; weights of 7 bits cannot, since 255 * (63 + 63) = 32,130.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from edgedl.core.model import Model
from edgedl.passes.graph import read
from edgedl.passes.plan import Plan, Quantizer
from edgedl.passes.ranges import Histogram
from edgedl.passes.recurrent import int8_recurrent, weights_of
from edgedl.passes.scales import rounded

LEAST, MOST = -(1 << 15), (1 << 15) - 1
PAIRS_TRIED = 4096
DRAWS = 64
VNNI = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})


def saturates(machine: Mapping[str, Any], engine: str) -> bool:
    """Whether int8 products on this machine are added in 16 bits by this engine."""
    if machine["architecture"] not in ("x86_64", "AMD64", "i686"):
        return False
    sets = set(machine["isa"])
    if engine == "openvino" and machine["isa_cap"] == "AVX2":
        return True
    if engine == "openvino" and machine["isa_cap"] == "AVX2_VNNI":
        # A processor that has VNNI in AVX-512 alone is left with AVX2.
        return "avx_vnni" not in sets
    return not VNNI & sets


def at_risk(plan: Plan, model: Model, histograms: Mapping[str, Histogram]) -> dict[str, float]:
    """The share of pairs of products that is expected to overflow, by node, those above 0 alone.

    Weights are paired along their input channels; the codes that meet them are drawn from their
    tensor's histogram as if neighbours were independent. Depthwise convolutions add single
    products, and do not overflow. What an LSTM or GRU multiplies is not known before it runs: of
    its pairs those count that could overflow.
    """
    rng = np.random.default_rng(0)
    found: dict[str, float] = {}
    sequences = int8_recurrent(plan.decisions)
    for node in read(model.path).graph:
        data = node.inputs[0] if node.inputs else None
        if node.name in sequences:
            could = [_could_overflow(_neighbours(rounded(w, 0)[0])) for w in weights_of(node)]
            if (share := float(np.concatenate(could).mean())) > 0:
                found[node.name or ""] = share
            continue
        name, reads = node.name or "", (data.name or "" if data is not None else "")
        if name not in plan.weights or reads not in plan.activations:
            continue
        position, axis = plan.weights[name]
        weight = node.inputs[position]
        assert weight is not None
        assert weight.const_value is not None
        codes, _ = rounded(weight.const_value.numpy(), axis)
        pairs = _pairs(node, codes)
        worst = _could_overflow(pairs)
        if not worst.any():
            continue
        risky = pairs[worst]
        some = risky[rng.integers(0, len(risky), min(len(risky), PAIRS_TRIED))].astype(np.int64)
        shape = (len(some), DRAWS, 2)
        drawn = _draw(histograms[reads], plan.activations[reads], shape, rng)
        sums = np.einsum("pdi,pi->pd", drawn, some)
        share = float(np.mean((sums > MOST) | (sums < LEAST))) * float(worst.mean())
        if share > 0:
            found[name] = share
    return found


def _pairs(node: ir.Node, codes: np.ndarray) -> np.ndarray:
    """Neighbouring weights along the summed channels, (pairs, 2)."""
    summed = 1 if node.op_type == "Conv" else 0
    if node.op_type == "Gemm" and "transB" in node.attributes:
        summed = node.attributes["transB"].as_int()
    return _neighbours(np.moveaxis(codes, summed, -1))


def _neighbours(lines: np.ndarray) -> np.ndarray:
    """Neighbours along the last axis, (pairs, 2)."""
    lines = lines.reshape(-1, lines.shape[-1])
    even = lines.shape[1] // 2 * 2
    return lines[:, :even].reshape(-1, 2)


def _could_overflow(pairs: np.ndarray) -> np.ndarray:
    """Which pairs of weights overflow where both codes are the largest, (pairs,)."""
    return np.asarray(np.abs(pairs.astype(np.int16)).sum(axis=1, dtype=np.int32) * 255 > MOST)


def _draw(
    histogram: Histogram, quantizer: Quantizer, shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    """Random uint8 codes of a tensor, int64."""
    lower, upper, counts = histogram.bins()
    if not counts.sum():
        return np.zeros(shape, np.int64)
    values = rng.choice((lower + upper) / 2, size=shape, p=counts / counts.sum())
    # Signed codes are shifted to unsigned ones by the kernels.
    offset = 128 if quantizer.dtype == "int8" else 0
    codes = np.rint(values / quantizer.scale) + quantizer.zero_point + offset
    return np.asarray(np.clip(codes, 0, 255), np.int64)
