"""`bench` on real engines: what a report holds, what fails, what is refused."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgedl import reports, verbs
from edgedl.benchmark.bench import bench, number_twins, spoiled
from edgedl.benchmark.feeds import random_feeds
from edgedl.benchmark.machine import energy_counters
from edgedl.benchmark.nvml import Nvml
from edgedl.benchmark.preflight import preflight
from edgedl.benchmark.watch import invalid
from edgedl.cli import main
from edgedl.core.errors import BadOption, BadSamples, Unsupported
from edgedl.core.model import Signature, Tensor
from edgedl.core.samples import from_arrays, open_npz
from edgedl.runtime import installed_engines
from tests.benchmark.test_watch import STILL
from tests.models import conv_net, gemm_net, saved

ENGINE = installed_engines()[0]


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


def net(folder: Path, name: str = "net.onnx", make: Any = conv_net) -> Path:
    path = folder / name
    path.write_bytes(saved(make(), folder).path.read_bytes())
    return path


def lookup(folder: Path) -> Path:
    """A model that fails where its input names a row that is not there."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [4, 2], np.arange(8.0))
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "row"], ["y"])],
        "lookup",
        [helper.make_tensor_value_info("row", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [table],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "lookup.onnx"
    onnx.save(model, path)
    return path


def images(folder: Path, count: int = 20) -> Path:
    rng = np.random.default_rng(0)
    path = folder / "samples.npz"
    arrays = rng.standard_normal((count, 3, 8, 8)).astype(np.float32)
    np.savez(path, x=arrays, labels=rng.integers(0, 2, count))
    return path


def test_a_report_holds_rows_pairs_answers_and_the_machine(tmp_path: Path) -> None:
    a, b = net(tmp_path, "a.onnx"), net(tmp_path, "b.onnx")
    found = verbs.bench(
        [a, b], target=ENGINE, samples=images(tmp_path), seconds=0.5,
        modes={"profile": {"seconds": 0.3}, "throughput":
               {"batches": [1, 4], "streams": [1], "seconds": 0.6}},
    )  # fmt: skip
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["format_version"] == 1
    assert [row["artifact"] for row in document["rows"]] == [str(a), str(b)]
    for row in document["rows"]:
        assert row["latency_ms"]["min"] <= row["latency_ms"]["p50"]
        assert row["end_to_end_ms"]["p50"] >= row["latency_ms"]["min"]
        assert 0 < row["load_ms"] < 60_000
        assert row["import_ms"] > 0
        assert row["throughput_per_s"] > 0
        assert row["accuracy"]["samples"] == 20
        assert 0 < row["compressed_bytes"] < 2 * row["bytes"]
        assert sum(r["share"] for r in row["profile"]) <= 1 + 1e-9
        assert [rate["batch"] for rate in row["rates"]] == [1, 4]
        assert row["energy_mj"] is None
        assert len(row["yardsticks"]) == document["processes"] >= 3
    assert document["rows"][0]["digest"] == document["rows"][1]["digest"]
    assert document["rows"][0]["agreement"] is None
    assert document["rows"][1]["agreement"]["cosine"] == pytest.approx(1)
    assert [pair["b"] for pair in document["pairs"]] == [str(b)]
    assert document["inputs"]["count"] == 20
    assert document["machine"]["cores"] >= 1
    assert any("energy" in doubt for doubt in document["doubts"])
    assert set(found.samples_ms()) == {str(a), str(b)}


def test_the_fastest_of_three_is_timed_once_more(tmp_path: Path) -> None:
    paths = [net(tmp_path, f"{i}.onnx") for i in range(3)]
    found = verbs.bench(paths, target=ENGINE, seconds=0.5)
    assert len(found.pairs) == 3
    to_first = [pair for pair in found.pairs if pair.a == str(paths[0])]
    fastest = max(to_first, key=lambda pair: pair.ratio.ratio)
    if fastest.ratio.ratio <= 1:
        assert found.confirmed is None
    else:
        assert found.confirmed is not None
        assert (found.confirmed.a, found.confirmed.b) == (str(paths[0]), fastest.b)


def test_one_that_fails_midway_is_named_and_the_other_row_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = tmp_path / "good.onnx"
    model = onnx.load(lookup(tmp_path))
    del model.graph.node[:]
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["row"], ["row_float"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["row_float", "axis"], ["wide"]),
            helper.make_node("Concat", ["wide", "wide"], ["y"], axis=1),
        ]
    )
    model.graph.initializer.append(helper.make_tensor("axis", TensorProto.INT64, [1], [1]))
    onnx.save(model, good)
    rows = np.array([0, 1, 2, 3, 9, 1])
    np.savez(tmp_path / "rows.npz", row=rows)
    status = run(
        "bench", good, tmp_path / "lookup.onnx", "--samples", tmp_path / "rows.npz",
        "--target", "onnxruntime", "--seconds", 0.5, "--json",
    )  # fmt: skip
    out, err = capsys.readouterr()
    assert status == 1
    document = json.loads(out.splitlines()[-1])
    assert list(document["failures"]) == [str(tmp_path / "lookup.onnx")]
    assert [row["valid"] for row in document["rows"]] == [True, False]
    assert document["rows"][0]["latency_ms"]["p50"] > 0
    assert document["rows"][1]["latency_ms"] is None
    assert f"hint: edgedl inspect {tmp_path / 'lookup.onnx'}" in err
    assert "Traceback" not in err


