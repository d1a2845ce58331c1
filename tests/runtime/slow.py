"""Models that go on for as long as one likes, to be stopped."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def endless_net() -> onnx.ModelProto:
    """`n` rounds of a loop that keeps `x`: float32 [1, 4] to `y`, the same."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["on"]),
            helper.make_node("Mul", ["v", "one"], ["v2"]),
        ],
        "body",
        [value("i", TensorProto.INT64, []), value("going", TensorProto.BOOL, []),
         value("v", TensorProto.FLOAT, [1, 4])],
        [value("on", TensorProto.BOOL, []), value("v2", TensorProto.FLOAT, [1, 4])],
    )  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "true", "x"], ["y"], body=body)],
        "endless",
        [value("x", TensorProto.FLOAT, [1, 4]), value("n", TensorProto.INT64, [])],
        [value("y", TensorProto.FLOAT, [1, 4])],
        [
            numpy_helper.from_array(np.array(True), "true"),
            numpy_helper.from_array(np.float32(1), "one"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rounds(n: int) -> dict[str, np.ndarray]:
    """Inputs of `endless_net`."""
    return {"x": np.arange(4, dtype=np.float32)[None], "n": np.array(n)}


def many_rounds(engine: str) -> int:
    """More rounds than end in a millisecond. onnxruntime is stopped in the midst; OpenVINO, and
    whoever knows no deadlines yet, ends a loop that it began."""
    return 10**13 if engine == "onnxruntime" else 10**5
