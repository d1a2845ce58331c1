"""`edgedl verify`."""

from __future__ import annotations

import click

from edgedl.cli.options import json_option, print_json, trust_option
from edgedl.report.table import table


@click.command()
@click.argument("bundle")
@trust_option
@click.option("--name", help="Take nothing but what its signer calls so.")
@click.option(
    "--least-release", type=click.IntRange(0), help="Take nothing but this release or a later."
)
@json_option
def command(
    bundle: str,
    trust: list[str] | None,
    name: str | None,
    least_release: int | None,
    as_json: bool,
) -> None:
    """Check that a trusted key signed BUNDLE as it lies there, every byte of it."""
    from dataclasses import replace

    from edgedl.runtime.sign.admit import trust_of
    from edgedl.runtime.sign.verify import short, told, verify

    trusted = trust_of(trust)
    if trusted is not None:
        trusted = replace(trusted, name=name, least_release=least_release)
    found = verify(bundle, trusted)
    rows = [
        ["trusted", one.statement.signer, f"key {short(one.key)}, {told(one.statement)}"]
        for one in found.proofs
    ]
    rows += [
        ["not here", one.statement.signer, f"key {short(one)}, {told(one.statement)}"]
        for one in found.others
    ]
    rows.append(["raw", found.path.name + ".sig", found.raw])
    click.echo(table(rows), err=as_json)
    if as_json:
        print_json(found.to_json())