def test_a_folder_of_reports_and_its_history(tmp_path: Path) -> None:
    path = net(tmp_path)
    for _ in range(2):
        found = verbs.bench([path], target=ENGINE, seconds=0.5)
        page = reports.write_bench(found, tmp_path / "report", "edgedl bench net.onnx")
    names = {file.name for file in page.parent.iterdir()}
    assert names == {
        "report.html", "report.md", "report.csv", "report.txt", "report.json", "history.jsonl",
        "samples.jsonl.gz",
    }  # fmt: skip
    assert len(reports.read_history(page.parent / "history.jsonl")) == 2
    with gzip.open(page.parent / "samples.jsonl.gz", "rt") as file:
        lines = [json.loads(line) for line in file]
    mine = [line for line in lines if line["artifact"] == str(path)]
    count = sum(len(line["samples_ns"]) for line in mine)
    assert count == found.rows[0].to_json()["latency_ms"]["samples"]
    assert len(mine) == found.processes
    raw = reports.keep_raw(found)
    assert raw is not None
    assert raw.exists()


def test_against_a_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, base = net(tmp_path), tmp_path / "base.json"
    common = [path, "--target", ENGINE, "--seconds", 0.5]
    assert run("bench", *common, "--json") == 0
    base.write_text(capsys.readouterr().out)
    status = run("bench", *common, "--against", base, "--fail-slower", "90%")
    out, _ = capsys.readouterr()
    assert status == 0
    assert out.startswith("### edgedl bench: **ok**")
    document = json.loads(base.read_text())
    document["rows"][0]["yardsticks"] = [y / 10 for y in document["rows"][0]["yardsticks"]]
    document["machine"]["libraries"]["numpy"] = "0.9"
    base.write_text(json.dumps(document))
    status = run("bench", *common, "--against", base, "--fail-slower", "90%", "--json")
    out, err = capsys.readouterr()
    assert status == 3
    assert "timed twice" in err
    assert f"numpy: 0.9 against {np.__version__}" in err
    held = json.loads(out.splitlines()[-1])["against"]
    assert held["library_differences"] == [f"numpy: 0.9 against {np.__version__}"]
    assert held["rows"][0]["red"]
    assert held["refused"] is None


