"""Texts with a label: tables and folders, and tokenizers of the training texts alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import BadSamples
from edgedl.runtime.process.text import Text
from edgedl.train.data import Data, Vocabulary, load
from edgedl.train.data.dataset import Dataset
from edgedl.train.data.texts import trained

pytest.importorskip("tokenizers", reason="tokenizers is not installed")

WORDS = ["sun", "rain", "wind", "snow", "hail", "fog", "storm", "cloud", "heat", "frost"]


def lines(count: int = 30) -> str:
    rows = [
        f"{WORDS[i % 10]} {WORDS[i // 10]} day,{'warm' if i % 2 else 'cold'}" for i in range(count)
    ]
    return "\n".join(["text,label", *rows]) + "\n"


def opened(path: Path, **settings: Any) -> Dataset:
    return load(Data(text=str(path), **settings), seed=0, cache=path)


def test_a_table_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(lines())
    found = opened(path, length=6, vocabulary=Vocabulary(least=1))
    assert (found.inputs["input_ids"].shape, found.inputs["input_ids"].dtype) == ((6,), "int64")
    assert found.train.classes == ("cold", "warm")
    assert found.processing is not None
    before = found.processing.preprocess
    assert isinstance(before, Text)
    row = int(found.test.rows[0])
    text = lines().splitlines()[1 + row].split(",")[0]
    fed = found.test.feed(0)["input_ids"]
    assert np.array_equal(found.processing.before(text)["input_ids"], fed)
    assert fed[0, 3:].tolist() == [0, 0, 0]
    seen = {
        word for i in found.train.rows for word in lines().splitlines()[1 + i].split(",")[0].split()
    }
    assert before.vocabulary == 2 + len(seen)


def test_a_folder_of_texts(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{'ab'[i % 2]}").mkdir(exist_ok=True)
        (tmp_path / f"{'ab'[i % 2]}/{i}.txt").write_text(f"text {i} of {'ab'[i % 2]}")
    found = opened(tmp_path, length=8)
    assert found.train.classes == ("a", "b")
    assert len(found.train) == 14


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_tokenizers_are_the_same_for_the_same_texts(kind: Any) -> None:
    texts = [f"{a}{b} {b} {a}" for a in WORDS for b in WORDS]
    settings = Vocabulary(kind=kind, size=64)
    first, *others = (trained(list(texts), settings) for _ in range(5))
    assert others == [first] * 4
    text = Text(first, 12)
    assert text.vocabulary <= 64
    assert text.apply("SUN rain")[0, 0] > 1
    assert text.apply("")[0].tolist() == [0] * 12


def test_a_tokenizer_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(lines())
    content = trained(["fog"] * 3, Vocabulary())
    (tmp_path / "t.json").write_text(content)
    file = str(tmp_path / "t.json")
    found = opened(tmp_path / "a.csv", vocabulary=Vocabulary(file=file))
    assert found.processing is not None
    before = found.processing.preprocess
    assert isinstance(before, Text)
    assert before.tokenizer == content
    assert before.length == 128
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(BadSamples, match="the tokenizer cannot be read"):
        opened(tmp_path / "a.csv", vocabulary=Vocabulary(file=file))


def test_scores_to_regress(tmp_path: Path) -> None:
    rows = "\n".join(f"{WORDS[i % 10]} {i},{i / 4}" for i in range(30))
    (tmp_path / "a.csv").write_text(f"text,score\n{rows}\n")
    found = opened(tmp_path / "a.csv", label="score")
    assert (found.task, found.outputs) == ("regression", 1)


@pytest.mark.parametrize(
    ("text", "settings", "says"),
    [
        ("text,label\nsun,a\n,b\n", {}, "row 3 has no text in column `text`"),
        ("text,label\nsun,a\nrain,\n", {}, "has no `label`"),
        ("one,two,label\na,b,c\n", {}, "which column has the texts"),
        (lines(), {"columns": ("txt",)}, "no column `txt`"),
        (lines(), {"columns": ("text", "label")}, "2 columns of texts"),
        (lines(), {"label": "lable"}, "no column `lable`"),
        (lines(), {"task": "reconstruction"}, "not reconstructed"),
        (lines().replace("warm", "cold"), {}, "one class, `cold`"),
    ],
)
def test_bad_texts(text: str, settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(BadSamples, match=says) as caught:
        opened(tmp_path / "a.csv", **settings)
    assert caught.value.hint


def test_rows_without_text_may_be_dropped(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(lines() + ",cold\n")
    found = opened(tmp_path / "a.csv", missing="drop")
    assert "1 of 31 rows have no text and were dropped" in found.doubts
