"""`edgedl check`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from edgedl.cli.options import json_option, key_file_option, print_json, trust_option
from edgedl.report.table import table

if TYPE_CHECKING:
    from edgedl.runtime.check import CheckResult


@click.command()
@click.argument("bundle")
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="Processor threads; the engine's choice if absent.",
)
@trust_option
@key_file_option
@json_option
def command(
    bundle: str,
    threads: int | None,
    trust: list[str] | None,
    key: Callable[[str], bytes] | None,
    as_json: bool,
) -> int:
    """Check BUNDLE's digests, its signature, and its golden answers on this machine."""
    from edgedl.runtime.check import check

    found = check(bundle, threads=threads, trust=trust, key=key)
    click.echo(table(_rows(found)), err=as_json)
    if as_json:
        print_json(_document(found))
    return 0 if found.ok else 1


def _rows(found: CheckResult) -> list[list[str]]:
    rows = [["digests", f"{found.parts} parts", "right"]]
    rows += [
        ["signature", f"{one.statement.signer}, by {one.key.name}", "right"] for one in found.proofs
    ]
    for payload in found.payloads:
        error = ""
        if payload.error is not None:
            error = f"error {payload.error:.2g}, {found.tolerance:.2g} allowed"
        skipped = f"skipped: {payload.problem}"
        state = skipped if payload.skipped else payload.problem or "right"
        named = f"{payload.engine} {payload.precision}"
        rows.append([named, f"{found.golden_samples} golden samples", state, error])
    return rows


def _document(found: CheckResult) -> dict[str, Any]:
    return {
        "bundle": str(found.path),
        "ok": found.ok,
        "parts": found.parts,
        "signers": [{"key": one.key.id, **one.statement.to_json()} for one in found.proofs],
        "golden_samples": found.golden_samples,
        "tolerance": found.tolerance,
        "payloads": [
            {
                "engine": one.engine,
                "precision": one.precision,
                "error": None if one.error is None or one.error == float("inf") else one.error,
                "problem": one.problem,
                "skipped": one.skipped,
            }
            for one in found.payloads
        ],
    }
