"""`edgedl shrink`."""

from __future__ import annotations

import click

from edgedl.cli.options import Bar, json_option, print_json, target_option, threads_option
from edgedl.core.errors import BadOption


@click.command()
@click.argument("model", metavar="MODEL.onnx")
@click.option(
    "--samples",
    metavar="S.npz",
    help="Inputs by name, samples along axis 0, as many as there are; labels are not needed.",
)
@click.option("--test", metavar="T.npz", help="Samples to report on; else a fifth of --samples.")
@click.option(
    "--latency",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of time to keep, measured on the target layer by layer; 0.5 without --macs.",
)
@click.option(
    "--macs",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of multiplications to keep, where nothing is to be timed.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    help="Passes over the samples behind each cut; else until 80,000 are seen.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Cut and teach so often, by equal shares.",
)
@click.option(
    "--answers",
    type=click.Choice(["classes", "flags", "values"]),
    help="What the model gives; else classes where its first output is a row of scores.",
)
@click.option(
    "-o", "--output", metavar="OUT.edl|OUT.onnx", help="The bundle, or the float model; MODEL.edl."
)
@target_option
@threads_option
@click.option(
    "--effort",
    type=click.Choice(["fast", "normal", "max"]),
    default="fast",
    show_default=True,
    help="As of compress, once the model is cut.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@json_option
def command(
    model: str,
    samples: str | None,
    test: str | None,
    latency: float | None,
    macs: float | None,
    epochs: int | None,
    rounds: int,
    answers: str | None,
    output: str | None,
    target: str | None,
    threads: int,
    effort: str,
    seed: int,
    as_json: bool,
) -> int:
    """Cut MODEL until it is faster, teach it to answer as it did, and ship it.

    Neither labels nor training code are needed: MODEL itself teaches. What is done is a recipe,
    which is written beside the output.
    """
    if samples is None:
        raise BadOption(
            "samples are needed to learn on: a few thousand, without labels",
            hint="--samples S.npz, made by np.savez('S.npz', input=x), samples along axis 0",
        )
    from edgedl.line import brought

    with Bar() as bar:
        found = brought.shrink(
            model, samples, output, latency=latency, macs=macs, test=test, epochs=epochs,
            rounds=rounds, answers=answers, target=target or "cpu", threads=threads,
            effort=effort, seed=seed, progress=bar,
        )  # fmt: skip
    click.echo(f"recipe: {found.recipe}", err=True)
    click.echo(found.text(), err=as_json)
    if as_json:
        print_json(found.to_json())
    return 3 if found.broken else 0
