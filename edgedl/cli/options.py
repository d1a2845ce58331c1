"""Options that several commands share, and how they are parsed."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from edgedl.core.errors import BadOption
from edgedl.core.isa import ISA_CAPS, ISA_VARIABLE
from edgedl.core.target import PROCESSORS, TARGETS, Processor

Command = TypeVar("Command", bound=Callable[..., Any])
QUIET_SECONDS = 2.0
REDRAW_SECONDS = 0.1
BAR_CELLS = 24

json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document as the last line."
)
samples_option = click.option(
    "--samples",
    metavar="FILE.npz|FOLDER",
    help="Inputs by name, samples along axis 0; or images, or WAV files.",
)
preprocess_option = click.option(
    "--preprocess", metavar="SPEC.yaml", help="What turns the files of a folder into inputs."
)
shape_option = click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=1x3x224x224",
    help="Fix an input's dimensions.",
)
metric_option = click.option(
    "--metric",
    metavar="NAME[:key=value,...]",
    help="top1, mse, detection, segmentation, ctc ..., or FILE.py:function; the labels suggest"
    " top1, segmentation or mse.",
)


def _listed(
    context: click.Context, parameter: click.Parameter, value: Sequence[str]
) -> list[str] | None:
    return list(value) or None


def _key(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> Callable[[str], bytes] | None:
    if value is None:
        return None
    from edgedl.runtime.sign.keys import key_of_file

    return key_of_file(value)


trust_option = click.option(
    "--trust",
    multiple=True,
    metavar="FILE|FOLDER",
    callback=_listed,
    help="Public keys, one of which must have signed the bundle; else what EDGEDL_TRUST names.",
)
key_file_option = click.option(
    "--key-file",
    "key",
    metavar="FILE",
    callback=_key,
    help="The key of an encrypted bundle: 32 bytes, in hex or as they are.",
)


def _runs_here(processor: Processor) -> bool:
    from edgedl.benchmark.machine import this_machine

    return processor.can_run_on(this_machine().isa)


def target_option(command: Command) -> Command:
    """`--target NAME`; a processor's caps OpenVINO as `--isa` does."""

    def cap(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
        processor = PROCESSORS.get(value or "")
        if processor is not None and processor.cap is not None and _runs_here(processor):
            os.environ[ISA_VARIABLE] = processor.cap
        return value

    return click.option(
        "--target",
        metavar="NAME",
        callback=cap,
        help=f"{', '.join(name for name in TARGETS if name not in PROCESSORS)}; or a processor to"
        " foretell:"
        f" {', '.join(PROCESSORS)}.",
    )(command)


def threads_option(command: Command) -> Command:
    """`--threads N`, one where it is not given."""
    return click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True)(
        command
    )


def isa_option(command: Command) -> Command:
    """`--isa NAME`, which must be set before OpenVINO is loaded, and is at once.

    Raises:
        BadOption: this processor lacks these instructions, and would be left with fewer.
    """

    def cap(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is None:
            return
        able = [
            name
            for name, cap in ISA_CAPS.items()
            if any(one.cap == cap and _runs_here(one) for one in PROCESSORS.values())
        ]
        if value not in able:
            raise BadOption(
                f"--isa {value}: this processor has more or other instructions, but not these",
                hint=f"here can be had: {', '.join(able) or 'none'}; --target foretells answers",
            )
        os.environ[ISA_VARIABLE] = ISA_CAPS[value]

    return click.option(
        "--isa",
        type=click.Choice(list(ISA_CAPS)),
        callback=cap,
        expose_value=False,
        help="Run OpenVINO as on a processor that has no more.",
    )(command)


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`--shape` options by input.

    Raises:
        BadOption: one is not written like `input=1x3x224x224`.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, separator, dimensions = text.rpartition("=")
        sizes = dimensions.lower().split("x")
        if not separator or not name or not all(size.isdigit() and int(size) > 0 for size in sizes):
            raise BadOption(f"`{text}` is not a shape", hint="write it like `input=1x3x224x224`")
        shapes[name] = tuple(map(int, sizes))
    return shapes


def print_json(document: Any) -> None:
    """One document on one line of stdout."""
    click.echo(json.dumps(document, allow_nan=False))


class Bar:
    """A progress bar on stderr once work has taken two seconds; none where it is no terminal."""

    def __init__(self) -> None:
        self.began = self.drawn = time.monotonic()
        self.label = ""
        self.shown = False
        self.enabled = sys.stderr.isatty()

    def __call__(self, label: str, done: int, total: int) -> None:
        now = time.monotonic()
        if not self.enabled or now - self.began < QUIET_SECONDS:
            return
        if label == self.label and done < total and now - self.drawn < REDRAW_SECONDS:
            return
        self.label, self.drawn, self.shown = label, now, True
        filled = BAR_CELLS * done // max(total, 1)
        bar = "#" * filled + "." * (BAR_CELLS - filled)
        sys.stderr.write(f"\r\x1b[K[{bar}] {label} {done}/{total}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the bar away."""
        if self.shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
