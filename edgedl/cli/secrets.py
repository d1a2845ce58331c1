"""Passphrases, from a file or from whoever sits there; none is ever an argument."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgedl.core.errors import BadKey
from edgedl.runtime.sign.keys import secret_file

passphrase_option = click.option(
    "--passphrase-file", metavar="FILE", help="A file whose first line is the passphrase."
)


def asked(path: str | None, *, confirm: bool = False) -> str:
    """The passphrase in a file, or as it is typed where no file is named.

    Raises:
        BadKey: the file cannot be read, is empty or no text, or there is nobody to ask.
    """
    if path is not None:
        try:
            lines = secret_file(Path(path)).decode().splitlines()
        except UnicodeDecodeError as error:
            raise BadKey("is no text", where=path) from error
        if not lines or not lines[0]:
            raise BadKey("holds no passphrase", where=path, hint="write it on the first line")
        return lines[0]
    if not sys.stdin.isatty():
        raise BadKey(
            "a passphrase is needed, and nobody can be asked for it",
            hint="write it to a file that only you can read: `--passphrase-file FILE`",
        )
    word: str = click.prompt("passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return word
