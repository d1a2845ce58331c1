"""`edgedl train`."""

from __future__ import annotations

import click

from edgedl.cli.options import Bar, json_option, print_json


@click.command()
@click.argument("recipe", metavar="RECIPE.yaml")
@json_option
def command(recipe: str, as_json: bool) -> None:
    """Train RECIPE's network; what was trained already is kept.

    On several devices: torchrun --nproc-per-node 2 -m edgedl train RECIPE.yaml
    """
    from edgedl.line.make import make
    from edgedl.line.trained import leads

    with Bar() as bar:
        found = make(recipe, until="train", progress=bar)
    if not leads():
        return
    click.echo(found.text(), err=as_json)
    if as_json:
        print_json(found.to_json())
