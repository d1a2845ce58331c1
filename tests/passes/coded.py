"""Small products of codes, and what onnxruntime answers to them.

`python -m tests.passes.coded OUT.npz` runs them; `haswell.npz` was written so by onnxruntime 1.31.1
under `qemu-x86_64 -cpu Haswell` (qemu 7.2), which has AVX2 and no VNNI.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Case:
    """A net of one product, and its input, whose values are codes."""

    name: str
    net: onnx.ModelProto
    x: np.ndarray


def _case(
    name: str,
    operator: str,
    shape: tuple[int, ...],
    weights: tuple[int, ...],
    seed: int,
    *,
    signed: bool = False,
    zero: int = 0,
    result_scale: float | None = None,
    **attributes: Any,
) -> Case:
    rng = np.random.default_rng(seed)
    dtype = np.int8 if signed else np.uint8
    constants = {
        "one": np.float32(1),
        "none": dtype(0),
        "w": rng.integers(-127, 128, weights).astype(np.int8),
        "w_zero": np.int8(zero),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "none"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "one", "none"], ["real"]),
        helper.make_node("DequantizeLinear", ["w", "one", "w_zero"], ["weights"]),
        helper.make_node(operator, ["real", "weights"], ["y"], **attributes),
    ]
    if result_scale is not None:
        constants |= {"scale": np.float32(result_scale), "middle": np.uint8(128)}
        nodes += [
            helper.make_node("QuantizeLinear", ["y", "scale", "middle"], ["y_codes"]),
            helper.make_node("DequantizeLinear", ["y_codes", "scale", "middle"], ["out"]),
        ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y" if result_scale is None else "out", 1, None)],
        [numpy_helper.from_array(np.asarray(array), key) for key, array in constants.items()],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    least, most = (-128, 128) if signed else (0, 256)
    return Case(name, net, rng.integers(least, most, shape).astype(np.float32))


def cases() -> Iterator[Case]:
    """Matrix products and convolutions with even and odd sums, signed codes, groups and zeros."""
    for i, k in enumerate((16, 17, 64)):
        yield _case(f"matmul_{k}", "MatMul", (5, k), (k, 12), i)
        yield _case(f"matmul_{k}_signed", "MatMul", (5, k), (k, 12), i, signed=True)
        yield _case(f"matmul_{k}_coded", "MatMul", (5, k), (k, 12), i, result_scale=2048.0)
        yield _case(f"gemm_{k}", "Gemm", (5, k), (12, k), i, result_scale=2048.0, transB=1)
    padded = {"pads": [1, 1, 1, 1], "result_scale": 4096.0}
    for i, c in enumerate((3, 4, 16, 17)):
        image = (1, c, 6, 6)
        yield _case(f"conv1_{c}", "Conv", image, (8, c, 1, 1), i, result_scale=2048.0)
        yield _case(f"conv3_{c}", "Conv", image, (8, c, 3, 3), i, **padded)
        yield _case(f"conv3_{c}_strides", "Conv", image, (8, c, 3, 3), i, **padded, strides=[2, 2])
    image = (1, 16, 6, 6)
    yield _case("conv3_signed", "Conv", image, (8, 16, 3, 3), 5, **padded, signed=True)
    yield _case("conv3_zero", "Conv", image, (8, 16, 3, 3), 6, **padded, zero=1)
    yield _case("conv3_groups", "Conv", image, (8, 8, 3, 3), 7, **padded, group=2)
    yield _case("depthwise", "Conv", image, (16, 1, 3, 3), 8, **padded, group=16)
    yield _case(
        "conv3_dilated", "Conv", image, (8, 16, 3, 3), 9, result_scale=4096.0, dilations=[2, 2]
    )
    yield _case("conv_1d", "Conv", (1, 16, 20), (8, 16, 5), 10, result_scale=4096.0, pads=[2, 2])


def main(path: str) -> None:
    """Answers by name into an npz."""
    import onnxruntime

    found = {}
    for case in cases():
        session = onnxruntime.InferenceSession(case.net.SerializeToString())
        [found[case.name]] = session.run(None, {"x": case.x})
    np.savez_compressed(path, **found)


if __name__ == "__main__":
    main(sys.argv[1])