def test_a_baseline_that_does_not_fit_loses_no_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, base = net(tmp_path), tmp_path / "base.json"
    common = [path, "--target", ENGINE, "--seconds", 0.5]
    assert run("bench", *common, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    document["machine"]["processor"] = "another"
    base.write_text(json.dumps(document))
    assert run("bench", *common, "--against", base, "--json") == 1
    out, err = capsys.readouterr()
    found = json.loads(out.splitlines()[-1])
    assert found["rows"][0]["latency_ms"]["p50"] > 0
    assert found["against"]["rows"] == []
    assert "another machine" in found["against"]["refused"]
    assert "noise floor" in err
    assert f"hint: take a new baseline: edgedl bench {path}" in err


def test_what_cannot_be_honest_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"0\.5 of a core") as caught:
        preflight(1, quota_cores=0.5)
    assert "--cpus=1" in (caught.value.hint or "")
    assert preflight(1, quota_cores=0.5, anyway=True)
    assert preflight(1, quota_cores=1.0) == []
    with pytest.raises(BadOption, match="wait for one another"):
        preflight(4096)


def test_samples_and_inputs_must_do(tmp_path: Path) -> None:
    a, b = net(tmp_path, "a.onnx"), net(tmp_path, "b.onnx", gemm_net)
    with pytest.raises(BadOption, match="unlike inputs") as caught:
        bench([a, b], engine=ENGINE)
    assert "edgedl bench" in (caught.value.hint or "")
    one = open_npz(images(tmp_path, 1))
    with pytest.raises(BadSamples, match="one sample alone"):
        bench([a], engine=ENGINE, samples=one)
    with pytest.raises(BadSamples):
        from_arrays({"x": np.zeros((0, 3, 8, 8), np.float32)})


def test_random_inputs_need_fixed_shapes() -> None:
    signature = Signature((Tensor("x", "float32", (None, 3)), Tensor("n", "int64", ())), ())
    [first, *_] = random_feeds(signature, 0)
    assert first["x"].shape == (1, 3)
    assert first["n"].dtype == np.int64
    with pytest.raises(BadOption, match="dynamic"):
        random_feeds(Signature((Tensor("x", "float32", (1, None)),), ()), 0)


def test_twins_are_numbered() -> None:
    assert number_twins(["a", "b", "a", "a"]) == ["a", "b", "a #2", "a #3"]


def test_a_report_that_cannot_be_written_loses_no_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    words = ["bench", net(tmp_path), "--target", ENGINE, "--seconds", 0.5]
    assert run(*words, "--report", tmp_path / "file", "--json") == 1
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["rows"][0]["latency_ms"]["p50"] > 0
    assert f"error: {tmp_path / 'file'}: the report cannot be written (" in err


STEPPING = """
import sys, time

wall, calls = time.time, iter(range(10_000))
time.time = lambda: wall() + 100 * next(calls)
from edgedl.cli import main

main(sys.argv[1:])
"""


