"""`edgedl diagnose` as it is typed: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgedl.passes.graph import open_model
from edgedl.runtime import installed_engines
from edgedl.runtime.sign.encrypt import encrypt
from tests.bundles import SECRET
from tests.diagnosis import nets
from tests.runtime.test_bundle import written
from tests.test_line import call

pytestmark = pytest.mark.skipif(
    "onnxruntime" not in installed_engines(), reason="the plans are onnxruntime's"
)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A float model, an int8 one that clips, and samples."""
    model = nets.edge_net(tmp_path)
    folded, plan = nets.planned(model, nets.pictures())
    path = nets.coded(tmp_path, folded, nets.with_scale(plan, "relu1", 0.2))
    np.savez(tmp_path / "s.npz", **nets.pictures(seed=1))
    return model.path, path, tmp_path / "s.npz"


def test_three_lines_say_it_and_files_keep_it(
    pair: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, path, samples = pair
    status, out, err = call(
        capsys, "diagnose", model, path, "--samples", samples, "--json", "--report", tmp_path / "r"
    )
    assert status == 0, err
    head = err.splitlines()[2:5]
    assert head[0].startswith("int8 lost")
    assert "`relu1`" in head[1]
    assert head[2].startswith(f"type: edgedl compress {model} --int8 --samples {samples}")
    found = json.loads(out.splitlines()[-1])
    assert found["status"] == "faults"
    cause = found["causes"][0]
    assert cause["name"] == "clipped_range"
    assert 0 < cause["share"]["low"] <= cause["share"]["value"] <= cause["share"]["high"] <= 1.01
    assert found["loss"]["low"] <= found["loss"]["value"] <= found["loss"]["high"]
    assert json.loads((tmp_path / "r" / "diagnosis.json").read_text()) == found
    page = (tmp_path / "r" / "diagnosis.html").read_text()
    assert "Error along the graph" in page
    assert "<script" not in page
    assert "clipped range" in (tmp_path / "r" / "diagnosis.md").read_text()


def test_growth_is_split_into_added_and_inherited(pair: tuple[Path, Path, Path]) -> None:
    import edgedl

    found = edgedl.diagnose(*pair)
    rows = {row.tensor: row for row in found.tensors}
    assert rows["relu1"].added > 10 * rows["relu2"].added
    assert rows["relu2"].inherited > rows["relu2"].added
    assert rows["x"].inherited == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("swapped", "the first model is quantized itself"),
        ("same", "holds no quantizer"),
        ("one", "one sample is too few"),
        ("other", "its outputs are"),
        ("nan", "makes NaN or infinity on sample"),
        ("none", "there is nothing to diagnose on"),
    ],
)
def test_refusals(
    spoil: str,
    message: str,
    pair: tuple[Path, Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, path, samples = pair
    if spoil == "swapped":
        model, path = path, model
    elif spoil == "same":
        path = model
    elif spoil == "one":
        np.savez(samples, x=nets.pictures(1)["x"])
    elif spoil in ("other", "nan"):
        net = onnx.load(path)
        if spoil == "other":
            net.graph.output[0].name = net.graph.node[-1].output[0] = "elsewhere"
        else:
            bias = next(t for t in net.graph.initializer if t.name == "fc_b")
            broken = np.full(numpy_helper.to_array(bias).shape, np.nan, np.float32)
            bias.CopyFrom(numpy_helper.from_array(broken, "fc_b"))
        path = tmp_path / "spoilt.onnx"
        onnx.save(net, path)
    arguments = [model, path] + ([] if spoil == "none" else ["--samples", samples])
    status, _, err = call(capsys, "diagnose", *arguments)
    assert status in (1, 2)
    assert message in err
    assert "hint: " in err
    if spoil == "nan":
        assert "first in `" in err


def test_few_samples_give_no_verdict(pair: tuple[Path, Path, Path]) -> None:
    import edgedl

    model, path, _ = pair
    data = nets.pictures(5, seed=1)
    found = edgedl.diagnose(model, path, {"x": data["x"]})
    assert found.status == "too few samples"
    assert not found.causes


def test_an_encrypted_model_is_looked_into_in_memory_alone(
    pair: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, path, samples = pair
    plain = written(tmp_path / "plain.edl", model=open_model(path))
    sealed = encrypt(plain, SECRET, tmp_path / "sealed.edl").path
    key = tmp_path / "model.aes"
    key.touch(mode=0o600)
    key.write_text(SECRET.hex())
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("edgedl.core.store.MEMORY", memory)
    np.savez(samples, x=nets.pictures(8)["x"])
    words = ("diagnose", model, sealed, "--samples", samples, "--seconds", "0.5", "--key-file", key)
    before = set(tmp_path.rglob("*"))
    status, _, err = call(capsys, *words, "--json")
    assert status == 0, err
    assert "`relu1`" in err
    assert set(tmp_path.rglob("*")) == before
    monkeypatch.setattr("edgedl.core.store.MEMORY", tmp_path / "none")
    status, _, err = call(capsys, *words)
    assert (status, "nothing can be kept in memory alone" in err) == (1, True)
