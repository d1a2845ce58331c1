"""`--metric` end to end, through the command line."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgedl
from edgedl.benchmark.metrics import METRICS, metric_of
from edgedl.core.errors import BadSamples
from edgedl.core.samples import Samples, from_arrays
from edgedl.inputs import split
from edgedl.passes.graph import open_model
from edgedl.pipeline import _to_choose_by
from edgedl.runtime import installed_engines
from edgedl.runtime.process import Processing
from edgedl.runtime.process.boxes import Boxes
from edgedl.yamls import read_yaml
from tests.models import Sketch, gemm_net, saved
from tests.test_line import MODEL, ROOT, TEST, call

ENGINE = installed_engines()[0]
COUNT = 1200


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, samples without labels, and with each one's number as label."""
    folder = tmp_path_factory.mktemp("made")
    saved(gemm_net(), folder).path.rename(folder / "model.onnx")
    random = np.random.default_rng(0)
    x = random.standard_normal((COUNT, 16)).astype(np.float32)
    np.savez(folder / "plain.npz", x=x)
    np.savez(folder / "numbered.npz", x=x, labels=np.arange(COUNT) + 0.5)
    np.savez(folder / "values.npz", x=x[:64], labels=random.standard_normal((64, 5)))
    return folder


def compress(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    return call(
        capsys, "compress", "model.onnx", "--int8", "-o", "out.edl", "--seconds", 0.5,
        "--target", ENGINE, "--json", *arguments,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # fresh processes find the package from here, too


def test_a_metric_with_labels_says_whether_the_difference_is_chance(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, text, page = compress(capsys, "--samples", "values.npz", "--metric", "mae")
    assert status == 0, page
    found = json.loads(text.splitlines()[-1])
    accuracy = found["accuracy"]
    assert accuracy["metric"] == "mae"
    assert accuracy["baseline"] == -accuracy["figure"]["baseline"] < 0
    assert accuracy["figure"]["lower_is_better"]
    change = accuracy["difference"]
    assert change["value"] == pytest.approx(-accuracy["drop"])
    assert change["low"] <= change["value"] <= change["high"]
    assert change["within_chance"] == (change["low"] <= 0 <= change["high"])
    line = next(line for line in page.splitlines() if line.startswith("mae"))
    assert f"{accuracy['figure']['baseline']:.4f}" in line
    assert ("within chance" if change["within_chance"] else "beyond chance") in line


def test_without_labels_float_stands_in_and_the_limit_is_about_that(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, text, page = compress(
        capsys, "--samples", "plain.npz", "--metric", "mse", "--max-drop", "1e-12"
    )
    found = json.loads(text.splitlines()[-1])
    twin = found["against_float"]
    assert found["accuracy"] is None
    assert (twin["metric"], twin["figure"], twin["samples"]) == ("mse", "mse", 256)
    assert twin["drop"] == pytest.approx(twin["value"])
    assert status == (3 if twin["drop"] > 1e-12 else 0)
    assert "against float's answers" in page


def test_a_metric_that_fails_on_the_reports_samples_costs_only_its_figure(
    capsys: pytest.CaptureFixture[str], made: Path
) -> None:
    with np.load("numbered.npz") as arrays:
        samples = from_arrays(dict(arrays))
    report = split(samples, None, 0).report
    assert len(report) < COUNT // 2
    bad = int(report.rows[5])
    Path("mine.py").write_text(
        f"def shy(outputs, label):\n    return 1 / (label - {bad} - 0.5)\n", encoding="utf-8"
    )
    status, text, page = compress(
        capsys, "--samples", "numbered.npz", "--metric", "mine.py:shy", "--report", "report"
    )
    assert status == 1
    assert f"metric `mine.py:shy` failed on sample {bad}: " in page
    assert "hint: out.edl is written" in page
    found = json.loads(text.splitlines()[-1])
    assert f"sample {bad}" in found["metric_failed"]
    assert found["accuracy"] is None
    assert found["speedup"]["ratio"] > 0
    assert Path("report/report.json").exists()
    assert edgedl.check("out.edl").ok


def test_a_metric_that_fails_on_floats_answers_is_told_before_anything_is_built(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("never.py").write_text("def never(outputs, label):\n    return outputs['z']\n")
    Path("out.edl").unlink(missing_ok=True)
    status, text, error = compress(capsys, "--samples", "values.npz", "--metric", "never.py:never")
    assert status == 1
    assert "error: metric `never.py:never` failed on sample " in error
    assert "KeyError: 'z' (never.py:2)" in error
    assert not text
    assert not Path("out.edl").exists()


def test_eval_keeps_the_rows_that_could_be_computed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("part.py").write_text(
        "def part(outputs, label):\n"
        "    if label > 9:\n        raise ValueError('too large')\n"
        "    return label\n"
    )
    status, text, page = call(
        capsys, "eval", "model.onnx", "--samples", "numbered.npz", "--metric", "part.py:part",
        "--json", "--target", ENGINE,
    )  # fmt: skip
    assert status == 1
    assert "error: numbered.npz: metric `part.py:part` failed on sample 9: ValueError" in page
    [row] = json.loads(text.splitlines()[-1])["rows"]
    assert row["value"] == pytest.approx(np.mean(np.arange(9) + 0.5))
    assert "sample 9" in row["failed"]
    assert "(in part)" in page


def test_eval_without_labels_holds_models_against_the_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, text, page = call(
        capsys, "eval", "model.onnx", "model.onnx", "--samples", "plain.npz", "--metric",
        "recall@1", "--json", "--target", ENGINE,
    )  # fmt: skip
    assert status == 0, page
    found = json.loads(text.splitlines()[-1])
    assert (found["metric"], found["figure"]) == ("recall@1", "recall@1")
    first, second = found["rows"]
    assert first["against_first"] is None
    assert second["against_first"]["value"] == 1
    assert "1.0000" in page


def test_eval_says_whether_two_models_differ_beyond_chance(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The second model's last bias makes one class of everything."""
    worse = onnx.load(MODEL)
    bias = next(i for i in worse.graph.initializer if list(i.dims) == [10])
    array = onnx.numpy_helper.to_array(bias) + np.float32(1e3) * (np.arange(10) == 3)
    bias.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), bias.name))
    onnx.save(worse, tmp_path / "worse.onnx")
    status, text, page = call(
        capsys, "eval", MODEL, MODEL, tmp_path / "worse.onnx", "--samples", TEST, "--json",
        "--target", ENGINE,
    )  # fmt: skip
    assert status == 0, page
    first, same, other = json.loads(text.splitlines()[-1])["rows"]
    assert first["difference"] is None
    assert same["difference"]["within_chance"]
    assert same["difference"]["p"] == 1
    assert not other["difference"]["within_chance"]
    assert other["difference"]["value"] == pytest.approx(other["value"] - first["value"])
    assert "beyond chance, McNemar's p" in page


def detector(folder: Path) -> Path:
    """A model whose 4 rows of boxes are a share of its input."""
    net = Sketch()
    net.constant("one", np.ones(1, np.float32))
    net.node("Mul", ["x", "one"], "boxes")
    graph = net.model([1, 4, 6], [1, 4, 6], output="boxes")
    onnx.save(graph, folder / "detector.onnx")
    return folder / "detector.onnx"


def test_boxes_are_decoded_before_they_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = detector(tmp_path)
    x = np.zeros((3, 4, 6), np.float32)
    x[:, 0] = [0, 0, 10, 10, 0.9, 1]
    x[:, 1] = [20, 20, 30, 30, 0.8, 0]
    labels = np.full((3, 2, 5), -1, np.float32)
    labels[:, 0] = [0, 0, 10, 10, 1]
    labels[:2, 1] = [40, 40, 50, 50, 0]
    np.savez(tmp_path / "s.npz", x=x, labels=labels)
    status, text, page = call(
        capsys, "eval", model, "--samples", tmp_path / "s.npz", "--metric",
        "detection:format=final,iou=0.5", "--json", "--target", ENGINE,
    )  # fmt: skip
    assert status == 0, page
    found = json.loads(text.splitlines()[-1])
    assert found["rows"][0]["value"] == pytest.approx((1 + 0) / 2)
    assert found["figure"] == "mAP@0.5"
    assert "mAP@0.5" in page


BAD = {
    "an unknown metric": (["--metric", "mapp"], 2, "unknown metric `mapp`"),
    "an unknown setting": (["--metric", "ctc:blnk=0"], 2, "did you mean `blank`"),
    "labels that do not fit": (["--metric", "top1"], 1, "class index"),
    "outputs without boxes": (["--metric", "detection:format=final"], 1, "boxes"),
}


@pytest.mark.parametrize(("arguments", "status", "says"), BAD.values(), ids=BAD)
def test_what_cannot_be_ends_in_an_error_and_a_way_out(
    arguments: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given, text, error = call(
        capsys, "eval", "model.onnx", "--samples", "values.npz", "--target", ENGINE, *arguments
    )
    assert given == status
    assert error.startswith("error: ")
    assert says in error
    assert "hint: " in error
    assert not text


def test_the_readme_has_every_metric_and_its_settings_are_read(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## What counts as accuracy") : text.index("## The line")]
    assert [name for name in METRICS if f"`{name}`" not in section] == []
    block = section[section.index("    kind: image") :].partition("\n\n")[0]
    (tmp_path / "spec.yaml").write_text(textwrap.dedent(block))
    found = read_yaml(tmp_path / "spec.yaml").read(Processing.from_json)
    assert found.boxes == Boxes("yolo", threshold=0.25, overlap=0.65)
    for line in section.splitlines():
        if "--metric" in line and line.startswith("    edgedl"):
            assert metric_of(line.partition("--metric ")[2].split()[0]).without_labels
    (tmp_path / "own.py").write_text(
        textwrap.dedent(section[section.index("    def within") :].partition("\n\n")[0])
    )
    own = metric_of(f"{tmp_path / 'own.py'}:within_two_degrees")
    assert own.rows([({"angle": np.array([[9.0]])}, 10.5, {})]) == [1.0]


def test_the_reports_samples_are_no_others() -> None:
    samples = from_arrays({"x": np.zeros((COUNT, 2))})
    groups = split(samples, None, 7)
    parts = [set(g.rows.tolist()) for g in (groups.calibration, groups.choice, groups.report)]
    assert set.union(*parts) == set(range(COUNT))
    assert sum(map(len, parts)) == COUNT


def test_samples_to_choose_by_leave_all_of_the_test_to_the_report() -> None:
    def some(count: int, labels: bool = True) -> Samples:
        zeros = np.zeros(count, np.int64) if labels else None
        return from_arrays({"x": np.zeros((count, 2)), **({"labels": zeros} if labels else {})})

    groups = split(some(20), some(300), 7, some(400))
    assert (len(groups.calibration), len(groups.choice), len(groups.report)) == (20, 256, 300)
    assert groups.doubts == ()
    groups = split(some(20), some(300), 7, some(400), 1024)
    assert len(groups.choice) == 400
    groups = split(some(20), some(3000), 7, most_choice=1024)
    assert (len(groups.choice), len(groups.report)) == (750, 2250)
    groups = split(some(20), None, 7, some(5))
    assert (len(groups.calibration), len(groups.choice), len(groups.report)) == (10, 5, 10)
    with pytest.raises(BadSamples, match="labels both, or neither"):
        split(some(20), some(30), 7, some(30, labels=False))


def test_a_drop_is_held_against_as_many_samples_as_a_model_answers_in_moments(
    tmp_path: Path,
) -> None:
    def most(channels: int) -> int:
        path = tmp_path / "product.onnx"
        value = helper.make_tensor_value_info
        weight = np.zeros((channels, channels), np.float32)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "product",
            [value("x", TensorProto.FLOAT, ["n", 4096, channels])],
            [value("y", TensorProto.FLOAT, ["n", 4096, channels])],
            [numpy_helper.from_array(weight, "w")],
        )
        onnx.save(helper.make_model(graph, ir_version=8), path)
        return _to_choose_by(open_model(path))

    assert most(8) == 2048
    assert most(64) == 512  # 16.8 million multiplications, 715 times
    assert most(512) == 256
