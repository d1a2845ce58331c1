"""What may ship where something narrower than int8 is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgedl
from edgedl.cli import main
from edgedl.core.errors import Unsupported
from edgedl.core.model import Model, Signature
from edgedl.core.stats import Agreement
from edgedl.runtime import engine, installed_engines
from edgedl.runtime.bundle import open_bundle
from edgedl.search.candidates import Ask, Candidate, Trial
from edgedl.search.choose import rank
from edgedl.search.limits import Limits
from tests.models import conv_net, saved

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "recipes" / "fashion_mnist.onnx"
SAMPLES = ROOT / "calibration" / "fashion-mnist" / "calibration.npz"
SAME = Agreement(1.0, 1.0, 200.0, 8)


def trial(folder: Path, precision: str, size: int = 100, *, stored: bool = False) -> Trial:
    path = folder / f"{precision}-{stored}"
    path.write_bytes(bytes(size))
    model = Model(path, "0" * 64, Signature((), ()), (), (path,))
    label = f"{precision}{', 8-bit weights' * stored}"
    return Trial(Candidate("x", precision, label, model, {}, stored=stored), SAME, 0.0)


@pytest.fixture
def trials(tmp_path: Path) -> list[Trial]:
    return [
        trial(tmp_path, "float32"),
        trial(tmp_path, "float32", 25, stored=True),
        trial(tmp_path, "bf16"),
        trial(tmp_path, "int8", 25),
    ]


LATENCY = {"x float32": 4.0, "x float32, 8-bit weights": 4.0, "x bf16": 2.0, "x int8": 1.0}


@pytest.mark.parametrize(
    ("ask", "best"),
    [
        ("int8", "x int8"),
        ("auto", "x int8"),
        ("weights", "x float32, 8-bit weights"),
        ("bf16", "x bf16"),
    ],
)
def test_only_what_was_asked_for_ships(ask: Ask, best: str, trials: list[Trial]) -> None:
    assert rank(trials, LATENCY, Limits(), ask)[0].candidate.name == best


def test_what_nothing_computes_in_is_said(trials: list[Trial]) -> None:
    with pytest.raises(Unsupported, match="nothing here computes in float16") as caught:
        rank(trials, LATENCY, Limits(), "float16")
    assert "doctor" in (caught.value.hint or "")
    with pytest.raises(Unsupported, match="no weights"):
        rank(trials[:1], LATENCY, Limits(), "weights")


def test_of_equally_fast_ways_the_smaller_ships(trials: list[Trial]) -> None:
    assert rank(trials[:2], LATENCY, Limits(), "int8")[0].candidate.stored


def arrays() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((24, 3, 8, 8)).astype(np.float32)}


@pytest.mark.parametrize("name", installed_engines())
def test_weights_alone(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.edl"
    with np.load(SAMPLES, allow_pickle=False) as given:
        images = {"image": given["image"][:40]}
    found = edgedl.compress(MODEL, images, out, ask="weights", target=name, seconds=0.5)
    assert found.bytes < 0.4 * found.baseline_bytes
    assert found.precision in ("float32", "bf16", "float16")
    assert found.operators["int8"] == 0
    assert edgedl.check(out).ok


def test_a_precision_that_is_there_or_is_refused(tmp_path: Path) -> None:
    model = saved(conv_net(), tmp_path)
    for name in installed_engines():
        offered = engine(name).precisions()
        if "bf16" in offered:
            found = edgedl.compress(
                model.path, arrays(), tmp_path / "out.edl", ask="bf16", target=name, seconds=0.5
            )
            assert found.precision == "bf16"
            assert open_bundle(tmp_path / "out.edl").payloads[0].precision == "bf16"
        else:
            with pytest.raises(Unsupported, match="bf16"):
                edgedl.compress(
                    model.path, arrays(), tmp_path / "no.edl", ask="bf16", target=name, seconds=0.5
                )
            assert not (tmp_path / "no.edl").exists()


@pytest.mark.parametrize("words", [[], ["--int8", "--bf16"], ["--weights", "int8", "--auto"]])
def test_one_thing_at_a_time(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compress", "m.onnx", *words, "--samples", "s.npz", "-o", "o.edl"])
    assert ended.value.code == 2
    assert "--weights int8" in capsys.readouterr().err
