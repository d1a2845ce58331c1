"""Plans from what operators cost, on the engines of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedl.backends import backend
from edgedl.passes.calibrate import calibrate
from edgedl.passes.crossings import choices
from edgedl.runtime import installed_engines
from edgedl.search.candidates import tensors_to_watch
from edgedl.search.limits import relieve
from edgedl.search.placement import _table, place_by_cost
from edgedl.search.ways import gather
from tests.models import NETS, attention_net, conv_net, residual_net
from tests.search.small import bench, counted, full_plan, prepared, ways

INSTALLED = installed_engines()


@pytest.fixture(autouse=True)
def _empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "store"))


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("engine", INSTALLED)
def test_a_plan_within_the_full_one_and_the_table_behind_it(
    engine: str, net: str, tmp_path: Path
) -> None:
    clean = prepared(NETS[net](), tmp_path)
    histograms = counted(clean, engine)
    full = full_plan(clean, engine, histograms)
    found = place_by_cost(bench(clean, engine), full, 8)
    placed, costs = found.candidate, found.costs
    assert 0 <= found.float_share <= 1
    assert full.plan is not None
    assert placed.plan is not None
    assert set(placed.plan.int8) <= set(full.plan.int8)
    assert placed.plan.int8
    assert [cost.node for cost in costs] == list(full.plan.int8)
    for cost in costs:
        assert cost.float_us is not None
        assert cost.int8_us is not None
        assert cost.chosen == ("int8" if cost.node in placed.plan.int8 else "float")
    if placed is not full:
        assert placed.label.removesuffix(", other kernels") in (full.label, f"{full.label}, placed")
    if ", placed" in placed.label:
        why = {d.reason for d in placed.plan.decisions if d.precision == "float"}
        assert "costs less in float here, with the conversions around it" in why


@pytest.mark.parametrize("engine", INSTALLED)
def test_what_the_store_knows_is_not_profiled_again(engine: str, tmp_path: Path) -> None:
    clean = prepared(residual_net(), tmp_path)
    histograms = counted(clean, engine)
    full, at = full_plan(clean, engine, histograms), bench(clean, engine)
    operators = len(choices(clean, at.backend.scheme).operators)

    def profiles() -> int:
        rows = list(_table(at, full).ledger.rows())
        return sum(1 for row in rows if row.get("state")) // operators

    place_by_cost(at, full, 8)
    cold = profiles()
    assert cold >= 2
    costs = place_by_cost(at, full, 8).costs
    assert profiles() <= cold + 1
    assert all(cost.float_us is not None for cost in costs)


@pytest.mark.parametrize("engine", INSTALLED)
def test_costs_are_kept_by_all_that_decides_them(engine: str, tmp_path: Path) -> None:
    clean = prepared(residual_net(), tmp_path)
    full, at = full_plan(clean, engine), bench(clean, engine)
    (tmp_path / "larger").mkdir()
    larger = bench(prepared(conv_net(2), tmp_path / "larger"), engine)

    def path(bench_: object = at, candidate: object = full) -> Path:
        return _table(bench_, candidate).ledger.path  # type: ignore[arg-type]

    others = [
        path(type(at)(at.backend, at.feed, 2, at.progress)),
        path(larger),
        path(candidate=type(full)(**{**vars(full), "settings": {"precision": "bf16"}})),
        *(path(type(at)(backend(n), at.feed, 1, at.progress)) for n in INSTALLED
          if n != engine),
    ]  # fmt: skip
    assert path() not in others
    assert len(set(others)) == len(others)
    assert path() == path()


@pytest.mark.parametrize("engine", INSTALLED)
def test_the_instruction_set_is_part_of_the_key(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = prepared(conv_net(), tmp_path)
    full, at = full_plan(clean, engine), bench(clean, engine)
    found = [_table(at, full).ledger.path]
    for cap in ("AVX2", "AVX512_CORE_VNNI"):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", cap)
        found.append(_table(at, full).ledger.path)
    assert len(set(found)) == 3


@pytest.mark.parametrize("engine", INSTALLED)
def test_every_candidates_costs_tell_of_its_own_plan(engine: str, tmp_path: Path) -> None:
    made = gather([backend(engine)], ways(attention_net(), tmp_path, engine))
    with_costs = [one for one in made.candidates if one.costs]
    assert with_costs
    for one in with_costs:
        assert one.plan is not None
        assert {c.node for c in one.costs if c.chosen == "int8"} == set(one.plan.int8)


@pytest.mark.parametrize("engine", INSTALLED)
def test_costs_tell_of_operators_that_were_put_back_to_float(engine: str, tmp_path: Path) -> None:
    at = ways(residual_net(), tmp_path, engine)
    scheme = backend(engine).scheme
    histograms = calibrate(at.clean, tensors_to_watch(at.clean, [scheme]), at.calibration)
    full = full_plan(at.clean, engine, histograms)
    costs = place_by_cost(bench(at.clean, engine), full, 16).costs
    start = full.with_costs(costs)
    found = list(relieve(backend(engine), start, at.expected, lambda _: False, 1))
    assert len(found) >= 2
    for trial in found:
        plan = trial.candidate.plan
        assert plan is not None
        assert len(plan.int8) < len(full.plan.int8 if full.plan else ())
        chosen = {c.node for c in trial.candidate.costs if c.chosen == "int8"}
        assert chosen == set(plan.int8)


@pytest.mark.parametrize("engine", INSTALLED)
def test_sizes_that_only_calibration_saw_are_priced(engine: str, tmp_path: Path) -> None:
    """A dynamic model's conversions cost what they cost at the sizes of its samples."""
    clean = prepared(NETS["dynamic"](), tmp_path)
    histograms = counted(clean, engine, 8)
    full, at = full_plan(clean, engine, histograms), bench(clean, engine)
    assert {c.elements for c in choices(clean, at.backend.scheme).crossings} == {0}
    place_by_cost(at, full, 8)
    # The full plan converts the input, 3 x 8 x 8; `logits`, which nothing watches, has no size.
    assert _table(at, full).spread[0][:2] == (192, 0)
