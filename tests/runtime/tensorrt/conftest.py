"""What tests of a session get: a GPU that nothing is left on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runtime.tensorrt.bench import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    found = Bench()
    yield found
    found.all_is_given_back()
