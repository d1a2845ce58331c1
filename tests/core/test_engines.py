"""What an engine's line decides: whether it is here, how to get it, and where it may run."""

from __future__ import annotations

import pytest

from edgedl.core.engines import LISTED, NVIDIA, ON_GPU, Listed, install_of, package_of
from edgedl.core.target import PLANNED_ENGINES, TARGETS
from edgedl.runtime import ENGINES, how_to_get, installed_engines

MADE_UP = "made_up_of_test"


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    line = Listed(runtime="tests:ENGINE", backend="tests:BACKEND", about="tests", **request.param)
    monkeypatch.setitem(LISTED, MADE_UP, line)  # type: ignore[arg-type]
    monkeypatch.setitem(ENGINES, MADE_UP, line.runtime)
    return MADE_UP


@pytest.mark.parametrize("listed", [{"package": "numpy"}], indirect=True)
def test_an_engine_of_a_package_called_otherwise_is_here(listed: str) -> None:
    assert package_of(listed) == "numpy"
    assert listed in installed_engines()
    assert how_to_get(listed) == "pip install 'numpy'"


@pytest.mark.parametrize("listed", [{}, {"package": "absent_of_test"}], indirect=True)
def test_an_engine_whose_package_is_absent_is_not(listed: str) -> None:
    assert listed not in installed_engines()
    assert package_of(listed) in install_of(listed)


@pytest.mark.parametrize("listed", [{"install": "ask the vendor"}], indirect=True)
def test_what_no_package_brings_is_said_in_words(listed: str) -> None:
    assert install_of(listed) == "ask the vendor"


def test_a_package_with_an_extra_is_got_by_that() -> None:
    assert install_of("tensorrt_rtx") == "pip install 'edgedl[tensorrt-rtx]'"
    assert install_of("openvino") == "pip install 'edgedl[openvino]'"
    assert install_of("of_somebody_else") == "pip install 'edgedl[of_somebody_else]'"


def test_targets_and_plans_follow_from_the_lines() -> None:
    assert set(LISTED) <= set(TARGETS)
    assert {name for name in LISTED if TARGETS[name].needs == NVIDIA} == ON_GPU
    assert set(PLANNED_ENGINES) == {"onnxruntime", "openvino", "tensorrt"}
