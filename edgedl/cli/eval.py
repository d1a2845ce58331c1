"""`edgedl eval`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from edgedl.cli.options import (
    Bar,
    json_option,
    key_file_option,
    metric_option,
    preprocess_option,
    print_json,
    samples_option,
    target_option,
    trust_option,
)
from edgedl.core.errors import BadOption, MetricFailed
from edgedl.report.table import table


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="A [B ...]")
@samples_option
@preprocess_option
@target_option
@metric_option
@trust_option
@key_file_option
@json_option
def command(
    models: tuple[str, ...],
    samples: str | None,
    preprocess: str | None,
    target: str | None,
    metric: str | None,
    trust: list[str] | None,
    key: Callable[[str], bytes] | None,
    as_json: bool,
) -> None:
    """Accuracy of models on labelled samples, and their agreement with the first."""
    if samples is None:
        raise BadOption(
            "there is nothing to evaluate on",
            hint="--samples S.npz with an array `labels`, or a folder per class",
        )
    from edgedl import verbs

    with Bar() as bar:
        found = verbs.evaluate(
            models, samples, preprocess=preprocess, target=target, metric=metric, trust=trust,
            key=key, progress=bar,
        )  # fmt: skip
    rows = [["artifact", "engine", found["figure"] or "", "against the first"]]
    rows += [[row["artifact"], row["engine"], _figure(row), _alike(row)] for row in found["rows"]]
    click.echo("\n".join([table(rows, right=(2,)), *found["foretold"]]), err=as_json)
    if as_json:
        print_json(found)
    failed = next((row["failed"] for row in found["rows"] if row["failed"] is not None), None)
    if failed is not None:
        hint = "what could be computed stands above; mend the metric or the labels of that sample"
        raise MetricFailed(failed, hint=hint)


def _figure(row: dict[str, Any]) -> str:
    if row["figure"] is not None:
        return f"{row['figure']:.4f}{' (in part)' * (row['failed'] is not None)}"
    twin = row["against_first"]
    return "" if twin is None else f"{twin['figure']['value']:.4f}"


def _alike(row: dict[str, Any]) -> str:
    same, change = row["agreement"], row["difference"]
    parts = []
    if change is not None:
        p = "" if change["p"] is None else f", McNemar's p {change['p']:.2g}"
        parts.append(f"{'within' if change['within_chance'] else 'beyond'} chance{p}")
    if same is not None and same["top1"] is not None:
        parts.append(f"top-1 {same['top1']:.3f}")
    if same is not None:
        parts.append(f"cosine {same['cosine']:.4f}, {same['sqnr_db']:.1f} dB")
    if same is not None and same["equal"] is not None:
        parts.append(f"{same['equal']:.3f} of integers equal")
    return ", ".join(parts)
