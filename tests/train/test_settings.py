"""The recipe's `train:` as people write it, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from edgedl.core.errors import BadValue
from edgedl.core.fields import from_plain, to_plain
from edgedl.train.augmentations import Crop, Flip
from edgedl.train.settings import AdamW, Cosine, CrossEntropy, Ctc, Fit, OwnLoss, Sgd, Step


def test_the_recipe_of_the_readme() -> None:
    found = from_plain(
        Fit,
        {
            "epochs": 30,
            "batch": 128,
            "loss": {"name": "cross_entropy", "label_smoothing": 0.1},
            "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 5e-4, "nesterov": True},
            "schedule": {"name": "cosine", "warmup_epochs": 1},
            "augment": [{"name": "crop", "padding": 4}, "flip"],
            "precision": "float32",
            "ema": 0.999,
            "clip": 1.0,
            "patience": 10,
            "metric": "top1",
        },
    )
    assert found.loss == CrossEntropy(label_smoothing=0.1)
    assert found.optimizer == Sgd(lr=0.1, weight_decay=5e-4, nesterov=True)
    assert found.schedule == Cosine(warmup_epochs=1)
    assert found.augment == (Crop(padding=4), Flip())
    assert from_plain(Fit, json.loads(json.dumps(to_plain(found)))) == found


def test_words_alone_and_nothing_at_all() -> None:
    found = from_plain(Fit, {"loss": "ctc", "optimizer": "adamw", "augment": "flip"})
    assert (found.loss, found.optimizer, found.augment) == (Ctc(), AdamW(), (Flip(),))
    assert from_plain(Fit, {"loss": "mine:loss"}).loss == OwnLoss(name="mine:loss")
    assert from_plain(Fit, {"schedule": {"name": "step", "at": 3}}).schedule == Step(at=(3,))
    assert from_plain(Fit, {}) == Fit()


@pytest.mark.parametrize(
    ("given", "keys", "says"),
    [
        ({"loss": "crossentropy"}, ("loss",), "`loss` is `crossentropy`"),
        ({"loss": {"name": "ctc", "blnk": 1}}, ("loss", "blnk"), "unknown key `blnk`"),
        ({"optimizer": {"name": "sgd", "lr": -1}}, ("optimizer", "lr"), "`lr` is -1"),
        ({"schedule": "step"}, ("schedule",), "`schedule` lacks `at`"),
        ({"augment": ["flip", "crp"]}, ("augment", 1), "value 2 of `augment` is `crp`"),
        ({"augment": {"name": "gain", "low": 2}}, ("augment", 0, "high"), "below `low`"),
        ({"ema": 2}, ("ema",), "`ema` is 2"),
        ({"clip": 0}, ("clip",), "`clip` is 0"),
        ({"epochs": -1}, ("epochs",), "`epochs` is -1"),
        ({"precision": "fp16"}, ("precision",), "`precision` is `fp16`"),
        ({"track": ["wandb"]}, ("track", 0), "is `wandb`"),
    ],
)
def test_what_is_refused_and_where(given: dict[str, Any], keys: tuple[Any, ...], says: str) -> None:
    with pytest.raises(BadValue) as caught:
        from_plain(Fit, given)
    assert caught.value.keys == keys
    assert says in caught.value.message
    assert caught.value.hint


def test_settings_are_read_without_torch() -> None:
    code = "import sys, edgedl.train.settings; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
