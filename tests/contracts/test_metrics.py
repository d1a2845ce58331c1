"""What every metric promises, tried on every metric of the table."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import edgedl
from edgedl.benchmark.metrics import METRICS, metric_of
from edgedl.core.errors import BadOption

README = Path(edgedl.__file__).parents[1] / "README.md"
# Of metrics that cannot be without settings.
EXAMPLES = {"detection": "detection:format=final"}


@pytest.mark.parametrize("name", METRICS)
def test_is_a_mean_or_a_figure_of_the_whole_and_says_against_what(name: str) -> None:
    spec = EXAMPLES.get(name, name)
    metric = metric_of(spec)
    assert metric.name == spec
    assert metric.figure
    assert (metric.each is None) != (metric.whole is None), "a metric has `each` or `whole`"
    twin = metric.without_labels
    assert twin is not None, "`against`, of metrics/metric.py, lets float stand in for labels"
    assert (twin.each is None) != (twin.whole is None)
    assert inspect.getdoc(METRICS[name]), f"{METRICS[name].__name__} does not say what it tells"


@pytest.mark.parametrize("name", METRICS)
def test_has_typed_settings_with_defaults_and_refuses_those_that_it_does_not_know(
    name: str,
) -> None:
    for one in inspect.signature(METRICS[name]).parameters.values():
        assert one.default is not one.empty, f"`{one.name}` has no default"
        assert one.annotation is not one.empty, f"`{one.name}` has no type, and is not checked"
    with pytest.raises(BadOption, match="nothing_like_it") as caught:
        metric_of(f"{name}:nothing_like_it=1")
    assert caught.value.hint


def test_the_readme_has_a_line_for_each() -> None:
    [table] = re.findall(r"\| metric \| what it says .*?\n\n", README.read_text("utf-8"), re.S)
    told = set(re.findall(r"`([\w@]+)`", " ".join(re.findall(r"^\| (.*?) \|", table, re.M))))
    assert not set(METRICS) - told, (
        f"README.md, What counts as accuracy: no line for {', '.join(set(METRICS) - told)}"
    )
