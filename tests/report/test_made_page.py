"""The page of a recipe: curves of training, stages, doubts."""

from __future__ import annotations

import re
from typing import Any

from edgedl.report.made import Made, Stage
from edgedl.report.made_page import figures, page


def epochs(count: int) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"epoch": i + 1, "loss": 2.0 / (i + 1), "validation_loss": 2.5 / (i + 1),
         "top1": 1 - 0.5 / (i + 1), "rate": 0.1, "samples_per_second": 9.0, "seconds": 1.0}
        for i in range(count)
    )  # fmt: skip


def made(count: int, doubt: str = "4 < 5 samples are copies") -> Made:
    stages = (Stage("train", "mlp, <2> parameters", 1.5, False), Stage("export", "x", 0.0, True))
    return Made(
        "blobs", "blobs.yaml", "blobs.edl", "w.safetensors", epochs(count), stages, (), None, None,
        (doubt,),
    )  # fmt: skip


def test_losses_and_the_metric_are_drawn_over_epochs() -> None:
    losses, metric = figures(epochs(4))
    assert (losses.heading, metric.heading) == ("Loss", "top1")
    # Two lines of four marks, drawn for a desk and for a phone.
    assert losses.drawing.count("<circle") == 2 * 2 * 4
    assert metric.drawing.count("<circle") == 2 * 4
    assert "epoch 4, validation: 0.625" in losses.drawing
    assert figures(epochs(1)) == []
    assert figures([]) == []


def test_what_was_not_finite_leaves_a_gap() -> None:
    rows = [dict(row) for row in epochs(3)]
    rows[1]["loss"] = None
    losses, _ = figures(rows)
    assert losses.drawing.count("<circle") == 2 * (2 + 3)


def test_the_page_escapes_what_it_is_told_and_asks_nobody() -> None:
    text = page(made(3))
    assert "mlp, &lt;2&gt; parameters" in text
    assert "4 &lt; 5 samples are copies" in text
    assert "<td>kept</td>" in text
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert "Loss" not in page(made(0))
