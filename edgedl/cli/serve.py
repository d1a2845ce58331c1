"""`edgedl serve`."""

from __future__ import annotations

from collections.abc import Callable

import click

from edgedl.cli.options import key_file_option, trust_option
from edgedl.core.errors import BadOption
from edgedl.core.units import format_bytes, parse_bytes, parse_ms

DEFAULT_BODY = 64_000_000
DEFAULT_MEMORY = 1_000_000_000


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="[NAME=]BUNDLE ...")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. This machine's own by default: the service asks nobody who they"
    " are and encrypts nothing, so one that others reach belongs behind a proxy that does (TLS,"
    " who may call, how often).",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True,
              help="0 for any free one, which is then said.")  # fmt: skip
@click.option("--unix", metavar="PATH", help="A Unix socket instead of host and port.")
@click.option("--max-batch", type=click.IntRange(1, 4096), default=8, show_default=True,
              help="Samples in a call, where the model's samples can share one.")  # fmt: skip
@click.option("--max-wait", metavar="TIME", default="2ms", show_default=True,
              help="How long a first request waits for others.")  # fmt: skip
@click.option("--max-queue", type=click.IntRange(1, 1_000_000), default=256, show_default=True,
              help="Requests that may wait for a model; more get 429.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Calls of an engine at once.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1, 1024),
              help="Processor threads for one call; if absent, all cores but one, divided among"
              " the workers.")  # fmt: skip
@click.option("--timeout", metavar="TIME", default="30s", show_default=True,
              help="For a request, from its head to its answer; one may ask for less by the"
              " parameter `timeout`, microseconds.")  # fmt: skip
@click.option("--max-body", metavar="SIZE", default=format_bytes(DEFAULT_BODY), show_default=True,
              help="Of one request; larger ones get 413, unread.")  # fmt: skip
@click.option("--max-memory", metavar="SIZE", default=format_bytes(DEFAULT_MEMORY),
              show_default=True, help="Of all bodies in hand.")  # fmt: skip
@trust_option
@key_file_option
@click.option("--cache", metavar="FOLDER",
              help="For what engines compile; else what EDGEDL_CACHE names.")  # fmt: skip
@click.option("--finite", is_flag=True, help="Refuse inputs that hold NaN or infinity.")
@click.option("--drain", metavar="TIME", default="10s", show_default=True,
              help="For what is queued when SIGTERM or SIGINT comes.")  # fmt: skip
def command(
    bundles: tuple[str, ...],
    host: str,
    port: int,
    unix: str | None,
    max_batch: int,
    max_wait: str,
    max_queue: int,
    workers: int,
    threads: int | None,
    timeout: str,
    max_body: str,
    max_memory: str,
    trust: list[str] | None,
    key: Callable[[str], bytes] | None,
    cache: str | None,
    finite: bool,
    drain: str,
) -> int:
    """Answer requests by the Open Inference Protocol, version 2: JSON and binary tensors.

    Each BUNDLE is served under its file's name, or under NAME. Health is at `v2/health/live` and
    `v2/health/ready`, Prometheus metrics at `metrics`. SIGTERM ends it once all that is queued is
    answered: exit status 0, or 1 where the time for that was too short.
    """
    import edgedl
    from edgedl.service.batcher import Policy
    from edgedl.service.model import Settings

    limits = (
        _ms("--max-wait", max_wait, 0),
        _ms("--timeout", timeout, 1),
        _ms("--drain", drain, 0),
    )
    body_bytes = _size("--max-body", max_body, 1000)
    sizes = (body_bytes, _size("--max-memory", max_memory, body_bytes))
    policy = Policy(max_batch, limits[0] / 1e3, max_queue, workers)
    settings = Settings(policy, limits[1] / 1e3, *sizes, finite, limits[2] / 1e3)
    unfinished = edgedl.serve(
        list(bundles), host=host, port=port, unix=unix, threads=threads, settings=settings,
        told=lambda line: click.echo(line, err=True), trust=trust, key=key, cache=cache,
    )  # fmt: skip
    if unfinished:
        click.echo(f"note: {unfinished} requests were not finished within {drain}", err=True)
    return 1 if unfinished else 0


def _ms(option: str, text: str, least: float) -> float:
    found = parse_ms(text)
    if not least <= found <= 86_400_000:
        raise BadOption(f"{option} is `{text}`", hint=f"from {least:g} ms to a day")
    return found


def _size(option: str, text: str, least: int) -> int:
    found = parse_bytes(text)
    if found < least:
        raise BadOption(f"{option} is `{text}`", hint=f"at least {format_bytes(least)}")
    return found
