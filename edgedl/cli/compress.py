"""`edgedl compress`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgedl.cli.options import (
    Bar,
    isa_option,
    json_option,
    metric_option,
    parse_shapes,
    preprocess_option,
    print_json,
    samples_option,
    shape_option,
    target_option,
    threads_option,
)
from edgedl.core.errors import BadOption, MetricFailed
from edgedl.core.units import parse_bytes, parse_drop, parse_ms

if TYPE_CHECKING:
    from edgedl.search.candidates import Ask


@click.command()
@click.argument("model")
@click.option("--int8", is_flag=True, help="Weights in 8 bits, operators in what is fastest.")
@click.option("--weights", type=click.Choice(["int8"]), help="Store in 8 bits, compute in float.")
@click.option("--bf16", is_flag=True, help="Compute in bfloat16.")
@click.option("--fp16", is_flag=True, help="Compute in half precision.")
@click.option("--dynamic", is_flag=True, help="Matrix products in int8, ranges found in each call.")
@click.option("--auto", is_flag=True, help="Whatever is fastest within the limits.")
@click.option(
    "--plan", metavar="PLAN.yaml", help="What computes in int8, as --report wrote it, or edited."
)
@samples_option
@preprocess_option
@click.option(
    "--test",
    metavar="FILE.npz|FOLDER",
    help="Samples to choose and report on; else a part of --samples.",
)
@click.option(
    "--validation",
    metavar="FILE.npz|FOLDER",
    help="Samples to choose by; the report is then on all of --test.",
)
@click.option("-o", "--output", metavar="OUT.edl", required=True, help="The bundle to write.")
@target_option
@shape_option
@click.option("--max-drop", metavar="1%", help="The most that accuracy, or agreement, may fall.")
@click.option("--max-latency", metavar="5ms", help="The longest that a call may take, p50.")
@click.option("--max-bytes", metavar="2MB", help="The largest that the bundle may be.")
@metric_option
@threads_option
@isa_option
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 600),
    default=4.0,
    show_default=True,
    help="Budget of the last timing.",
)
@click.option(
    "--effort",
    type=click.Choice(["fast", "normal", "max"]),
    default="fast",
    show_default=True,
    help="What may go into answers like float's: normal, two or three minutes more an engine and"
    " a tenth of the speed; max, a quarter of an hour. Both train weights where torch is there.",
)
@click.option(
    "--unmeasured",
    is_flag=True,
    help="For a GPU that is not here: choose by answers alone, and say that nothing was timed.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--force",
    is_flag=True,
    help="Quantize a model anew that is quantized already; ship what the target's only engine"
    " computes wrongly even in float32.",
)
@click.option("--report", metavar="DIR", help="Write the report there, and the plan.")
@json_option
def command(
    model: str,
    int8: bool,
    weights: str | None,
    bf16: bool,
    fp16: bool,
    dynamic: bool,
    auto: bool,
    plan: str | None,
    samples: str | None,
    preprocess: str | None,
    test: str | None,
    validation: str | None,
    output: str,
    target: str | None,
    shapes: tuple[str, ...],
    max_drop: str | None,
    max_latency: str | None,
    max_bytes: str | None,
    metric: str | None,
    threads: int,
    seconds: float,
    seed: int,
    force: bool,
    effort: str,
    unmeasured: bool,
    report: str | None,
    as_json: bool,
) -> int:
    """Make MODEL smaller and faster for a target, and prove it.

    MODEL is an ONNX file, a bundle, or a folder that holds one of them.
    """
    asked: dict[Ask, bool] = {
        "int8": int8,
        "auto": auto,
        "weights": weights is not None,
        "bf16": bf16,
        "float16": fp16,
        "dynamic": dynamic,
        "plan": plan is not None and not int8,
    }
    if sum(asked.values()) != 1:
        raise BadOption(
            "what is it to be compressed to?",
            hint="one of --int8, --weights int8, --bf16, --fp16, --dynamic, --auto and --plan, as"
            " in `edgedl compress MODEL --int8 --samples S.npz -o OUT.edl`",
        )
    [ask] = [name for name, given in asked.items() if given]
    if samples is None:
        raise BadOption(
            "samples are needed to calibrate on, and to compare answers on",
            hint="--samples S.npz, made by np.savez('S.npz', input=x), samples along axis 0;"
            " or a folder of files, with --preprocess SPEC.yaml",
        )
    fixed = parse_shapes(shapes)
    drop = None if max_drop is None else parse_drop(max_drop)
    latency = None if max_latency is None else parse_ms(max_latency)
    size = None if max_bytes is None else parse_bytes(max_bytes)
    from edgedl import pipeline

    with Bar() as bar:
        result = pipeline.compress(
            model, samples, output, ask=ask, plan=plan, target=target or "cpu", test=test,
            validation=validation, preprocess=preprocess, shapes=fixed, max_drop=drop,
            max_latency_ms=latency, max_bytes=size, metric=metric, threads=threads, seed=seed,
            seconds=seconds, force=force, effort=effort, unmeasured=unmeasured, progress=bar,
        )  # fmt: skip
    click.echo(result.text(), err=as_json)
    if as_json:
        print_json(result.to_json())
    if report is not None:
        from edgedl import reports

        reports.write_compressed(result, report)
    if result.failed is not None:
        raise MetricFailed(str(result.failed), hint=f"{output} is written, and all else is sound")
    return 3 if result.broken else 0
