"""The command line: a file a command; each parses, calls one function, prints."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

import edgedl
from edgedl.core.errors import EdgeError, nearest

COMMANDS = {
    "make": "From a recipe to a bundle: train, export, compress, time.",
    "train": "Train a recipe's network.",
    "export": "Write a recipe's network as ONNX, and prove that it answers alike.",
    "shrink": "Cut a trained ONNX model until it is faster, without labels or training code.",
    "doctor": "What this machine can do, what is missing, and how to install it.",
    "inspect": "Inputs, outputs, operators, parameters, MACs, bytes, precisions, history.",
    "compress": "Make a model smaller and faster for a target, and prove it: the main job.",
    "compile": "Build and keep now what a bundle's engines make of it on this machine.",
    "bench": "Time models side by side, with intervals.",
    "eval": "Accuracy of models on labelled samples.",
    "run": "Run a bundle on samples and save its answers.",
    "diagnose": "Why a compressed model answers worse than its float model, and what mends it.",
    "serve": "Answer requests over HTTP by the Open Inference Protocol.",
    "check": "Check a bundle's digests and its golden answers on this machine.",
    "keygen": "Make a pair of keys: a private one that signs, a public one that others trust.",
    "encrypt": "Encrypt the models in a bundle, before it is signed.",
    "sign": "Sign a bundle, so that devices can refuse every other.",
    "verify": "Who signed a bundle, of those that are trusted; no engine is needed.",
}


class Commands(click.Group):
    """Commands by name, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"edgedl.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in COMMANDS:
            raise click.UsageError(f"unknown command `{name}`\n\nhint: {nearest(name, COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(edgedl.__version__, prog_name="edgedl")
def group() -> None:
    """Compress neural networks, run them on the real device, explain, fix, prove."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 fine, 1 the user can fix it, 2 usage, 3 a broken limit."""
    if arguments is None and sys.argv[1:2] == ["compress"]:
        from edgedl.cli.supervise import supervised

        try:
            sys.exit(supervised(lambda: _run(sys.argv[1:]), _note))
        except EdgeError as error:
            sys.exit(_fail(str(error), error.hint, error.exit_status))
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> int:
    try:
        result: Any = group.main(args=arguments, prog_name="edgedl", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except EdgeError as error:
        return _fail(str(error), error.hint, error.exit_status)
    except click.UsageError as error:
        message, _, hint = error.format_message().partition("\n\nhint: ")
        command = error.ctx.command_path if error.ctx else "edgedl"
        return _fail(_lower(message), hint or f"`{command} --help` shows what it takes", 2)
    except click.ClickException as error:
        return _fail(_lower(error.format_message()), None, 1)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", None, 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _lower(message: str) -> str:
    message = message.rstrip(".")
    return message[:1].lower() + message[1:]


def _fail(message: str, hint: str | None, status: int) -> int:
    click.echo(f"{_red('error:')} {message}", err=True)
    if hint:
        click.echo(f"\nhint: {hint}", err=True)
    return status


def _note(message: str) -> None:
    click.echo(f"note: {message}", err=True)


def _red(text: str) -> str:
    plain = "NO_COLOR" in os.environ or not sys.stderr.isatty()
    return text if plain else click.style(text, fg="red", bold=True)
