"""What a builder is told: read from a bundle, and held against a network's inputs."""

from __future__ import annotations

import json

import pytest

from edgedl.core.errors import BadOption, BadValue, WrongInput
from edgedl.runtime.tensorrt.settings import (
    Bounds,
    Build,
    Profile,
    build_of,
    check_profiles,
    profile_of_text,
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


def test_shapes_go_to_the_first_profile_that_holds_them() -> None:
    assert BUCKETS.profile_of({"x": (1, 3, 8)}) == 0
    assert BUCKETS.profile_of({"x": (4, 3, 8)}) == 0
    assert BUCKETS.profile_of({"x": (5, 3, 8)}) == 1
    assert Build().profile_of({"x": (5, 3, 8)}) == 0


@pytest.mark.parametrize("shape", [(17, 3, 8), (1, 3, 33), (1, 3, 7), (1, 3), (1, 2, 8)])
def test_a_shape_outside_every_profile_is_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(WrongInput, match="other shapes") as raised:
        BUCKETS.profile_of({"x": shape})
    assert "x=1x3x8 to 4x3x32; x=4x3x8 to 16x3x32" in (raised.value.hint or "")


def test_profiles_are_written_as_shapes_are() -> None:
    assert profile_of_text("x=1x3x8:2x3x16:4x3x32") == SMALL.inputs[0]
    assert profile_of_text("a=b=1x8") == Bounds("a=b", (1, 8), (1, 8), (1, 8))


@pytest.mark.parametrize("text", ["x", "=1x2", "x=1x2:1x2", "x=1xtwo", "x=2:1:4", "x=1x2:1:2"])
def test_what_is_no_profile_is_told(text: str) -> None:
    with pytest.raises(BadOption):
        profile_of_text(text)


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
