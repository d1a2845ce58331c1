"""A graph as plain data, and other values in its constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedl.core.errors import BadOption
from edgedl.core.program import Constants
from edgedl.passes.program import Reweigh, program_of
from edgedl.runtime import installed_engines
from tests.models import NETS, answers, feeds, matmul_net, residual_net, saved


@pytest.mark.parametrize("name", sorted(set(NETS) - {"if"}))
def test_operations_come_in_an_order_that_can_be_carried_out(tmp_path: Path, name: str) -> None:
    program = program_of(saved(NETS[name](), tmp_path))
    known = {"", *program.constants, *(t.name for t in program.signature.inputs)}
    for operation in program.operations:
        assert set(operation.inputs) <= known
        known |= set(operation.outputs)
    assert {tensor.name for tensor in program.signature.outputs} <= known


def test_attributes_are_plain_values(tmp_path: Path) -> None:
    program = program_of(saved(NETS["old"](), tmp_path))
    kinds = {
        type(value) for operation in program.operations for value in operation.attributes.values()
    }
    assert kinds <= {int, float, str, bytes, tuple, np.ndarray}
    found = {operation.kind: operation.attributes for operation in program.operations}
    assert found["ReduceMean"]["axes"] == (2, 3)
    assert found["Constant"]["value"].shape == (8, 5)


@pytest.mark.skipif("onnxruntime" not in installed_engines(), reason="onnxruntime runs them")
def test_other_constants_give_other_answers_and_nothing_else_changes(tmp_path: Path) -> None:
    model = saved(matmul_net(), tmp_path)
    before = program_of(model).constants
    changed = Reweigh(Constants({"w2": 2 * before["w2"], "b2": 2 * before["b2"]}))(model)
    assert changed.signature == model.signature
    rows = feeds(model.signature)
    for old, new in zip(answers(model.path, rows), answers(changed.path, rows), strict=True):
        np.testing.assert_allclose(2 * old["logits"], new["logits"], rtol=1e-5, atol=1e-6)


def test_the_same_constants_give_the_same_model_and_others_another(tmp_path: Path) -> None:
    model = saved(residual_net(), tmp_path)
    weight = program_of(model).constants["fc_w"]
    one, same, other = (
        Reweigh(Constants({"fc_w": factor * weight}))(model) for factor in (2, 2, 3)
    )
    assert one.digest == same.digest != other.digest


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("nothing", np.zeros(3, np.float32), "no constant `nothing`"),
        ("fc_b", np.zeros(4, np.float32), r"`fc_b` is FLOAT \[5\], and float32 \[4\]"),
        ("fc_b", np.zeros(5, np.float64), r"and float64 \[5\] was to take its place"),
    ],
)
def test_constants_that_do_not_fit_are_named(
    tmp_path: Path, name: str, array: np.ndarray, said: str
) -> None:
    with pytest.raises(BadOption, match=said):
        Reweigh(Constants({name: array}))(saved(residual_net(), tmp_path))


def test_constants_are_read_as_they_were_written(tmp_path: Path) -> None:
    odd = {"a/b:0": np.arange(3, dtype=np.float32), "ü ": np.ones((2, 0), np.float32)}
    Constants(odd).write(tmp_path / "tuned.npz")
    found = Constants.read(tmp_path / "tuned.npz")
    assert list(found.of) == list(odd)
    assert all(np.array_equal(found.of[name], array) for name, array in odd.items())
    assert found.to_json() == Constants(odd).to_json()
