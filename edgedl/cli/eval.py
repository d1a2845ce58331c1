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
from edgedl.report.compressed import MOST_PARTS
from edgedl.report.table import table


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="A [B ...]")
@samples_option
@click.option(
    "--masks",
    metavar="FOLDER|RULE",
    help="Masks of the pictures that are the samples, of their names; or as `masks/{name}_m.png`.",
)
@preprocess_option
@target_option
@metric_option
@trust_option
@key_file_option
@json_option
def command(
    models: tuple[str, ...],
    samples: str | None,
    masks: str | None,
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
            hint="--samples S.npz with an array `labels`, a folder per class, or `--masks` beside a"
            " folder of pictures",
        )
    from edgedl import verbs

    with Bar() as bar:
        found = verbs.evaluate(
            models, samples, masks=masks, preprocess=preprocess, target=target, metric=metric,
            trust=trust, key=key, progress=bar,
        )  # fmt: skip
    rows = [["artifact", "engine", found["figure"] or "", "against the first"]]
    rows += [[row["artifact"], row["engine"], _figure(row), _alike(row)] for row in found["rows"]]
    rows += _parts(found["rows"])
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


def _parts(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The figure of each class, under a single model where there are few."""
    parts = rows[0]["parts"] if len(rows) == 1 else {}
    few = parts if len(parts) <= MOST_PARTS else {}
    return [[f"  {name}", "", "" if one is None else f"{one:.4f}", ""] for name, one in few.items()]


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
