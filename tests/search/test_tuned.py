"""A plan's weights and scales trained, kept, and carried by the plan's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedl.backends import backend
from edgedl.core import registry
from edgedl.core.errors import Missing, Unsupported
from edgedl.core.progress import silent
from edgedl.passes.correct import channel_means
from edgedl.runtime import installed_engines
from edgedl.search.candidates import Candidate
from edgedl.search.effort import EFFORTS
from edgedl.search.memory import judge
from edgedl.search.tuned import coding_of, tuned
from edgedl.search.ways import Ways
from tests.models import concat_net, depthwise_net, if_net, residual_net
from tests.search.small import full_plan, ways

ENGINES = installed_engines()
NORMAL = EFFORTS["normal"]


def trained(start: Candidate, made: Ways) -> Candidate:
    return tuned(backend(start.engine), start, made.calibration, made.expected, NORMAL, silent)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_operators_answer_more_like_float(tmp_path: Path, engine: str) -> None:
    made = ways(depthwise_net(), tmp_path, engine)
    start = full_plan(made.clean, engine)
    found = trained(start, made)
    assert start.plan is not None
    assert found.plan is not None
    assert found.plan.int8 == start.plan.int8
    assert found.plan.readers == start.plan.readers
    assert found.label == f"{start.label}, tuned"
    before, after = (judge(one, made.expected, 1).agreement.sqnr_db for one in (start, found))
    assert after > before + 0.3


@pytest.mark.parametrize("engine", ENGINES)
def test_what_was_found_is_not_looked_for_again(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ways(residual_net(), tmp_path, engine)
    start = full_plan(made.clean, engine)
    first = trained(start, made)

    def refuse(*_: object) -> None:
        raise AssertionError

    import edgedl.train.tune

    monkeypatch.setattr(edgedl.train.tune, "tune", refuse)
    assert trained(start, made).model.digest == first.model.digest


def test_tensors_that_share_a_scale_share_it_afterwards(tmp_path: Path) -> None:
    made = ways(concat_net(), tmp_path, ENGINES[0])
    start = full_plan(made.clean, ENGINES[0])
    found = trained(start, made)
    assert start.plan is not None
    assert found.plan is not None
    groups = {n: one.group for n, one in coding_of(start.plan, made.clean).tensors.items()}
    for name, one in found.plan.activations.items():
        for other, another in found.plan.activations.items():
            if groups[name] == groups[other]:
                assert one == another
    moved = [n for n, one in found.plan.activations.items() if one != start.plan.activations[n]]
    assert moved


def test_corrected_biases_are_where_it_begins(tmp_path: Path) -> None:
    made = ways(residual_net(), tmp_path, ENGINES[0])
    plain = full_plan(made.clean, ENGINES[0])
    assert plain.plan is not None
    means = channel_means(made.clean, plain.plan, made.calibration)
    found = trained(full_plan(made.clean, ENGINES[0], means=means), made)
    assert found.means is None
    assert found.model.digest != trained(plain, made).model.digest


def test_a_model_that_torch_cannot_compute_is_refused_by_name(tmp_path: Path) -> None:
    made = ways(if_net(), tmp_path, ENGINES[0])
    with pytest.raises(Unsupported, match="`If`"):
        trained(full_plan(made.clean, ENGINES[0]), made)


def test_without_torch_the_way_to_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ways(residual_net(), tmp_path, ENGINES[0])

    def absent(name: str) -> None:
        raise ModuleNotFoundError(name="torch")

    monkeypatch.setattr(registry.importlib, "import_module", absent)
    with pytest.raises(Missing) as error:
        trained(full_plan(made.clean, ENGINES[0]), made)
    assert "edgedl[train]" in str(error.value.hint)
