"""Texts to token ids: by hand, by the library, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import BadSamples, BadValue
from edgedl.runtime.process import Processing
from edgedl.runtime.process.text import Text

WORDS = {"[PAD]": 0, "[UNK]": 1, "the": 2, "cat": 3, "sat": 4}
TOKENIZER = json.dumps({
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
    "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None, "decoder": None,
    "model": {"type": "WordLevel", "vocab": WORDS, "unk_token": "[UNK]"},
})  # fmt: skip


def test_ids_by_hand() -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    text = Text(TOKENIZER, 5)
    assert text.apply("The cat SAT.").tolist() == [[2, 3, 4, 1, 0]]
    assert text.apply("the the the the the cat").tolist() == [[2] * 5]
    assert text.apply("").tolist() == [[0] * 5]
    assert text.apply("cat").dtype == np.int64
    assert text.vocabulary == 5
    small = Text(TOKENIZER, 2, padding=7, layout="t", dtype="int32")
    assert small.apply("cat").tolist() == [3, 7]
    assert small.apply("cat").dtype == np.int32
    assert small.shape == (2,)


def test_the_tokenizers_own_padding_is_not_obeyed() -> None:
    library = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    own = library.Tokenizer.from_str(TOKENIZER)
    own.enable_padding(length=9, pad_id=2)
    own.enable_truncation(1)
    assert Text(own.to_str(), 3).apply("cat sat").tolist() == [[3, 4, 0]]


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat é", encoding="utf-8-sig")
    assert Text(TOKENIZER, 4).decode(tmp_path / "a.txt") == "the cat é"
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(BadSamples, match="no UTF-8 at byte 3"):
        Text(TOKENIZER, 4).decode(tmp_path / "b.txt")
    with pytest.raises(BadSamples, match="no such file"):
        Text(TOKENIZER, 4).decode(tmp_path / "c.txt")


@pytest.mark.parametrize("raw", [b"bytes", None, "half \ud800"])
def test_what_is_no_text(raw: Any) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    with pytest.raises(BadSamples):
        Text(TOKENIZER, 4).apply(raw)


def test_a_tokenizer_that_the_library_refuses() -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    with pytest.raises(BadSamples, match="the tokenizer cannot be used") as caught:
        Text('{"model": {"type": "Strange"}}', 4).apply("a")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"tokenizer": TOKENIZER, "length": 0}, "length"),
        ({"tokenizer": TOKENIZER, "length": 1, "padding": -1}, "padding"),
        ({"tokenizer": "{", "length": 1}, "tokenizer"),
        ({"tokenizer": "[]", "length": 1}, "tokenizer"),
        ({"tokenizer": "[" * 100_000, "length": 1}, "tokenizer"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(BadValue) as caught:
        Text(**settings)
    assert caught.value.keys == (key,)
    assert caught.value.hint


def test_a_bundle_is_read_without_the_library_and_asks_for_it_when_it_is_used() -> None:
    document = json.dumps(Processing(Text(TOKENIZER, 4, input="x")).to_json())
    code = (
        "import sys, json\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'tokenizers':\n"
        "            raise ModuleNotFoundError('refused', name=name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from edgedl.runtime.process import Processing\n"
        "from edgedl.core.errors import Missing\n"
        "found = Processing.from_json(json.loads(sys.argv[1]))\n"
        "try:\n    found.before('a')\n"
        "except Missing as error:\n    print(found.preprocess.length, error.hint)\n"
    )
    words = [sys.executable, "-c", code, document]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "4 pip install 'edgedl[text]'"


def test_a_path_is_a_file_and_a_str_is_the_text(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    (tmp_path / "a.txt").write_text("the cat")
    processing = Processing(Text(TOKENIZER, 3, input="x"))
    assert processing.before(tmp_path / "a.txt")["x"].tolist() == [[2, 3, 0]]
    assert processing.before("sat")["x"].tolist() == [[4, 0, 0]]
