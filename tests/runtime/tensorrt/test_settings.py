"""What a builder is told: read from a bundle, and held against a network's inputs."""

from __future__ import annotations

import json

import pytest

from edgedl.core.errors import BadOption, BadValue
from edgedl.runtime.tensorrt.settings import (
    Bounds,
    Build,
    Profile,
    build_of,
    check_profiles,
)

SMALL = Profile((Bounds("x", (1, 3, 8), (2, 3, 16), (4, 3, 32)),))
LARGE = Profile((Bounds("x", (4, 3, 8), (8, 3, 16), (16, 3, 32)),))
BUCKETS = Build(profiles=(SMALL, LARGE), sparse=True, compute_capabilities=("SM86",))


def test_a_build_goes_through_json() -> None:
    assert build_of(json.loads(json.dumps(BUCKETS.to_json()))) == BUCKETS
    assert build_of(json.loads(json.dumps(Build().to_json()))) == Build()


def test_a_build_that_nothing_was_said_of_is_empty() -> None:
    assert Build().to_json() == {}
    assert Build(refit=True).to_json() == {"refit": True}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"sparce": True}, "unknown key `sparce`"),
        ({"workspace_bytes": 0}, "workspace_bytes is 0"),
        ({"optimization_level": 6}, "optimization_level is 6"),
        ({"hardware": "volta"}, "volta"),
        ({"profiles": [{"inputs": [{"input": "x", "least": [1], "usual": [1]}]}]}, "most"),
        (
            {"profiles": [{"inputs": [{"input": "x", "least": [4], "usual": [2], "most": [8]}]}]},
            "do not grow: 4, 2, 8",
        ),
        ([], "wants keys"),
    ],
)
def test_settings_that_say_nothing_sensible_are_refused(document: object, said: str) -> None:
    with pytest.raises(BadValue, match=said):
        build_of(document)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"y": (-1, 3, -1)}, "`x`, which is not an input"),
        ({"x": (-1, 3)}, "3 axes, the model 2"),
        ({"x": (-1, 4, -1)}, "axis 1 of `x` is 4 in the model, and 3 to 3"),
        ({"x": (-1, 3, -1), "y": (-1,)}, "input `y` has the shape ?, whose axes"),
    ],
)
def test_profiles_that_do_not_fit_the_model_are_told(
    shapes: dict[str, tuple[int, ...]], said: str
) -> None:
    with pytest.raises(BadOption, match=said.replace("?", r"\?")):
        check_profiles(BUCKETS, shapes)


def test_a_dynamic_axis_without_a_profile_is_told_with_the_options_that_bound_it() -> None:
    with pytest.raises(BadOption, match=r"\?x3x\?") as raised:
        check_profiles(Build(), {"x": (-1, 3, -1)})
    assert "--shape x=8x3x8" in (raised.value.hint or "")
    check_profiles(Build(), {"x": (1, 3, 8)})
    check_profiles(BUCKETS, {"x": (-1, 3, -1), "fixed": (2, 2)})


def test_one_input_has_one_bounds_a_profile() -> None:
    with pytest.raises(BadValue, match="two bounds"):
        Profile((SMALL.inputs[0], LARGE.inputs[0]))
