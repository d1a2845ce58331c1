"""External data: beside the model, whole, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgedl.core.errors import BadModel
from edgedl.core.model import sha256
from edgedl.passes.clean import Clean
from edgedl.passes.copied import copy_to
from edgedl.passes.graph import open_model, to_ship
from tests import models
from tests.passes.test_graph import refused, written


def external(folder: Path, **fields: object) -> Path:
    """A saved net whose weights lie in `weights.bin`, with fields of the first one altered."""
    path = folder / "net.onnx"
    onnx.save(
        models.gemm_net(),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    net = onnx.load(path, load_external_data=False)
    entries = net.graph.initializer[0].external_data
    kept = {entry.key: entry.value for entry in entries} | {k: str(v) for k, v in fields.items()}
    del entries[:]
    for key, value in kept.items():
        if value != "None":
            entries.add(key=key, value=value)
    path.write_bytes(net.SerializeToString())
    return path


def test_external_data_belong_to_the_model(tmp_path: Path) -> None:
    path = external(tmp_path)
    model = open_model(path)
    assert model.files == (path, tmp_path / "weights.bin")
    assert model.digest == sha256(model.files)
    feeds = models.feeds(model.signature)
    whole = models.answers(models.gemm_net().SerializeToString(), feeds)
    for mine, expected in zip(models.answers(to_ship(model)[0], feeds), whole, strict=True):
        np.testing.assert_array_equal(mine["logits"], expected["logits"])


def test_a_copy_has_its_data_beside_it_and_the_old_copys_are_gone(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    model = open_model(external(tmp_path / "from"))
    for name in ("a.onnx", "b.onnx"):
        copy_to(model, tmp_path / "to" / name)
    first = open_model(tmp_path / "to" / "a.onnx")
    [data] = first.files[1:]
    assert data.name.startswith("a.onnx.")
    assert data.read_bytes() == (tmp_path / "from" / "weights.bin").read_bytes()
    feeds = models.feeds(model.signature)
    for mine, expected in zip(
        models.answers(to_ship(first)[0], feeds),
        models.answers(to_ship(model)[0], feeds),
        strict=True,
    ):
        np.testing.assert_array_equal(mine["logits"], expected["logits"])
    with model.files[1].open("r+b") as file:
        file.write(b"\0" * 64)
    copy_to(open_model(model.path), tmp_path / "to" / "a.onnx")
    [other] = open_model(tmp_path / "to" / "a.onnx").files[1:]
    assert other != data
    assert len(list((tmp_path / "to").iterdir())) == 4
    small = models.saved(models.gemm_net(), tmp_path)
    copy_to(small, tmp_path / "to" / "a.onnx")
    assert len(list((tmp_path / "to").iterdir())) == 3


def test_external_data_missing(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    error = refused(path)
    assert "`weights.bin` is missing" in str(error)
    assert error.hint


def test_external_data_truncated(tmp_path: Path) -> None:
    path = external(tmp_path)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[:-1])
    assert "`weights.bin` is truncated" in str(refused(path))


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "a/../../weights.bin"])
def test_external_data_that_climb_out(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(10_000))
    assert "outside the model's folder" in str(refused(external(folder, location=location)))


def test_external_data_of_a_constant_node_are_checked(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"secret" * 1000)
    net = models.gemm_net()
    weight = net.graph.initializer[0]
    net.graph.node.insert(0, helper.make_node("Constant", [], [weight.name], value=weight))
    del net.graph.initializer[0]
    tensor = net.graph.node[0].attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (
        ("location", "../secret.bin"),
        ("offset", "0"),
        ("length", str(16 * 12 * 4)),
    ):
        tensor.external_data.add(key=key, value=value)
    path = written(net, folder)
    with pytest.raises(BadModel, match="outside the model's folder"):
        Clean()(open_model(path))


@pytest.mark.parametrize(
    "fields", [{"length": 4}, {"length": None, "offset": 900}, {"offset": -8}, {"offset": "four"}]
)
def test_external_data_that_do_not_fit_their_shape(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    refused(external(tmp_path, **fields))
