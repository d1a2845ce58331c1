"""`edgedl encrypt`."""

from __future__ import annotations

import click

from edgedl.core.registry import load


@click.command()
@click.argument("bundle")
@click.option(
    "--key-file",
    required=True,
    metavar="FILE",
    help="32 bytes, in hex or as they are; `edgedl keygen NAME --encryption` makes it.",
)
@click.option("-o", "--output", required=True, metavar="OUT.edl", help="The encrypted bundle.")
@click.option("--key-id", help="The name by which a device asks for the key.")
def command(bundle: str, key_file: str, output: str, key_id: str | None) -> None:
    """Write BUNDLE again, the models in it encrypted by AES-256-GCM."""
    encrypt = load("edgedl.runtime.sign.encrypt:encrypt", "`edgedl encrypt`")
    done = encrypt(bundle, key_file, output, key_id=key_id)
    models = "1 model" if done.payloads == 1 else f"{done.payloads} models"
    click.echo(f"{models} encrypted by the key {done.key} -> {done.path}")
    if done.unsigned:
        click.echo("note: its signatures are gone: sign it again with `edgedl sign`", err=True)
