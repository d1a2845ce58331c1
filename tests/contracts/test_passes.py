"""What every pass promises, tried on every pass of the table."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgedl.core.registry import resolve
from edgedl.core.stats import cosine
from edgedl.passes import PASSES
from tests.models import NETS, answers, feeds, samples, saved

EXACT = 1e-4


def made(name: str, model: Any) -> Any:
    """The pass of this name, given samples where it takes some."""
    kind = resolve(PASSES, name, kind="pass")
    wants_samples = any(field.name == "samples" for field in dataclasses.fields(kind))
    return kind(samples=samples(model.signature)) if wants_samples else kind()


@pytest.mark.parametrize("name", PASSES)
def test_is_a_frozen_dataclass_that_bears_its_name(name: str) -> None:
    kind = resolve(PASSES, name, kind="pass")
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert kind.name == name


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", PASSES)
def test_keeps_its_promises(
    name: str, net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(NETS[net](), tmp_path)
    before = model.path.read_bytes()
    one = made(name, model)
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "first"))
    result = one(model)
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "second"))
    again = one(model)

    assert model.path.read_bytes() == before
    assert result.path != again.path
    assert result.path.read_bytes() == again.path.read_bytes()
    assert result.signature.inputs == model.signature.inputs
    assert [t.name for t in result.signature.outputs] == [t.name for t in model.signature.outputs]
    assert len(result.history) == len(model.history) + 1
    onnx.checker.check_model(str(result.path))

    rows = feeds(model.signature, 4, seed=9)
    least = getattr(one, "tolerance", None)
    for wanted, given in zip(answers(model.path, rows), answers(result.path, rows), strict=True):
        for output, reference in wanted.items():
            if least is None:
                assert np.allclose(given[output], reference, atol=EXACT)
            else:
                assert cosine(reference, given[output]) >= least
