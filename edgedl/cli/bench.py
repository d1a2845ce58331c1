"""`edgedl bench`."""

from __future__ import annotations

import click

from edgedl.cli.options import (
    Bar,
    json_option,
    parse_shapes,
    print_json,
    samples_option,
    shape_option,
    target_option,
    threads_option,
)


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="A [B ...]")
@target_option
@samples_option
@shape_option
@threads_option
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 3600),
    default=10.0,
    show_default=True,
    help="Budget of the rounds.",
)
@json_option
def command(
    models: tuple[str, ...],
    target: str | None,
    samples: str | None,
    shapes: tuple[str, ...],
    threads: int,
    seconds: float,
    as_json: bool,
) -> None:
    """Time models side by side, in interleaved rounds, with 95 % intervals."""
    fixed = parse_shapes(shapes)
    from edgedl import verbs

    with Bar() as bar:
        found = verbs.bench(
            models,
            target=target,
            samples=samples,
            shapes=fixed,
            threads=threads,
            seconds=seconds,
            progress=bar,
        )
    from edgedl.report.benched import text

    click.echo(text(found.to_json()), err=as_json)
    if as_json:
        print_json(found.to_json())
