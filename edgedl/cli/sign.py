"""`edgedl sign`."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import click

from edgedl.cli.options import json_option, print_json
from edgedl.cli.secrets import asked, passphrase_option
from edgedl.core.errors import BadOption
from edgedl.core.registry import load


@click.command()
@click.argument("bundle")
@click.option("--key", required=True, metavar="NAME.key", help="The private key.")
@click.option(
    "--expires", metavar="DATE|DAYS", help="As 2030-01-31, in UTC, or 365d; never if absent."
)
@click.option("--name", help="What it is; a device can ask for this name.")
@click.option(
    "--release", type=click.IntRange(0), help="Its number; a device can refuse earlier ones."
)
@click.option("--signer", help="Who signs; the key file's name if absent.")
@click.option("--alone", is_flag=True, help="Leave out the signatures of other keys.")
@passphrase_option
@json_option
def command(
    bundle: str,
    key: str,
    expires: str | None,
    name: str | None,
    release: int | None,
    signer: str | None,
    alone: bool,
    passphrase_file: str | None,
    as_json: bool,
) -> None:
    """Sign BUNDLE where it lies, and write BUNDLE.sig for openssl and C programs beside it."""
    done = load("edgedl.runtime.sign.private:sign", "`edgedl sign`")(
        bundle,
        key,
        passphrase=lambda: asked(passphrase_file),
        signer=signer,
        expires=None if expires is None else until(expires, time.time()),
        name=name,
        release=release,
        alone=alone,
    )
    if as_json:
        document = {"bundle": str(done.path), "raw": str(done.raw), "key": done.key.id}
        print_json({**document, **done.statement.to_json(), "signatures": done.signatures})
        return
    others = done.signatures - 1
    more = f", beside {others} other signature{'s' if others > 1 else ''}" if others else ""
    click.echo(f"{done.path} signed by {done.statement.signer}, key {done.key.id[:16]}{more}")
    click.echo(f"{done.raw} signs the whole file, for openssl and C")


def until(text: str, now: float) -> int:
    """A date, its midnight in UTC, or so many days from now, in seconds since 1970.

    Raises:
        BadOption: it is neither, or too far off.
    """
    days = text.removesuffix("d")
    try:
        if days.isascii() and days.isdigit():
            found = datetime.fromtimestamp(now, timezone.utc) + timedelta(days=int(days))
        else:
            found = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=timezone.utc)
    except (ValueError, OverflowError) as error:
        raise BadOption(
            f"`{text}` is no date that can be signed", hint="write `2030-01-31`, or `365d`"
        ) from error
    return int(found.timestamp())
