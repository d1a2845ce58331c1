"""The recipe's key `data`, as YAML gives it, and what it is refused for."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from edgedl.core.errors import BadValue
from edgedl.core.fields import from_plain, to_plain
from edgedl.runtime.process.features import Features
from edgedl.train.data import SETS, Data, Vocabulary


def test_settings_as_a_recipe_gives_them() -> None:
    found = from_plain(Data, {
        "folder": "sounds", "validation": "1/8", "classes": ["no", "yes"],
        "features": {"rate": 16000, "of": "mfcc", "length": 16000},
        "vocabulary": {"kind": "bpe"},
    })  # fmt: skip
    assert found.validation == 0.125
    assert found.classes == ("no", "yes")
    assert found.features == Features(16_000, 16_000, of="mfcc")
    assert found.vocabulary == Vocabulary(kind="bpe")
    assert from_plain(Data, to_plain(found)) == found


def test_a_set_may_lie_in_a_folder() -> None:
    assert Data(set="mnist", folder="here").folder == "here"


@pytest.mark.parametrize(
    ("settings", "keys", "says"),
    [
        ({}, (), "nothing says where"),
        ({"table": "a", "arrays": "b"}, ("arrays",), "`table` and `arrays` says where"),
        ({"set": "a", "table": "b"}, ("table",), "says where"),
        ({"table": "a", "validation": 0.0}, ("validation",), "`validation` is 0"),
        ({"table": "a", "holdout": 1.0}, ("holdout",), "`holdout` is 1"),
        ({"table": "a", "holdout": 0.9, "validation": 0.1}, ("validation",), "leave nothing"),
        ({"table": "a", "limit": 0}, ("limit",), "`limit` is 0"),
        ({"table": "a", "horizon": -1}, ("horizon",), "`horizon` is -1"),
        ({"folder": "a", "image": {}, "sound": {"rate": 8000}}, ("sound",), "`image` and `sound`"),
        ({"table": "a", "classes": ["x", "x"]}, ("classes",), "one name"),
        ({"table": "a", "normal": "x"}, ("normal",), "goes with `task: reconstruction`"),
        ({"set": "har", "group": "person"}, ("group",), "is what `har` says itself"),
        ({"table": "a", "missing": "fill"}, ("missing",), "`missing` is `fill`"),
        ({"table": "a", "labels": "x"}, ("labels",), "unknown key `labels`"),
        ({"arrays": "a", "masks": "b"}, ("masks",), "`masks` does not go with `arrays`"),
        ({"folder": "a", "task": "segmentation"}, ("task",), "needs masks"),
        ({"table": "a", "task": "segmentation"}, ("task",), "needs masks"),
        ({"folder": "a", "masks": "b", "task": "detection"}, ("task",), "`task: detection`"),
        ({"folder": "a", "masks": "b", "task": "regression"}, ("task",), "does not go with"),
        ({"folder": "a", "masks": "b", "test": "c"}, ("test",), "goes with `test` and `masks`"),
        ({"folder": "a", "test_masks": "c"}, ("test_masks",), "goes with `test` and `masks`"),
        ({"folder": "a", "ignore": 3}, ("ignore",), "`ignore` is of masks"),
        ({"folder": "a", "masks": "b", "ignore": 256}, ("ignore",), "`ignore` is 256"),
        ({"folder": "a", "masks": "b", "sound": {"rate": 8000}}, ("sound",), "has no masks"),
        ({"folder": "a", "masks": "b", "group": "("}, ("group",), "no regular expression"),
        ({"text": "a", "vocabulary": {"size": 1}}, ("vocabulary", "size"), "`size` is 1"),
        ({"folder": "a", "features": {"rate": 1}}, ("features", "rate"), "`rate` is 1"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], keys: tuple[str, ...], says: str) -> None:
    with pytest.raises(BadValue, match=says) as caught:
        from_plain(Data, settings)
    assert caught.value.keys == keys
    assert caught.value.hint


def test_data_is_read_without_torch() -> None:
    modules = [path.partition(":")[0] for path in SETS.values()]
    modules += [f"edgedl.train.data.{n}" for n in ("folder", "table", "arrays", "texts", "series")]
    code = (
        f"import sys\n{''.join(f'import {name}{chr(10)}' for name in modules)}print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "numpy" in loaded
    assert not loaded & {"torch", "onnx", "PIL", "tokenizers", "pyarrow", "yaml"}
