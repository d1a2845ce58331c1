"""Graphs of single layers: sound, of the shapes promised, in int8 where the engine's rules say."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgedl.backends import backend
from edgedl.core.layers import LayerShape
from edgedl.passes.layers import INPUT, OUTPUT, Stand, written
from edgedl.runtime import engine, installed_engines

LAYERS = {
    "conv": LayerShape("conv", 3, 8, (9, 7), (3, 2), (2, 1), (1, 0, 1, 1), (1, 2)),
    "depthwise": LayerShape("conv", 8, 8, (6, 6), (3, 3), (1, 1), (1,) * 4, (1, 1), 8),
    "grouped": LayerShape("conv", 8, 12, (6, 6), (3, 3), (1, 1), (1,) * 4, (1, 1), 4),
    "series": LayerShape("conv", 4, 6, (20,), (5,), (2,), (2, 2), (1,)),
    "transposed": LayerShape("conv_transpose", 6, 4, (5, 5), (2, 2), (2, 2), (0,) * 4, (1, 1)),
    "transposed series": LayerShape("conv_transpose", 6, 4, (5,), (4,), (2,), (1, 1), (1,)),
    "dense": LayerShape("linear", 12, 7, (1,)),
    "rows": LayerShape("linear", 12, 7, (10,)),
    "lstm": LayerShape("lstm", 6, 5, (4,)),
    "lstm both ways": LayerShape("lstm", 6, 5, (4,), directions=2),
    "gru": LayerShape("gru", 6, 5, (4,)),
}
INSTALLED = installed_engines()


def feed(stand: Stand) -> dict[str, np.ndarray]:
    return {INPUT: np.random.default_rng(3).random(stand.given, np.float32)}


def answer(name: str, data: bytes, stand: Stand, precision: str) -> np.ndarray:
    settings = backend(name).settings(precision)
    with engine(name).open_model(data, settings=settings, threads=1) as session:
        assert [tensor.shape for tensor in session.signature.inputs] == [stand.given]
        return session.run(feed(stand))[OUTPUT]


@pytest.mark.parametrize("engine_name", INSTALLED)
@pytest.mark.parametrize("kind", LAYERS)
def test_every_kind_is_sound_and_runs_alike_in_float_and_int8(kind: str, engine_name: str) -> None:
    stand = Stand(LAYERS[kind], 2)
    as_float, int8 = written(stand), written(stand, backend(engine_name).scheme.name)
    answers = []
    for found, precision in ((as_float, "float32"), (int8, "int8")):
        onnx.checker.check_model(found.data, full_check=precision == "float32")
        answers.append(answer(engine_name, found.data, stand, precision))
        assert answers[-1].shape == stand.made
        assert np.isfinite(answers[-1]).all()
    cosine = np.vdot(*answers) / np.prod([np.linalg.norm(a) for a in answers])
    assert cosine > 0.98


@pytest.mark.parametrize("kind", LAYERS)
def test_the_engine_makes_the_size_that_the_shape_tells(kind: str) -> None:
    """Every tensor's shape is written down; inference of shapes finds the same, or complains."""
    shape = LAYERS[kind]
    proto = onnx.load_from_string(written(Stand(shape, 1)).data)
    told = {value.name: value for value in proto.graph.value_info}
    del proto.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    found = {value.name: value for value in inferred.graph.value_info}
    layer = next(node for node in proto.graph.node if node.name.startswith("layer_0_0"))
    assert set(told) == set(found) | {n.output[0] for n in proto.graph.node} - {OUTPUT}
    dims = [
        [d.dim_value for d in v[layer.output[0]].type.tensor_type.shape.dim] for v in (told, found)
    ]
    assert dims[0] == dims[1]
    if shape.kind.startswith("conv"):
        assert tuple(dims[1]) == (1, shape.outputs, *shape.out_size)


def test_what_a_scheme_leaves_in_float_is_said() -> None:
    assert written(Stand(LAYERS["conv"], 2), "onnxruntime").refused is None
    for kind in ("transposed", "gru"):
        reason = written(Stand(LAYERS[kind], 2), "onnxruntime").refused
        assert reason is not None
        assert "no int8" in reason
    assert written(Stand(LAYERS["transposed"], 2), "openvino").refused is None
    assert written(Stand(LAYERS["gru"])).refused is None


@pytest.mark.parametrize("scheme", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", ["conv", "depthwise", "grouped", "series"])
def test_quantizers_stand_on_both_sides_of_a_layer(kind: str, scheme: str) -> None:
    graph = onnx.load_from_string(written(Stand(LAYERS[kind], 2, 1), scheme).data).graph
    makers = {name: node for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type == "Conv"]
    assert len(layers) == 2
    scales = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    for layer in layers:
        data, weight = makers[layer.input[0]], makers[layer.input[1]]
        assert data.op_type == weight.op_type == "DequantizeLinear"
        assert scales[weight.input[1]].shape == (LAYERS[kind].outputs,)
        [rectifier] = [node for node in graph.node if layer.output[0] in node.input]
        [behind] = [node for node in graph.node if rectifier.output[0] in node.input]
        assert (rectifier.op_type, behind.op_type) == ("Relu", "QuantizeLinear")


def test_layers_in_a_row_and_what_stands_behind_them() -> None:
    shape = LayerShape("conv", 4, 4, (5, 5), (3, 3), (1, 1), (1,) * 4, (1, 1), 4)
    graph = onnx.load_from_string(written(Stand(shape, 3, 2)).data).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("Conv") == 6
    assert kinds.count("GlobalAveragePool") == 3
    weights = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    assert len(weights) == 6
    bare = Stand(LayerShape("linear", 3, 5, (2,)), 4, 0)
    graph = onnx.load_from_string(written(bare).data).graph
    assert [node.op_type for node in graph.node] == ["MatMul", "Add"] * 4 + ["Concat"]
    assert bare.given == (1, 2, 5)
    assert bare.made == (1, 2, 32)
