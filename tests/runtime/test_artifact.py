"""What is run of a file that was admitted before: the very same bundle, or none."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgedl.core.errors import BadBundle, EngineFailed, Untrusted
from edgedl.runtime import installed_engines
from edgedl.runtime.apart import tried_apart
from edgedl.runtime.artifact import find_artifact
from edgedl.runtime.sign.admit import VARIABLE
from edgedl.runtime.sign.private import keygen
from tests.runtime.shipped import payload, written


@pytest.fixture
def replaced(tmp_path: Path) -> tuple[Path, str]:
    """A bundle, and the identity of the one that lay there before it."""
    path = written(tmp_path / "net.edl", [payload()])
    before = find_artifact(path).identity
    assert before is not None
    other = written(tmp_path / "other.edl", [payload(), payload()])
    shutil.copy(other, path)
    return path, before


def test_a_bundle_that_was_replaced_is_not_taken_for_the_one_before(
    replaced: tuple[Path, str],
) -> None:
    path, before = replaced
    with pytest.raises(BadBundle, match="it was replaced since it was opened"):
        find_artifact(path, identity=before)
    with pytest.raises(EngineFailed, match="it was replaced while it was opened"):
        tried_apart(path, 0, 1, "none", before)


def test_what_was_admitted_is_opened_again_whatever_the_environment_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "net.edl", [payload()])
    identity = find_artifact(path).identity
    keygen(tmp_path / "alice")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "alice.pub"))
    with pytest.raises(Untrusted):
        find_artifact(path)
    assert find_artifact(path, identity=identity).identity == identity


def one_node(folder: Path, kind: str, dtype: int, shape: list[int]) -> Path:
    """A model of one operator."""
    node = helper.make_node(kind, ["x"], ["y"])
    ends = [helper.make_tensor_value_info(n, dtype, s) for n, s in (("x", shape), ("y", None))]
    graph = helper.make_graph([node], kind, ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, folder / f"{kind}.onnx")
    return folder / f"{kind}.onnx"


@pytest.mark.skipif(
    not {"onnxruntime", "openvino"} <= set(installed_engines()), reason="it takes both engines"
)
@pytest.mark.parametrize(
    ("kind", "dtype", "refuses", "takes"),
    [
        ("HardSwish", TensorProto.DOUBLE, "onnxruntime", "openvino"),
        ("Det", TensorProto.FLOAT, "openvino", "onnxruntime"),
    ],
)
def test_where_one_engine_refuses_a_file_the_other_is_named(
    kind: str, dtype: int, refuses: str, takes: str, tmp_path: Path
) -> None:
    path = one_node(tmp_path, kind, dtype, [1, 3, 3])
    with pytest.raises(EngineFailed, match=f"{refuses} refuses the model") as told:
        find_artifact(path, refuses).open(1)
    assert told.value.where == str(path)
    assert told.value.hint == f"--target {takes} takes it"
    find_artifact(path, takes).open(1).close()


def test_where_no_engine_takes_a_file_none_is_named(tmp_path: Path) -> None:
    path = one_node(tmp_path, "NoSuchOperator", TensorProto.FLOAT, [1])
    with pytest.raises(EngineFailed) as told:
        find_artifact(path).open(1)
    assert told.value.hint is None