@pytest.mark.parametrize("against", [False, True])
def test_a_clock_that_steps_is_an_error_that_keeps_every_figure(
    against: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, base, folder = net(tmp_path), tmp_path / "base.json", tmp_path / "report"
    words = ["bench", path, "--target", ENGINE, "--seconds", 0.5, "--json"]
    if against:
        assert run(*words) == 0
        base.write_text(capsys.readouterr().out)
    done = subprocess.run(
        [sys.executable, "-c", STEPPING, *map(str, words), "--report", folder]
        + (["--against", base] if against else []),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    [row] = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert not row["valid"]
    assert "the wall clock stepped by +" in row["problem"]
    assert row["latency_ms"]["p50"] > 0
    assert "error: the wall clock stepped by +" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("hint: ")
    assert last.endswith(f"run it again: edgedl bench {path}")
    assert row["problem"] in (folder / "report.md").read_text()
    assert row["problem"].split(": ")[0] in (folder / "report.html").read_text()
    assert (folder / "samples.jsonl.gz").exists()


STOPPED = """
import pathlib, sys

read, exists, calls = pathlib.Path.read_text, pathlib.Path.exists, iter(range(1, 10_000))
kernel = {
    "/proc/self/cgroup": lambda: "0::/",
    "/sys/fs/cgroup/cpu.stat": lambda: f"nr_throttled {next(calls)}\\nthrottled_usec 5000",
}
pathlib.Path.exists = lambda self: str(self) in kernel or exists(self)
pathlib.Path.read_text = lambda self, *words, **more: (
    kernel[str(self)]() if str(self) in kernel else read(self, *words, **more)
)
from edgedl.cli import main

main(sys.argv[1:])
"""


@pytest.mark.parametrize("anyway", [False, True])
def test_a_machine_that_is_stopped_midway_is_an_error_that_keeps_every_figure(
    anyway: bool, tmp_path: Path
) -> None:
    path = net(tmp_path)
    words = ["bench", path, "--target", ENGINE, "--seconds", 0.5, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, *map(str, words), *(["--anyway"] if anyway else [])],
        capture_output=True,
        text=True,
        check=False,
    )
    [row] = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert not row["valid"]
    assert "the processor quota stopped the process" in row["problem"]
    assert row["latency_ms"]["p50"] > 0
    assert done.returncode == (0 if anyway else 1), done.stderr
    assert ("error: the processor quota stopped the process" in done.stderr) is not anyway
    last = done.stderr.splitlines()[-1]
    expected = (
        f"hint: with a larger quota, as in `docker run --cpus`, run it again: edgedl bench {path}"
    )
    assert (last == expected) is not anyway


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"throttles": {"core": 2}}, "cooled down"),
        ({"clock_fall": 0.2, "clock_core": 0}, "cooled down"),
        ({"firmware": 4}, "cooled down"),
        ({"gpu_slowdowns": ("heat",)}, "cooled down"),
        ({"quota_stops": 3}, "a larger quota"),
        ({"clock_step_s": -3.0}, "`timedatectl`"),
    ],
)
def test_whatever_makes_rows_invalid_is_an_error_with_a_way_out(
    change: dict[str, Any], hint: str
) -> None:
    assert spoiled(STILL, ["a b.onnx"]) is None
    seen = dataclasses.replace(STILL, **change)
    error = spoiled(seen, ["a b.onnx"])
    assert error is not None
    assert error.exit_status == 1
    assert error.message == f"{invalid(seen)}; no figure of this run is valid"
    assert hint in (error.hint or "")
    assert (error.hint or "").endswith("run it again: edgedl bench 'a b.onnx'")


@pytest.mark.skipif(bool(energy_counters()), reason="this machine would spend a minute on it")
def test_windows_of_energy_ask_for_energy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = net(tmp_path)
    words = ["bench", path, "--target", ENGINE, "--seconds", 0.5, "--json"]
    assert run(*words, "--energy-windows", 5) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["rows"][0]["energy_mj"] is None
    assert any(doubt.startswith(f"{path}: energy: RAPL") for doubt in found["doubts"])
    assert run(*words, "--energy-windows", 0) == 2


ABOARD = """
from edgedl.runtime import engine

class Aboard:
    "An engine of somebody else's, which says that it runs on a GPU."
    name, on_gpu = "aboard", True

    def __getattr__(self, name):
        return getattr(engine({other!r}), name)

ENGINE = Aboard()
"""


def aboard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install an engine that runs on a GPU, by its own account."""
    (folder / "aboard.py").write_text(ABOARD.format(other=ENGINE))
    about = folder / "aboard-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: aboard\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[edgedl.engines]\naboard = aboard:ENGINE\n")
    monkeypatch.syspath_prepend(folder)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


@pytest.mark.skipif(not isinstance(Nvml.find(), str), reason="NVML answers here")
def test_the_memory_of_a_gpu_that_cannot_be_read_is_null_and_a_doubt_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aboard(tmp_path, monkeypatch)
    path = net(tmp_path)
    found = bench([path], engine="aboard", seconds=0.5).to_json()
    assert found["rows"][0]["engine"] == "aboard"
    assert found["rows"][0]["gpu_bytes"] is None
    assert f"{path}: GPU memory: {Nvml.find()}" in found["doubts"]
    assert f"whether the GPU slowed itself is not known: {Nvml.find()}" in found["doubts"]


def test_nothing_is_said_of_a_gpu_that_nothing_runs_on(tmp_path: Path) -> None:
    found = bench([net(tmp_path)], engine=ENGINE, seconds=0.5).to_json()
    assert found["rows"][0]["gpu_bytes"] is None
    assert not any("GPU" in doubt for doubt in found["doubts"])
