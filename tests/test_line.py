"""The line end to end, through the command line, on the model that the repository ships."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgedl
from edgedl import reports
from edgedl.cli import main
from edgedl.core.engines import ON_GPU
from edgedl.core.errors import EdgeError
from edgedl.report.compressed import Compressed
from edgedl.runtime import ENGINES, installed_engines, nvidia_gpu_here
from edgedl.runtime.bundle import open_bundle
from tests.models import concat_net, gemm_net, if_net, residual_net, saved

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "recipes" / "fashion_mnist.onnx"
CALIBRATION = ROOT / "calibration" / "fashion-mnist" / "calibration.npz"
TEST = ROOT / "calibration" / "fashion-mnist" / "test.npz"


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    return int(caught.value.code or 0), shown.out, shown.err


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quarter of the test images, with labels."""
    path = tmp_path_factory.mktemp("few") / "few.npz"
    with np.load(TEST) as arrays:
        np.savez(path, image=arrays["image"][::4], labels=arrays["labels"][::4])
    return path


@pytest.mark.parametrize("target", installed_engines())
def test_the_shipped_model_on_each_engine(
    target: str, few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fashion.edl"
    status, text, page = call(
        capsys, "compress", MODEL, "--int8", "--samples", CALIBRATION, "--test", few,
        "--target", target, "-o", out, "--seconds", 0.5, "--json", "--report", tmp_path / "report",
    )  # fmt: skip
    assert status == 0, page
    found = json.loads(text.splitlines()[-1])
    assert found["engine"] == target
    assert found["bytes"] == out.stat().st_size < 0.35 * found["baseline_bytes"]
    assert found["baseline_bytes"] == MODEL.stat().st_size
    assert found["precision"] in ("int8", "mixed")
    assert found["operators"]["int8"] >= 6
    assert found["agreement"]["top1"] >= 0.97
    assert found["agreement"]["cosine"] > 0.998
    assert found["accuracy"]["metric"] == "top1"
    assert found["accuracy"]["baseline"] > 0.85
    assert abs(found["accuracy"]["drop"]) < 0.015
    change = found["accuracy"]["difference"]
    assert change["low"] < -found["accuracy"]["drop"] < change["high"]
    assert found["speedup"]["low"] <= found["speedup"]["ratio"] <= found["speedup"]["high"]
    assert found["speedup"]["verdict"] in ("faster", "slower", "inconclusive")
    assert json.loads((tmp_path / "report" / "report.json").read_text())["bytes"] == found["bytes"]

    status, text, _ = call(capsys, "check", out, "--json")
    assert status == 0
    assert json.loads(text.splitlines()[-1])["payloads"][0]["error"] < 1e-3

    answers = tmp_path / "answers.npz"
    assert call(capsys, "run", out, "--input", few, "--output", answers)[0] == 0
    with np.load(answers) as rows, np.load(few) as given:
        assert rows["logits"].shape == (len(given["labels"]), 10)
        assert (rows["logits"].argmax(1) == given["labels"]).mean() > 0.85
        session = edgedl.open(out, threads=1)
        one = session.run({"image": given["image"][:1]})["logits"]
        assert np.allclose(one[0], rows["logits"][0], atol=1e-4)

    status, text, _ = call(capsys, "eval", MODEL, out, "--samples", few, "--json")
    assert status == 0
    float_row, int8_row = json.loads(text.splitlines()[-1])["rows"]
    assert int8_row["value"] > float_row["value"] - 0.02

    status, text, _ = call(capsys, "inspect", out, "--json")
    assert status == 0
    inspected = json.loads(text.splitlines()[-1])
    assert inspected["quantized"]
    assert [step["name"] for step in inspected["history"]][-2:] == ["place", "weight_only"]


def test_bench_gives_the_contracts_document(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text, page = call(
        capsys, "bench", MODEL, MODEL, "--samples", few, "--seconds", 0.5, "--json"
    )
    assert status == 0, page
    found = json.loads(text.splitlines()[-1])
    assert len(found["rows"]) == 2
    assert len(found["pairs"]) == 1
    assert found["rows"][0]["latency_ms"]["p50"] > 0
    assert found["rows"][0]["load_ms"] > 0
    assert found["rows"][0]["energy_mj"] is None or found["rows"][0]["energy_mj"] > 0
    assert {"a", "b", "ratio", "low", "high", "verdict"} <= set(found["pairs"][0])


@pytest.mark.parametrize("net", [residual_net, concat_net, gemm_net, if_net])
def test_tiny_models_of_every_kind(net: object, tmp_path: Path) -> None:
    model = saved(net(), tmp_path)  # type: ignore[operator]
    random = np.random.default_rng(0)
    given = model.signature.inputs[0]
    shape = [d if isinstance(d, int) else 8 for d in (given.shape or ())[1:]]
    arrays = {given.name: random.standard_normal((40, *shape)).astype(np.float32)}
    result = edgedl.compress(model.path, arrays, tmp_path / "net.edl", seconds=0.2)
    assert result.agreement.cosine > 0.98
    assert edgedl.check(tmp_path / "net.edl").ok
    assert edgedl.open(tmp_path / "net.edl").signature.outputs[0].name == "logits"


def test_a_limit_that_cannot_be_kept_ends_in_3_and_ships_the_best(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small.edl"
    status, text, _ = call(
        capsys, "compress", MODEL, "--int8", "--samples", few, "-o", out, "--seconds", 0.5,
        "--target", installed_engines()[0], "--max-bytes", "10kB",
    )  # fmt: skip
    assert status == 3
    assert "is over --max-bytes 10 kB" in text
    assert open_bundle(out).payloads


def test_a_report_that_cannot_be_written_loses_no_result(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report").write_text("a file")
    out = tmp_path / "out.edl"
    status, text, error = call(
        capsys, "compress", MODEL, "--int8", "--samples", few, "-o", out, "--seconds", 0.5,
        "--target", installed_engines()[0], "--json", "--report", tmp_path / "report",
    )  # fmt: skip
    assert status == 1
    assert f"error: {tmp_path / 'report'}: the report cannot be written" in error
    assert "hint: " in error
    assert json.loads(text.splitlines()[-1])["bytes"] == out.stat().st_size


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    """What `compress` found for a small model."""
    folder = tmp_path_factory.mktemp("compressed")
    model = saved(gemm_net(), folder)
    arrays = {"x": np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)}
    engine = installed_engines()[0]
    return edgedl.compress(model.path, arrays, folder / "o.edl", target=engine, seconds=0.5)


@pytest.mark.parametrize("blocked", ["report.txt", "plan.yaml"])
def test_a_file_of_the_report_that_cannot_be_written_is_named(
    blocked: str, compressed: Compressed, tmp_path: Path
) -> None:
    (tmp_path / "report" / blocked).mkdir(parents=True)
    planned = dataclasses.replace(compressed, plan="engine: x\n")
    with pytest.raises(EdgeError, match="the report ") as caught:
        reports.write_compressed(planned, tmp_path / "report")
    assert caught.value.where == str(tmp_path / "report" / blocked)
    assert caught.value.hint == "name a folder that you may write to"


def test_an_earlier_runs_plan_is_not_taken_for_this_ones(
    compressed: Compressed, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    report.mkdir()
    (report / "plan.yaml").write_text("an earlier run's")
    reports.write_compressed(dataclasses.replace(compressed, plan=None), report)
    assert sorted(path.name for path in report.iterdir()) == ["report.json", "report.txt"]
    reports.write_compressed(dataclasses.replace(compressed, plan="engine: x\n"), report)
    assert (report / "plan.yaml").read_text() == "engine: x\n"


def test_a_drop_limit_is_kept(few: Path, tmp_path: Path) -> None:
    result = edgedl.compress(
        MODEL, CALIBRATION, tmp_path / "f.edl", test=few, max_drop=0.02, seconds=0.2,
        target=installed_engines()[0],
    )  # fmt: skip
    assert not result.broken
    assert result.accuracy is not None
    assert result.accuracy.baseline - result.accuracy.result <= 0.02


BAD = {
    "a model that is not there": (["compress", "none.onnx", "--samples", TEST], 1, "no such file"),
    "no samples": (["compress", MODEL], 2, "samples are needed"),
    "an unknown target": (["compress", MODEL, "--samples", TEST, "--target", "cp"], 2, "`cpu`"),
    "a drop that is none": (["compress", MODEL, "--samples", TEST, "--max-drop", "5x"], 2, "1%"),
    "an output nowhere": (
        ["compress", MODEL, "--samples", TEST, "-o", "no/where.edl"],
        1,
        "written",
    ),
    "an output that is a folder": (["compress", MODEL, "--samples", TEST, "-o", "."], 1, "folder"),
    "a wrong shape": (["compress", MODEL, "--samples", TEST, "--shape", "image=1x2"], 2, "image"),
    "samples that are no npz": (["compress", MODEL, "--samples", MODEL], 1, ".npz"),
}


@pytest.mark.parametrize(("arguments", "status", "says"), BAD.values(), ids=BAD)
def test_bad_input_ends_in_an_error_and_a_way_out(
    arguments: list[object],
    status: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [arguments[0], arguments[1], "--int8", *arguments[2:]]
    if "-o" not in command:
        command += ["-o", "out.edl"]
    given, text, error = call(capsys, *command)
    assert given == status
    assert error.startswith("error: ")
    assert "hint: " in error
    assert says in error
    assert not text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read", ["net.onnx", "some.npz", "net.bin"])
def test_what_compress_reads_is_not_written_over(read: str, tmp_path: Path) -> None:
    net = onnx.load(saved(gemm_net(), tmp_path).path)
    onnx.save(
        net, tmp_path / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0
    )
    np.savez(tmp_path / "some.npz", x=np.zeros((4, 8), np.float32))
    before = (tmp_path / read).read_bytes()
    with pytest.raises(EdgeError, match="would be lost"):
        edgedl.compress(
            tmp_path / "net.onnx", samples=tmp_path / "some.npz", output=tmp_path / read
        )
    assert (tmp_path / read).read_bytes() == before


def test_an_unknown_command_names_its_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = call(capsys, "comprss")
    assert status == 2
    assert "did you mean `compress`?" in error


def test_a_dynamic_shape_without_samples_asks_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.models import dynamic_net

    model = saved(dynamic_net(), tmp_path)
    status, _, error = call(capsys, "bench", model.path, "--seconds", 0.5)
    assert status == 2
    assert "--shape x=" in error


def test_doctor_names_engines_and_the_command_that_installs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, text, _ = call(capsys, "doctor", "--json")
    assert status == 0
    found = json.loads(text.splitlines()[-1])
    assert {engine["name"] for engine in found["engines"]} == set(ENGINES)
    for row in found["engines"]:
        if row["name"] in ON_GPU and not nvidia_gpu_here():
            assert "needs an NVIDIA GPU" in row["install"]
        else:
            assert "pip install" in row["install"]
