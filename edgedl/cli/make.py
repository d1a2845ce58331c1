"""`edgedl make`."""

from __future__ import annotations

import click

from edgedl.cli.options import Bar, json_option, print_json


@click.command()
@click.argument("recipe", metavar="RECIPE.yaml")
@click.option("-o", "--output", metavar="FILE", help="The bundle; NAME.edl by the recipe's name.")
@click.option(
    "--until",
    type=click.Choice(["train", "export", "compress", "bench"]),
    default="bench",
    show_default=True,
    help="The last stage.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check data, network, memory and operators, say what it would take, and stop.",
)
@json_option
def command(recipe: str, output: str | None, until: str, dry_run: bool, as_json: bool) -> int:
    """Make a bundle from RECIPE: train, export, compress, time.

    What is done already is kept; a run that was killed goes on where it was.
    """
    from edgedl.line import foresee, make

    with Bar() as bar:
        if dry_run:
            found: foresee.Forecast | make.Made = foresee.foresee(recipe, until=until, progress=bar)
        else:
            found = make.make(recipe, output=output, until=until, progress=bar)
    click.echo(found.text(), err=as_json)
    if as_json:
        print_json(found.to_json())
    return 3 if found.broken else 0
