"""`edgedl eval`."""

from __future__ import annotations

import click

from edgedl.cli.options import (
    Bar,
    json_option,
    preprocess_option,
    print_json,
    samples_option,
    target_option,
)
from edgedl.core.errors import BadOption
from edgedl.report.table import table


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="A [B ...]")
@samples_option
@preprocess_option
@target_option
@click.option("--metric", metavar="NAME", help="top1, top5 or mse; the labels suggest one.")
@json_option
def command(
    models: tuple[str, ...],
    samples: str | None,
    preprocess: str | None,
    target: str | None,
    metric: str | None,
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
            models, samples, preprocess=preprocess, target=target, metric=metric, progress=bar
        )
    rows = [["artifact", "engine", found["metric"] or "", "against the first"]]
    for row in found["rows"]:
        value = "" if row["value"] is None else f"{row['value']:.4f}"
        same = row["agreement"]
        alike = "" if same is None else f"cosine {same['cosine']:.4f}, {same['sqnr_db']:.1f} dB"
        if same is not None and same["top1"] is not None:
            alike = f"top-1 {same['top1']:.3f}, {alike}"
        rows.append([row["artifact"], row["engine"], value, alike])
    click.echo(table(rows, right=(2,)), err=as_json)
    if as_json:
        print_json(found)
