"""The tracked table of parses and builds says what NVIDIA's parser and builder say now.

Small networks are made, parsed and built again, for an old GPU and a usual one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

rtx = pytest.importorskip("tensorrt_rtx", reason="pip install 'edgedl[tensorrt-rtx]'")
BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
TABLE = BENCHMARKS / "results" / "tensorrt_builds.json"
AGAIN = ("conv", "attention", "if")
GPUS = ("SM75", "SM86")
Row = dict[str, Any]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), str(BENCHMARKS / "gpu"), *sys.path])


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TABLE.read_text())
    return found


def said(rows: list[Row]) -> dict[str, Row]:
    """By precision, what is refused and built, for the GPUs that are asked again."""
    found = {}
    for row in rows:
        built = [one for one in row.get("built", []) if one in GPUS]
        refused = {k: v for k, v in row.get("builder_refuses", {}).items() if k in GPUS}
        found[row["precision"]] = {
            **{key: row[key] for key in ("not_written", "parser_refuses") if key in row},
            "built": built,
            "builder_refuses": refused,
        }
    return found


@pytest.mark.parametrize("name", AGAIN)
def test_the_table_says_what_the_builder_says_now(name: str, document: dict[str, Any]) -> None:
    from tensorrt_builds import rows_of

    tracked = said([row for row in document["rows"] if row["name"] == name])
    assert tracked == said(rows_of(name, None, GPUS))
    assert tracked["float16"]["built"][-1] == "SM86"
    assert "SM75" in tracked["fp8, rest float16"]["builder_refuses"]


def test_the_page_is_made_of_the_document(document: dict[str, Any]) -> None:
    from tensorrt_builds_table import markdown_of

    assert markdown_of(document) == TABLE.with_suffix(".md").read_text()


def test_every_small_network_is_in_it_and_what_is_not_is_told(document: dict[str, Any]) -> None:
    from tensorrt_builds import all_names
    from tensorrt_subjects import subjects

    names = {row["name"] for row in document["rows"]}
    assert {name for name, one in subjects().items() if one.kind != "gpu"} <= names
    assert names | set(document["absent"]) == set(all_names())
    assert "lost" not in {row["kind"] for row in document["rows"]}
    assert {row["kind"] for row in document["rows"]} == set(document["built_for"])


def test_networks_of_recipes_are_those_that_recipes_train() -> None:
    """As many parameters as `edgedl make` counted: the table of inputs is that of the data."""
    from tensorrt_subjects import ROOT, recipe_network

    made = json.loads((BENCHMARKS / "results" / "recipes.json").read_text())
    compared = 0
    for row in made:
        about = next(one["about"] for one in row["stages"] if one["name"] == "train")
        network, _ = recipe_network(ROOT / "recipes" / f"{row['recipe']}.yaml")
        assert f" {sum(p.numel() for p in network.parameters()):,} parameters" in about
        compared += 1
    assert compared >= 9


REFUSING = {
    "library": "TensorRT-RTX 1",
    "asked": ["SM75", "SM90"],
    "known": ["SM75"],
    "built_for": {"family": ["SM75", "SM90"]},
    "versions": {"onnx": "1"},
    "absent": ["zoo d"],
    "rows": [
        {"name": "a", "kind": "family", "precision": "float32",
         "parser_refuses": [["Unique", "n1", "it has no layer"]]},
        {"name": "a", "kind": "family", "precision": "int8", "not_written": "no | operator"},
        {"name": "b", "kind": "family", "precision": "float32", "built": [],
         "builder_refuses": {"SM75": "X cannot build the model: no kernel for 'fc'"}},
        {"name": "c", "kind": "family", "precision": "float32", "built": [],
         "builder_refuses": {"SM75": "X cannot build the model: no kernel for 'head'"}},
    ],
}  # fmt: skip


def test_the_page_says_who_refuses_what() -> None:
    from tensorrt_builds_table import markdown_of

    page = markdown_of(REFUSING)
    assert "| float32 | 2 of 3 | 0 of 2 |" in page
    assert "| a | parser: Unique | - |" in page
    assert "| parser | float32 | all | Unique: it has no layer | a |" in page
    assert "| builder | float32 | SM75 | no kernel for '...' | b (`fc`), c (`head`) |" in page
    assert "| int8 | no / operator | a |" in page
    assert "for no SM90" in page
    assert "Not looked at yet: zoo d." in page
