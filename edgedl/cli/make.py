"""`edgedl make`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from edgedl.cli.options import Bar, json_option, print_json
from edgedl.core.errors import BadOption

if TYPE_CHECKING:
    from edgedl.report.made import Forecast, Made


@click.command()
@click.argument("recipe", metavar="RECIPE.yaml", required=False)
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
@click.option("--report", metavar="DIR", help="Also write a page with the curves of training.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of recipes, for editors.")
@json_option
def command(
    recipe: str | None,
    output: str | None,
    until: str,
    dry_run: bool,
    report: str | None,
    schema: bool,
    as_json: bool,
) -> int:
    """Make a bundle from RECIPE: train, export, compress, time.

    What is done already is kept; a run that was killed goes on where it was.
    """
    if schema:
        from edgedl import recipe as recipes

        click.echo(json.dumps(recipes.schema(), indent=1))
        return 0
    if recipe is None:
        raise BadOption("no recipe is named", hint="edgedl make recipes/fashion_mnist.yaml")
    from edgedl.line import foresee, make, trained

    with Bar() as bar:
        if dry_run:
            found: Forecast | Made = foresee.foresee(recipe, until=until, progress=bar)
        else:
            found = made = make.make(recipe, output=output, until=until, progress=bar)
            if report is not None and trained.leads():
                from edgedl import reports

                reports.write_made(made, report)
    if not trained.leads():
        return 0
    click.echo(found.text(), err=as_json)
    if as_json:
        print_json(found.to_json())
    return 3 if found.broken else 0
