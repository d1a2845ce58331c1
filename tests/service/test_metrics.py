"""What Prometheus's own parser makes of the metrics."""

from __future__ import annotations

import pytest

from edgedl.service.metrics import Metrics

parser = pytest.importorskip("prometheus_client.parser", reason="prometheus_client reads them")


def values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_was_counted_is_read() -> None:
    metrics = Metrics()
    metrics.requests.add(("net", "200"), 3)
    metrics.requests.add(("net", "429"))
    for seconds in (0.0005, 0.001, 0.3, 99):
        metrics.request_seconds.see("net", seconds)
    found = values(metrics.text([("net", 7)], [("net", True)]))
    assert found["edgedl_requests_total", (("code", "200"), ("model", "net"))] == 3
    assert found["edgedl_requests_total", (("code", "429"), ("model", "net"))] == 1
    assert found["edgedl_queue_requests", (("model", "net"),)] == 7
    assert found["edgedl_model_ready", (("model", "net"),)] == 1
    assert found["edgedl_request_seconds_count", (("model", "net"),)] == 4
    assert found["edgedl_request_seconds_sum", (("model", "net"),)] == pytest.approx(99.3015)
    below = {
        dict(labels)["le"]: value
        for (name, labels), value in found.items()
        if name == "edgedl_request_seconds_bucket"
    }
    assert below["0.001"] == 2, "a bound counts what is equal to it"
    assert below["0.25"] == 2
    assert below["0.5"] == 3
    assert below["10"] == 3
    assert below["+Inf"] == 4


def test_odd_names_are_escaped() -> None:
    odd = 'a"b\\c\nd'
    metrics = Metrics()
    metrics.samples.add((odd,), 0.5)
    assert values(metrics.text([], []))["edgedl_samples_total", (("model", odd),)] == 0.5
