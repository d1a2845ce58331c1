"""Rewriting: one file per model and settings, its history inside, wherever it is made."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir
import pytest

from edgedl.core.errors import BadModel, BadOption
from edgedl.core.model import Model
from edgedl.core.store import Store
from edgedl.passes import graph
from edgedl.passes.clean import Clean
from edgedl.passes.fold import Fold
from edgedl.passes.graph import open_model, rewrite, settings_of
from edgedl.passes.shapes import Shapes
from tests import models

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return models.saved(models.conv_net(), tmp_path)


@dataclass(frozen=True)
class Stumble:
    """A pass that fails."""

    name: ClassVar[str] = "stumble"
    over: str
    told: bool = False

    def edit(self, graph: ir.Model) -> None:
        raise BadOption(self.over) if self.told else RuntimeError(self.over)


def test_history_names_each_step_and_its_source(model: Model) -> None:
    made = rewrite(model, Clean(), Shapes({"x": (1, 3, 8, 8)}))
    assert [step.name for step in made.history] == ["clean", "shapes"]
    assert made.history[0].source == model.digest
    assert made.history[1].source != model.digest
    assert made.history[0].settings == {"min_opset": 13}
    assert made.history[1].settings == {"fixed": {"x": [1, 3, 8, 8]}}
    assert {"edgedl", "onnx", "onnx_ir"} <= set(made.history[0].versions)
    again = Fold()(made)
    assert again.history[:2] == made.history
    assert again.history[2].source == made.digest


def test_two_stores_hold_the_same_bytes(model: Model, tmp_path: Path) -> None:
    edits = Clean(), Fold(), Shapes()
    made = [rewrite(model, *edits, store=Store(tmp_path / name)) for name in ("one", "two")]
    assert made[0].path != made[1].path
    assert made[0].path.read_bytes() == made[1].path.read_bytes()


def test_a_copy_elsewhere_makes_the_same(model: Model, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere.onnx"
    copy.write_bytes(model.path.read_bytes())
    assert Clean()(open_model(copy)).path == Clean()(model).path


def test_other_settings_make_another(model: Model) -> None:
    assert Clean()(model).path != Clean(min_opset=18)(model).path


PROGRAM = """
import sys
from pathlib import Path
from edgedl.core.model import sha256
from edgedl.passes.graph import open_model
from edgedl.passes.clean import Clean
from edgedl.passes.fold import Fold
from edgedl.passes.quantize import Quantize
from tests import models
model = Fold()(Clean()(open_model(sys.argv[1])))
given = models.samples(model.signature)
made = [Quantize(given, scheme=s)(model) for s in ("onnxruntime", "openvino")]
print(model.digest, *(m.digest for m in made))
"""


def test_another_process_with_other_hashes_makes_the_same(tmp_path: Path) -> None:
    path = models.saved(models.residual_net(), tmp_path).path
    told = set()
    for seed in ("1", "2"):
        environment = os.environ | {
            "PYTHONHASHSEED": seed, "EDGEDL_STORE": str(tmp_path / seed), "PYTHONPATH": str(ROOT)
        }  # fmt: skip
        told.add(
            subprocess.run(
                [sys.executable, "-c", PROGRAM, str(path)],
                env=environment, check=True, capture_output=True, text=True, cwd=tmp_path,
            ).stdout
        )  # fmt: skip
    assert len(told) == 1


def test_a_failing_pass_says_which(model: Model) -> None:
    with pytest.raises(
        BadModel, match=r"pass `stumble` failed on this graph \(over a stone\)"
    ) as caught:
        rewrite(model, Stumble("over a stone"))
    assert caught.value.where == str(model.path)


def test_an_error_for_the_user_goes_through(model: Model) -> None:
    with pytest.raises(BadOption, match="no such road"):
        rewrite(model, Stumble("no such road", told=True))


@dataclass(frozen=True)
class Everything:
    """Settings of every type."""

    words: frozenset[str] = frozenset({"b", "a"})
    table: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"x": (1, 2)})
    nothing: None = None
    share: float = 0.5


def test_settings_are_plain_and_ordered() -> None:
    assert settings_of(Everything()) == {"words": ["a", "b"], "table": {"x": [1, 2]}, "share": 0.5}


def test_large_weights_lie_beside_the_graph(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "EXTERNAL_BYTES", 100)
    made = rewrite(model, Clean(), store=Store(tmp_path / "store"))
    assert [path.name for path in made.files] == ["model.onnx", "model.onnx.data"]
    again = rewrite(made, Fold(), store=Store(tmp_path / "store"))
    assert len(again.files) == 2
    feeds = models.feeds(model.signature)
    for mine, theirs in zip(
        models.answers(again.path, feeds), models.answers(model.path, feeds), strict=True
    ):
        assert mine["logits"] == pytest.approx(theirs["logits"], abs=1e-5)
