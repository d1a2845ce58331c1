"""What every test gets: a store of its own, and properties tried the same way each time."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "edgedl", deadline=None, derandomize=True, database=None, max_examples=60
)
hypothesis.settings.load_profile("edgedl")


@pytest.fixture(scope="session", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The folder that results of this test run go to."""
    folder = str(tmp_path_factory.mktemp("store"))
    before = os.environ.get("EDGEDL_STORE")
    os.environ["EDGEDL_STORE"] = folder
    yield folder
    if before is None:
        del os.environ["EDGEDL_STORE"]
    else:
        os.environ["EDGEDL_STORE"] = before
