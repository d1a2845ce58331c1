"""`edgedl export`."""

from __future__ import annotations

import click

from edgedl.cli.options import Bar, json_option, print_json


@click.command()
@click.argument("recipe", metavar="RECIPE.yaml")
@click.option("-o", "--output", metavar="FILE.onnx", help="NAME.onnx by the recipe's name.")
@json_option
def command(recipe: str, output: str | None, as_json: bool) -> None:
    """Write RECIPE's network as ONNX, trained first where it is not, and prove it answers alike."""
    from edgedl.line.make import make
    from edgedl.line.trained import leads

    with Bar() as bar:
        found = make(recipe, until="export", output=output, progress=bar)
    if not leads():
        return
    click.echo(found.text(), err=as_json)
    if as_json:
        print_json(found.to_json())
