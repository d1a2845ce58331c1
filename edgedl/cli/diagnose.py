"""`edgedl diagnose`."""

from __future__ import annotations

from collections.abc import Callable

import click

from edgedl.cli.options import (
    Bar,
    isa_option,
    json_option,
    key_file_option,
    metric_option,
    preprocess_option,
    print_json,
    samples_option,
    target_option,
    trust_option,
)
from edgedl.core.errors import BadOption


@click.command()
@click.argument("model")
@click.argument("compressed")
@samples_option
@preprocess_option
@target_option
@isa_option
@metric_option
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 600),
    default=12.0,
    show_default=True,
    help="Budget for measuring operators one by one.",
)
@click.option("--report", metavar="DIR", help="Write the report there.")
@trust_option
@key_file_option
@json_option
def command(
    model: str,
    compressed: str,
    samples: str | None,
    preprocess: str | None,
    target: str | None,
    metric: str | None,
    seconds: float,
    report: str | None,
    trust: list[str] | None,
    key: Callable[[str], bytes] | None,
    as_json: bool,
) -> None:
    """Why COMPRESSED answers worse than the float MODEL, and what mends it.

    Either is an ONNX file, a bundle, or a folder that holds one; COMPRESSED may be of any tool.
    """
    if samples is None:
        raise BadOption(
            "there is nothing to diagnose on",
            hint="--samples S.npz, what the model meets in service; 64 are enough",
        )
    from edgedl import verbs

    with Bar() as bar:
        found = verbs.diagnose(
            model, compressed, samples, preprocess=preprocess, target=target, metric=metric,
            seconds=seconds, trust=trust, key=key, progress=bar,
        )  # fmt: skip
    click.echo(found.text(), err=as_json)
    if as_json:
        print_json(found.to_json())
    if report is not None:
        from edgedl.reports import write_diagnosis

        write_diagnosis(found, report)
