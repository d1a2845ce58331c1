"""`edgedl keygen`."""

from __future__ import annotations

import click

from edgedl.cli.secrets import asked, passphrase_option
from edgedl.core.registry import load


@click.command()
@click.argument("name")
@click.option("--passphrase", is_flag=True, help="Ask for one that encrypts the private key.")
@passphrase_option
@click.option(
    "--encryption",
    is_flag=True,
    help="Make NAME.aes instead, the secret key of `edgedl encrypt`.",
)
def command(name: str, passphrase: bool, passphrase_file: str | None, encryption: bool) -> None:
    """Make NAME.key, which signs and stays with you, and NAME.pub, which devices trust."""
    if encryption:
        if passphrase or passphrase_file:
            raise click.UsageError("`--encryption` makes a key that no passphrase encrypts")
        path = load("edgedl.runtime.sign.private:encryption_keygen", "`edgedl keygen`")(name)
        click.echo(f"secret key  {path}   keep it; whoever has it reads the models")
        return
    word = asked(passphrase_file, confirm=True) if passphrase or passphrase_file else None
    key = load("edgedl.runtime.sign.private:keygen", "`edgedl keygen`")(name, passphrase=word)
    click.echo(f"private key  {name}.key   keep it where bundles are signed, and nowhere else")
    click.echo(f"public key   {name}.pub   give it to devices")
    click.echo(f"id           {key.id}")
