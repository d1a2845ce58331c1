"""A sample's way from its file to its answer, stage by stage, as the cells of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgedl.report.reading import milliseconds, name, number

STAGES = {
    "decode": "decode",
    "preprocess": "pre-process",
    "run": "run",
    "postprocess": "post-process",
}
HEADING = "end to end"
NOTE = (
    "Medians of one call at a time, from files that the system has in its cache."
    " The run follows the decoding, with other data in the caches than where it is timed alone."
)


def staged(rows: Sequence[Any]) -> list[list[str]]:
    """A head and a line for each row whose samples were raw files, or whose answers were
    post-processed; empty where there is none."""
    lines = []
    for row in rows:
        figures = {stage: number(row, "stages_ms", stage) for stage in STAGES}
        if figures["preprocess"] is None and figures["postprocess"] is None:
            continue
        whole = number(row, "end_to_end_ms", "p50")
        cells = [_cell(figure) for figure in (*figures.values(), whole)]
        lines.append([name(row), *cells])
    return [[HEADING, *STAGES.values(), "whole"], *lines] if lines else []


def _cell(figure: float | None) -> str:
    return "-" if figure is None else milliseconds(figure)
