"""What is run of a file that was admitted before: the very same bundle, or none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgedl.core.errors import BadBundle, EngineFailed, Untrusted
from edgedl.runtime.apart import tried_apart
from edgedl.runtime.artifact import find_artifact
from edgedl.runtime.sign.admit import VARIABLE
from edgedl.runtime.sign.private import keygen
from tests.runtime.shipped import payload, written


@pytest.fixture
def replaced(tmp_path: Path) -> tuple[Path, str]:
    """A bundle, and the identity of the one that lay there before it."""
    path = written(tmp_path / "net.edl", [payload()])
    before = find_artifact(path).identity
    assert before is not None
    other = written(tmp_path / "other.edl", [payload(), payload()])
    shutil.copy(other, path)
    return path, before


def test_a_bundle_that_was_replaced_is_not_taken_for_the_one_before(
    replaced: tuple[Path, str],
) -> None:
    path, before = replaced
    with pytest.raises(BadBundle, match="it was replaced since it was opened"):
        find_artifact(path, identity=before)
    with pytest.raises(EngineFailed, match="it was replaced while it was opened"):
        tried_apart(path, 0, 1, "none", before)


def test_what_was_admitted_is_opened_again_whatever_the_environment_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "net.edl", [payload()])
    identity = find_artifact(path).identity
    keygen(tmp_path / "alice")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "alice.pub"))
    with pytest.raises(Untrusted):
        find_artifact(path)
    assert find_artifact(path, identity=identity).identity == identity
