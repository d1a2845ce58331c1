"""A candidate from its plan's file is the candidate that wrote it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from edgedl.backends import backend
from edgedl.passes.correct import channel_means
from edgedl.passes.plan_file import from_document, to_yaml
from edgedl.passes.ranges import usual_method
from edgedl.runtime import installed_engines
from edgedl.search.candidates import Candidate, int8_candidate
from edgedl.search.prepared import Prepared
from edgedl.search.ways import gather
from edgedl.yamls import read_yaml
from tests.models import residual_net
from tests.search.small import counted, prepared, ways


def written(candidate: Candidate, folder: Path) -> Path:
    assert candidate.plan is not None
    assert candidate.method is not None
    path = folder / "plan.yaml"
    path.write_text(
        to_yaml(
            candidate.plan,
            candidate.engine,
            candidate.settings,
            usual_method(candidate.method),
            corrected=candidate.means is not None,
            exact=candidate.exact,
        )
    )
    return path


def constants(candidate: Candidate) -> dict[str, bytes]:
    graph = onnx.load(candidate.model.path).graph
    return {t.name: numpy_helper.to_array(t).tobytes() for t in graph.initializer}


@pytest.mark.parametrize("engine", installed_engines())
@pytest.mark.parametrize("which", ["plain", "exact", "narrow and shifted", "corrected"])
def test_the_same_model_comes_out_of_the_file(which: str, engine: str, tmp_path: Path) -> None:
    at = ways(residual_net(), tmp_path, engine)
    clean = prepared(residual_net(), tmp_path)
    histograms, built = counted(clean, engine, 16), backend(engine)

    def candidate(**more: object) -> Candidate:
        return int8_candidate(built, Prepared(clean, histograms), "minmax", label="x", **more)  # type: ignore[arg-type]

    plain = candidate()
    assert plain.plan is not None
    first = next(iter(plain.plan.weights))
    made = {
        "plain": lambda: plain,
        "exact": lambda: candidate(keep_float={first: "harm"}, exact=(first,)),
        "narrow and shifted": lambda: candidate(narrow=(first,), shifted=(first,)),
        "corrected": lambda: candidate(means=channel_means(clean, plain.plan, at.calibration)),  # type: ignore[arg-type]
    }[which]()
    plan = read_yaml(written(made, tmp_path)).read(from_document)
    again = ways(residual_net(), tmp_path, engine, ask="plan", plan=plan)
    [found] = [c for c in gather([built], again).candidates if c.plan is not None]
    assert found.plan is not None
    assert made.plan is not None
    assert found.plan.weights == made.plan.weights
    assert (found.plan.narrow, found.plan.shifted) == (made.plan.narrow, made.plan.shifted)
    assert found.exact == made.exact
    assert constants(found) == constants(made)
