"""Files that are no sound models are refused with a way out, never with a traceback."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedl.core.errors import BadModel
from edgedl.core.model import Model, Tensor, sha256
from edgedl.passes.graph import HISTORY_KEY, open_model, read
from tests import models


def refused(path: Path) -> BadModel:
    with pytest.raises(BadModel) as caught:
        open_model(path)
    assert caught.value.where == str(path)
    return caught.value


def written(net: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(net.SerializeToString())
    return path


def test_signature_digest_and_size(tmp_path: Path) -> None:
    path = written(models.dynamic_net(), tmp_path)
    model = open_model(path)
    assert model.signature.inputs == (Tensor("x", "float32", ("batch", 3, "height", "width")),)
    assert model.signature.outputs == (Tensor("logits", "float32", ("batch", 5)),)
    assert (model.files, model.history) == ((path,), ())
    assert model.digest == sha256([path])
    assert model.bytes == path.stat().st_size


def test_initialisers_are_no_inputs(tmp_path: Path) -> None:
    model = models.saved(models.old_net(), tmp_path)
    assert [tensor.name for tensor in model.signature.inputs] == ["x"]


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "no such file" in str(refused(tmp_path / "none.onnx"))
    assert "folder" in str(refused(tmp_path))


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"")
    assert refused(path).hint


def test_random_bytes(tmp_path: Path) -> None:
    path, source = tmp_path / "net.onnx", random.Random(0)
    for length in range(1, 400):
        path.write_bytes(source.randbytes(length))
        refused(path)


def test_truncated_anywhere(tmp_path: Path) -> None:
    path = written(models.gemm_net(), tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert refused(path).hint, f"cut at {length}"


def test_a_flipped_byte_is_refused_or_still_a_model(tmp_path: Path) -> None:
    path = written(models.gemm_net(), tmp_path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x15]) + whole[position + 1 :])
        try:
            model = open_model(path)
        except BadModel as error:
            assert error.where == str(path)
        else:
            assert isinstance(model, Model)


def _cyclic(net: onnx.ModelProto) -> None:
    net.graph.node[0].input[0] = net.graph.node[1].output[0]


def _two_makers(net: onnx.ModelProto) -> None:
    net.graph.node[1].output[0] = net.graph.node[0].output[0]
    net.graph.node[2].input[0] = net.graph.node[0].output[0]


def _missing_initialiser(net: onnx.ModelProto) -> None:
    del net.graph.initializer[0]


def _missing_in_body(net: onnx.ModelProto) -> None:
    branch = next(a.g for a in net.graph.node[-1].attribute if a.name == "then_branch")
    del branch.initializer[0]


def _unknown_operator(net: onnx.ModelProto) -> None:
    net.graph.node[1].op_type = "Reluu"


def _unknown_domain(net: onnx.ModelProto) -> None:
    net.graph.node[1].domain = "org.acme"
    net.opset_import.append(helper.make_opsetid("org.acme", 1))


def _operator_newer_than_its_opset(net: onnx.ModelProto) -> None:
    net.graph.node[1].op_type = "Gelu"
    net.opset_import[0].version = 13


def _no_inputs(net: onnx.ModelProto) -> None:
    shape = net.graph.input[0]
    net.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 16), np.float32), shape.name))
    del net.graph.input[:]


def _no_outputs(net: onnx.ModelProto) -> None:
    del net.graph.output[:]


def _no_nodes(net: onnx.ModelProto) -> None:
    del net.graph.node[:]


def _output_from_nowhere(net: onnx.ModelProto) -> None:
    net.graph.output[0].name = "nowhere"


def _no_element_type(net: onnx.ModelProto) -> None:
    net.graph.input[0].type.Clear()


def _text_input(net: onnx.ModelProto) -> None:
    net.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING


def _short_weight(net: onnx.ModelProto) -> None:
    net.graph.initializer[0].raw_data = net.graph.initializer[0].raw_data[:8]


def _no_opset(net: onnx.ModelProto) -> None:
    del net.opset_import[:]


def _damaged_history(net: onnx.ModelProto) -> None:
    helper.set_model_props(net, {HISTORY_KEY: "no JSON"})


def _strange_history(net: onnx.ModelProto) -> None:
    helper.set_model_props(net, {HISTORY_KEY: '[{"name": 3}]'})


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_cyclic, "cyclic"),
        (_two_makers, ""),
        (_missing_initialiser, "`fc1_w`, which nothing makes"),
        (_unknown_operator, "unknown operator `Reluu`"),
        (_unknown_domain, "`org.acme`"),
        (_operator_newer_than_its_opset, "Gelu"),
        (_no_inputs, "no inputs"),
        (_no_outputs, "no outputs"),
        (_no_nodes, "empty"),
        (_output_from_nowhere, "`nowhere`"),
        (_no_element_type, "`x` has no element type"),
        (_text_input, "`x`"),
        (_short_weight, ""),
        (_no_opset, ""),
        (_damaged_history, ""),
        (_strange_history, ""),
    ],
)
def test_damaged_graphs(
    damage: Callable[[onnx.ModelProto], None], says: str, tmp_path: Path
) -> None:
    net = models.gemm_net()
    damage(net)
    error = refused(written(net, tmp_path))
    assert says in str(error)
    assert error.hint


def test_a_body_is_checked_too(tmp_path: Path) -> None:
    net = models.if_net()
    _missing_in_body(net)
    assert "`then_w`, which nothing makes" in str(refused(written(net, tmp_path)))


def test_an_unknown_operator_has_a_nearest_one(tmp_path: Path) -> None:
    net = models.gemm_net()
    _unknown_operator(net)
    hint = refused(written(net, tmp_path)).hint or ""
    assert hint.startswith("did you mean `Relu`?")
    assert "Abs" not in hint or "Softmax" in hint


def test_a_long_chain_in_reverse_order_is_sorted_out(tmp_path: Path) -> None:
    net = models.Sketch()
    previous = "x"
    for i in range(5000):
        previous = net.node("Relu", [previous], f"n{i}")
    net.nodes.reverse()
    model = models.saved(net.model([1, 4], [1, 4], output=previous), tmp_path)
    assert len(read(model.path).graph) == 5000


@pytest.mark.parametrize("maps", [True, False])
def test_outputs_that_are_no_arrays_are_named(maps: bool, tmp_path: Path) -> None:
    """Scores by class, as skl2onnx writes them where it is not told otherwise."""
    text, number = onnx.TensorProto.INT64, helper.make_tensor_type_proto(1, [])
    element = helper.make_map_type_proto(text, number) if maps else number
    output = helper.make_value_info("scores", helper.make_sequence_type_proto(element))
    node = helper.make_node("SequenceConstruct", ["x"], ["scores"])
    if maps:
        node = helper.make_node(
            "ZipMap", ["x"], ["scores"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]
        )
    graph = helper.make_graph(
        [node], "maps", [helper.make_tensor_value_info("x", 1, [1, 2])], [output]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    error = refused(written(helper.make_model(graph, opset_imports=opsets), tmp_path))
    assert "`scores` is" in error.message
    assert ("zipmap" in (error.hint or "")) == maps
