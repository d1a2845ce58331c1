"""What a recipe may say under `distil:`."""

from __future__ import annotations

from typing import Any

import pytest

from edgedl.core.errors import BadValue
from edgedl.core.fields import from_plain, to_plain
from edgedl.train.distil.settings import Distillation, Match, Relations


def test_it_is_read_and_written() -> None:
    document = {
        "teacher": "large.yaml",
        "temperature": 2,
        "features": [{"student": "1", "teacher": "layer3", "weight": 0.5}],
        "attention": {"student": "2"},
        "relations": {"angle": 0, "student": "5", "teacher": "8"},
    }
    found = from_plain(Distillation, document)
    assert found.features == (Match(student="1", teacher="layer3", weight=0.5),)
    assert found.attention[0].theirs == "2"
    assert found.relations == Relations(distance=25.0, angle=0.0, student="5", teacher="8")
    assert [(one.student, one.theirs) for one in found.layers] == [
        ("1", "layer3"), ("2", "2"), ("5", "8"),
    ]  # fmt: skip
    assert from_plain(Distillation, to_plain(found)) == found
    assert Distillation(teacher="itself").weight == 0.9


@pytest.mark.parametrize(
    ("teacher", "origin"),
    [("itself", "itself"), ("a/b.yaml", "recipe"), ("b.yml", "recipe"), ("m.onnx", "onnx"),
     ("own.py:teacher", "own"), ("package.module:teacher", "own")],
)  # fmt: skip
def test_where_the_teacher_comes_from(teacher: str, origin: str) -> None:
    assert Distillation(teacher=teacher).origin == origin


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"teacher": "resnet"}, "`resnet` names no teacher"),
        ({"teacher": "x:"}, "`x:` names no teacher"),
        ({"temperature": 0}, "`temperature` is 0"),
        ({"weight": 1.1}, "`weight` is 1.1"),
        ({"weight": 0}, "nothing is learned from the teacher"),
        ({"views": -1}, "`views` is -1"),
        ({"views": 2, "features": {"student": "1", "teacher": "far"}}, "layer `far` are not kept"),
        ({"attention": {"student": "1", "weight": 0}}, "`weight` is 0"),
        ({"features": {"student": "1", "axis": 0}}, "`axis` is 0"),
        ({"relations": {"distance": 0, "angle": 0}}, "nothing is compared"),
        ({"relations": {"teacher": "1"}}, "layer of the teacher alone"),
        ({"answers": "class"}, "`answers` is `class`"),
    ],
)
def test_what_cannot_be_is_told(given: dict[str, Any], says: str) -> None:
    with pytest.raises(BadValue, match=says):
        from_plain(Distillation, {"teacher": "itself", **given})
