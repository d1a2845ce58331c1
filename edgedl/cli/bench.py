"""`edgedl bench`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from edgedl.cli.options import (
    Bar,
    isa_option,
    json_option,
    key_file_option,
    metric_option,
    parse_shapes,
    preprocess_option,
    print_json,
    samples_option,
    shape_option,
    target_option,
    threads_option,
    trust_option,
)
from edgedl.core.errors import BadOption
from edgedl.core.units import parse_drop, parse_ms

if TYPE_CHECKING:
    from edgedl.benchmark.gate import Against
    from edgedl.benchmark.result import BenchReport


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="A [B ...]")
@target_option
@samples_option
@preprocess_option
@shape_option
@threads_option
@isa_option
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 3600),
    default=10.0,
    show_default=True,
    help="Budget of the rounds; of each further mode, too.",
)
@metric_option
@click.option("--profile", is_flag=True, help="Time by operator, by the engine's own profiler.")
@click.option("--throughput", is_flag=True, help="Samples a second by batch and streams.")
@click.option("--batch", "batches", metavar="1,4,16", default="1,4,16", show_default=True)
@click.option("--streams", metavar="1,2", default="1,2", show_default=True)
@click.option("--rate", "rates", metavar="50,100", help="Latency under load: calls a second.")
@click.option("--p99", metavar="20ms", help="The highest rate of calls that keeps this p99.")
@click.option("--energy", is_flag=True, help="Millijoules a call, idle subtracted; takes longer.")
@click.option(
    "--energy-windows",
    type=click.IntRange(1, 20),
    metavar="N",
    help="Windows of work for --energy, of which the median counts: 1; MLPerf Tiny takes 5.",
)
@click.option("--against", metavar="BASELINE.json", help="An earlier --json to be held against.")
@click.option(
    "--fail-slower", metavar="3%", default="3%", show_default=True, help="Exit 3 where slower."
)
@click.option("--report", metavar="DIR", help="Write page, tables and raw samples there.")
@click.option("--plot", metavar="OUT.png", help="The main plot, for slides.")
@click.option(
    "--format",
    "layout",
    type=click.Choice(["text", "markdown", "csv"]),
    default="text",
    show_default=True,
)
@click.option("--no-pin", is_flag=True, help="Leave the choice of cores to the system.")
@click.option("--anyway", is_flag=True, help="Time even where it cannot be honest; marked invalid.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@trust_option
@key_file_option
@json_option
def command(
    models: tuple[str, ...],
    target: str | None,
    samples: str | None,
    preprocess: str | None,
    shapes: tuple[str, ...],
    threads: int,
    seconds: float,
    metric: str | None,
    profile: bool,
    throughput: bool,
    batches: str,
    streams: str,
    rates: str | None,
    p99: str | None,
    energy: bool,
    energy_windows: int | None,
    against: str | None,
    fail_slower: str,
    report: str | None,
    plot: str | None,
    layout: str,
    no_pin: bool,
    anyway: bool,
    seed: int,
    trust: list[str] | None,
    key: Callable[[str], bytes] | None,
    as_json: bool,
) -> int:
    """Time models side by side, in interleaved rounds in fresh processes, with 95 % intervals.

    An artifact that fails is named, the rows of the others are kept, and the status is 1. So it is
    where the machine slowed itself, a quota stopped it, or its clock stepped: every row is kept,
    and marked invalid. --anyway marks them too, and ends in 0.
    """
    modes: dict[str, dict[str, Any]] = {}
    if profile:
        modes["profile"] = {"seconds": seconds}
    if throughput:
        counts = {
            "batches": _numbers(batches, "--batch"),
            "streams": _numbers(streams, "--streams"),
        }
        modes["throughput"] = {**counts, "seconds": seconds}
    if rates or p99:
        limit = None if p99 is None else parse_ms(p99)
        offered = None if rates is None else _numbers(rates, "--rate")
        modes["load"] = {"rates": offered, "p99_ms": limit, "seconds": seconds, "seed": seed}
    if energy or energy_windows:
        modes["energy"] = {"seconds": max(10.0, seconds), "windows": energy_windows or 1}
    options: dict[str, Any] = {
        "target": target,
        "samples": samples,
        "preprocess": preprocess,
        "shapes": parse_shapes(shapes),
        "threads": threads,
        "seconds": seconds,
        "pin": not no_pin,
        "modes": modes,
        "metric": metric,
        "anyway": anyway,
        "seed": seed,
        "trust": trust,
        "key": key,
    }
    limit_slower = parse_drop(fail_slower)
    from edgedl import verbs

    held = None
    with Bar() as bar:
        if against is None:
            found = verbs.bench(models, **options, progress=bar)
        else:
            held = verbs.bench_against(models, against, limit_slower, **options, progress=bar)
            found = held.report
    _tell(found, held, layout, as_json=as_json)
    _write(found, report, plot)
    return _status(found, held)


def _tell(found: BenchReport, held: Against | None, layout: str, *, as_json: bool) -> None:
    if held is not None and held.refused is None:
        from edgedl.report.gated import markdown

        click.echo(markdown(held.to_json()), err=as_json)
    else:
        click.echo(_shown(found, layout), err=as_json)
    if as_json:
        print_json(found.to_json() | ({} if held is None else {"against": held.to_json()}))


def _status(found: BenchReport, held: Against | None) -> int:
    """The exit status; what failed is named.

    Raises:
        EdgeError: no figure is valid, or the baseline does not fit.
    """
    if found.error is not None:
        raise found.error
    if found.failures:
        from edgedl.benchmark.alone import look_closer

        for name, reason in found.failures.items():
            click.echo(f"error: {name}: {reason}\n\nhint: {look_closer(name)}", err=True)
        return 1
    if held is not None and held.refused is not None:
        raise held.refused
    return 3 if held is not None and held.red else 0


def _shown(found: BenchReport, layout: str) -> str:
    document = found.to_json()
    if layout == "markdown":
        from edgedl.report.formats import to_markdown

        return to_markdown(document)
    if layout == "csv":
        from edgedl.report.formats import to_csv

        return to_csv(document).rstrip()
    from edgedl.report.benched import text

    return text(document)


def _write(found: BenchReport, report: str | None, plot: str | None) -> None:
    from edgedl import reports

    if report is not None:
        page = reports.write_bench(found, report, shlex.join(["edgedl", *sys.argv[1:]]))
        click.echo(f"report: {page}", err=True)
    elif (raw := reports.keep_raw(found)) is not None:
        click.echo(f"raw samples: {raw}", err=True)
    if plot is not None:
        from edgedl.core.registry import load

        load("edgedl.report.picture:write_png", "--plot")(found.to_json(), found.samples_ms(), plot)


def _numbers(text: str, option: str) -> list[int]:
    """`1,4,16` as numbers.

    Raises:
        BadOption: it is not written so.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() and int(word) > 0 for word in words):
        raise BadOption(f"`{option} {text}` is not a list of numbers", hint=f"like `{option} 1,4`")
    return [int(word) for word in words]
