"""`edgedl compile`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from edgedl.cli.options import Bar, json_option, key_file_option, print_json, trust_option
from edgedl.core.units import format_bytes
from edgedl.report.table import table

if TYPE_CHECKING:
    from edgedl.runtime.compiling import Outcome


@click.command()
@click.argument("bundle")
@click.option(
    "--target", metavar="ENGINE", help="Its payloads alone: cpu, or an engine; all if absent."
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="Processor threads that it will be opened with; the engine's choice if absent.",
)
@click.option(
    "--cache",
    metavar="DIR",
    help="Where what OpenVINO and onnxruntime compile is kept; else what EDGEDL_CACHE names.",
)
@click.option(
    "-o",
    "--output",
    metavar="OUT.edl",
    help="A new bundle, not signed, that carries it to machines like this one.",
)
@trust_option
@key_file_option
@json_option
def command(
    bundle: str,
    target: str | None,
    threads: int | None,
    cache: str | None,
    output: str | None,
    trust: list[str] | None,
    key: Callable[[str], bytes] | None,
    as_json: bool,
) -> None:
    """Build and keep now what the engines of BUNDLE would make of it on this machine later.

    TensorRT builds in a process of its own, and keeps its engines in the store.
    """
    import edgedl

    with Bar() as bar:

        def notice(line: str) -> None:
            bar.clear()
            click.echo(f"note: {line}", err=True)

        found = edgedl.compile(
            bundle,
            output,
            target=target,
            threads=threads,
            cache=cache,
            trust=trust,
            key=key,
            progress=bar,
            notice=notice,
        )
    click.echo(table([_row(one) for one in found.rows]), err=as_json)
    for hint in dict.fromkeys(one.hint for one in found.rows if one.hint):
        click.echo(f"hint: {hint}", err=True)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        print_json(found.to_json())


def _row(one: Outcome) -> list[str]:
    """A payload's line: what came of it, how long it took, how large, where it is, and why."""
    took = "" if one.seconds is None else f"{one.seconds:.3g} s"
    size = "" if one.bytes is None else format_bytes(one.bytes)
    about = [one.where or "", one.reason]
    return [
        f"{one.engine} {one.precision}", one.state, took, size,
        ": ".join(part for part in about if part),
    ]  # fmt: skip
