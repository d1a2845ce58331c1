"""`edgedl run`."""

from __future__ import annotations

from collections.abc import Callable

import click

from edgedl.cli.options import Bar, key_file_option, preprocess_option, target_option, trust_option


@click.command()
@click.argument("bundle")
@click.option(
    "--input",
    "inputs",
    metavar="S.npz|FILE|FOLDER",
    required=True,
    help="Inputs by name, samples along axis 0; or images, or WAV files.",
)
@click.option(
    "--output",
    metavar="O.npz|O.png",
    required=True,
    help="Where the answers go, a row a sample; or the mask of one picture.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="Processor threads; the engine's choice if absent.",
)
@preprocess_option
@target_option
@trust_option
@key_file_option
def command(
    bundle: str,
    inputs: str,
    output: str,
    threads: int | None,
    preprocess: str | None,
    target: str | None,
    trust: list[str] | None,
    key: Callable[[str], bytes] | None,
) -> None:
    """Run BUNDLE on every sample and save its outputs by name."""
    from edgedl import verbs

    with Bar() as bar:
        count = verbs.run(
            bundle,
            inputs,
            output,
            preprocess=preprocess,
            threads=threads,
            target=target,
            trust=trust,
            key=key,
            progress=bar,
            notice=lambda line: click.echo(line, err=True),
        )
    click.echo(f"{count} sample{'s' * (count != 1)} -> {output}")
