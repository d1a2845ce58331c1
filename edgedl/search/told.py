"""What a chosen candidate's plan says of itself, for the report."""

from __future__ import annotations

from collections import Counter

from edgedl.core.model import Model
from edgedl.core.program import TUNED
from edgedl.passes.plan_file import to_yaml
from edgedl.passes.program import digest_of_weights
from edgedl.passes.ranges import usual_method
from edgedl.search.candidates import Candidate, Trial


def float_reasons(winner: Trial) -> dict[tuple[str, str], int]:
    """How many operators its plan left float, by operator and reason."""
    plan = winner.candidate.plan
    if plan is None:
        return {}
    return dict(Counter((d.operator, d.reason) for d in plan.decisions if d.precision == "float"))


def plan_text(candidate: Candidate, clean: Model) -> str | None:
    """Its plan as a file's text; None where it has none."""
    plan, ranges, prepared = candidate.plan, candidate.method, candidate.prepared
    if plan is None or ranges is None:
        return None
    return to_yaml(
        plan,
        candidate.engine,
        candidate.settings,
        usual_method(ranges),
        corrected=candidate.means is not None,
        exact=candidate.exact,
        costs=candidate.costs,
        repairs=prepared.repairs if prepared is not None else (),
        repaired_with=prepared.samples if prepared is not None else "",
        tuned=TUNED if candidate.is_trained else "",
        tuned_from=digest_of_weights(clean) if candidate.is_trained else "",
    )
