"""`edgedl make`, `train` and `export`, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgedl.cli import main

RECIPE = (
    "data: {arrays: a.npz}\nnetwork: mlp\ntrain: {epochs: 1, batch: 16}\n"
    "compress: {target: onnxruntime}\nbench: {seconds: 0.3}\n"
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 120)
    x = (rng.standard_normal((120, 4)) + 3 * labels[:, None]).astype(np.float32)
    np.savez("a.npz", x=x, labels=labels)
    Path("r.yaml").write_text(RECIPE)


def status(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    code = caught.value.code
    return code if isinstance(code, int) else 0


def last(text: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(text.strip().splitlines()[-1])
    return found


def test_stages_one_by_one_and_the_whole_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("make", "r.yaml", "--dry-run", "--json") == 0
    stages = last(capsys.readouterr().out)["stages"]
    assert isinstance(stages, list)
    assert [stage["name"] for stage in stages][:2] == ["data", "train"]
    assert status("train", "r.yaml", "--json") == 0
    assert Path(str(last(capsys.readouterr().out)["weights"])).is_file()
    assert status("export", "r.yaml", "-o", "m.onnx") == 0
    assert "kept" in capsys.readouterr().out
    assert Path("m.onnx").is_file()
    assert status("make", "r.yaml", "--json") == 0
    found = last(capsys.readouterr().out)
    assert found["output"] == "r.edl"
    assert Path("r.edl").is_file()
    assert status("check", "r.edl") == 0


def test_mistakes_have_a_line_and_a_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_text(RECIPE + "epochs: 3\n")
    assert status("make", "bad.yaml") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: bad.yaml:6: unknown key `epochs`")
    assert "hint: " in said
    assert status("make", "nothing.yaml") == 1
    assert "nothing.yaml: no such file" in capsys.readouterr().err
    assert status("make") == 2
    assert "no recipe is named" in capsys.readouterr().err


def test_editors_get_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("make", "--schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "edgedl recipe"
