"""Large weights inside an ONNX file are mapped where they lie, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.errors import BadModel
from edgedl.passes import mapped, scales
from edgedl.passes.clean import Clean
from edgedl.passes.correct import CorrectBias, Means
from edgedl.passes.graph import open_model, read, short_named, to_ship, write_beside
from edgedl.passes.mapped import Mapped, without_weights
from edgedl.passes.quantize import Quantize
from edgedl.passes.scales import codes_of, rounded, spread
from edgedl.passes.weight_only import WeightOnly
from tests import models


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every weight counts as large."""
    monkeypatch.setattr(mapped, "LEAST_FILE_BYTES", 0)
    monkeypatch.setattr(mapped, "LEAST_WEIGHT_BYTES", 1)


def weights(path: Path) -> dict[str, np.ndarray]:
    values = read(path).graph.initializers.values()
    return {v.name or "": v.const_value.numpy() for v in values if v.const_value is not None}


def test_weights_inside_are_the_same_mapped(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model = models.saved(models.residual_net(), tmp_path)
    whole, shipped = weights(model.path), to_ship(model)
    request.getfixturevalue("eager")
    thin = without_weights(model.path)
    assert not any(array.tobytes() in thin for array in whole.values())
    tensors = [v.const_value for v in read(model.path).graph.initializers.values()]
    assert all(isinstance(tensor, Mapped) for tensor in tensors)
    found = weights(model.path)
    assert found.keys() == whole.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(found[name], array)
    again = open_model(model.path)
    assert (again.files, again.digest) == (model.files, model.digest)
    assert to_ship(again) == shipped


@pytest.mark.usefixtures("eager")
@pytest.mark.usefixtures("eager")
def test_a_writer_may_state_that_data_is_inside(tmp_path: Path) -> None:
    """As `onnx.load` leaves it in a model whose data lay in another file."""
    net = models.residual_net()
    expected = {t.name: onnx.numpy_helper.to_array(t) for t in net.graph.initializer}
    for tensor in net.graph.initializer:
        tensor.data_location = onnx.TensorProto.DEFAULT
        tensor.external_data.add(key="location", value="elsewhere")
    assert all(tensor.HasField("data_location") for tensor in net.graph.initializer)
    for tensor in net.graph.initializer[1:]:
        del tensor.external_data[:]
    found = weights(models.saved(net, tmp_path).path)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_model_is_edited_with_its_weights_mapped(tmp_path: Path) -> None:
    model = models.saved(models.conv_net(), tmp_path)
    rows = models.feeds(model.signature)
    for made in (Clean()(model), WeightOnly(least_elements=1)(model)):
        for was, becomes in zip(
            models.answers(model.path, rows), models.answers(made.path, rows), strict=True
        ):
            np.testing.assert_allclose(becomes["logits"], was["logits"], atol=0.05)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("way", ["short", "beside"])
def test_a_copy_stands_for_a_model_whose_weights_lie_inside(tmp_path: Path, way: str) -> None:
    model = models.saved(models.conv_net(), tmp_path)
    rows = models.feeds(model.signature)
    expected = models.answers(model.path, rows)
    if way == "short":
        with short_named(model) as (path, names):
            found = models.answers(path, rows)
        assert not path.exists()
        assert "conv1" in names.values()
    else:
        (tmp_path / "other").mkdir()
        write_beside(read(model.path), model, tmp_path / "other" / "copy.onnx")
        found = models.answers(tmp_path / "other" / "copy.onnx", rows)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one["logits"], other["logits"])


@pytest.mark.usefixtures("eager")
def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = models.gemm_net().SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in range(1, len(data), 37):
        path.write_bytes(data[:length])
        with pytest.raises(BadModel):
            open_model(path)


@given(st.binary(max_size=60))
def test_whatever_the_bytes_are_they_come_through(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "x.onnx"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "LEAST_FILE_BYTES", 1)
        assert without_weights(path) == data


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    path = folder / "net.onnx"
    onnx.save(
        models.gemm_net(), path, save_as_external_data=True, location="w.bin", size_threshold=0
    )
    (folder / "w.bin").rename(tmp_path / "secret.bin")
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises((ValueError, BadModel), match="outside the model's folder"):
        weights(path)


@pytest.mark.parametrize("shape", [(), (5,), (7, 6), (6, 5, 3, 3)])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_blocks_round_as_the_whole_does(
    shape: tuple[int, ...], axis: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    axis = None if axis is not None and axis >= len(shape) else axis
    array = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    codes, steps = rounded(array, axis)
    exact = np.clip(np.rint(array / spread(steps, axis, array.ndim)), -127, 127)
    np.testing.assert_array_equal(codes, exact.astype(np.int8))
    monkeypatch.setattr(scales, "BLOCK_ELEMENTS", 10)
    np.testing.assert_array_equal(rounded(array, axis)[0], codes)
    few = codes_of(array, np.asarray(0.1, np.float32), 7)
    np.testing.assert_array_equal(few, np.clip(np.rint(array / np.float32(0.1)), -7, 7))


@pytest.mark.parametrize("transposed", [False, True])
def test_biases_are_corrected_alike_in_blocks(
    transposed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Clean()(models.saved(models.gemm_net(transposed), tmp_path))
    given = models.samples(model.signature)
    plan = Quantize(given).plan(model)
    read_by = {n.name: n.inputs[0] for n in read(model.path).graph if n.name in plan.weights}
    sizes = {v.name or "": int(v.shape[-1]) for v in read_by.values() if v and v.shape}  # type: ignore[arg-type]
    means = Means({name: np.arange(size, dtype=np.float64) for name, size in sizes.items()})
    found = []
    for block in (1 << 22, 20):
        monkeypatch.setattr(scales, "BLOCK_ELEMENTS", block)
        graph = read(model.path)
        CorrectBias(plan, means).edit(graph)
        found.append(
            {
                v.name: v.const_value.numpy()
                for v in graph.graph.initializers.values()
                if v.name and v.const_value is not None and v.name.endswith("bias_moved")
            }
        )
    assert found[0]
    assert found[0].keys() == found[1].keys()
    for name, bias in found[0].items():
        np.testing.assert_allclose(found[1][name], bias, rtol=1e-6)
