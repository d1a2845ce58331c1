"""`edgedl check`."""

from __future__ import annotations

from collections.abc import Callable

import click

from edgedl.cli.options import json_option, key_file_option, print_json, trust_option
from edgedl.report.table import table


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
    rows = [["digests", f"{found.parts} parts", "right"]]
    rows += [
        ["signature", f"{one.statement.signer}, by {one.key.name}", "right"] for one in found.proofs
    ]
    for payload in found.payloads:
        error = (
            ""
            if payload.error is None
            else f"error {payload.error:.2g}, {found.tolerance:.2g} allowed"
        )
        state = (
            "skipped: " + str(payload.problem) if payload.skipped else payload.problem or "right"
        )
        rows.append(
            [
                f"{payload.engine} {payload.precision}",
                f"{found.golden_samples} golden samples",
                state,
                error,
            ]
        )
    click.echo(table(rows), err=as_json)
    if as_json:
        print_json(
            {
                "bundle": str(found.path),
                "ok": found.ok,
                "parts": found.parts,
                "signers": [{"key": one.key.id, **one.statement.to_json()} for one in found.proofs],
                "golden_samples": found.golden_samples,
                "tolerance": found.tolerance,
                "payloads": [
                    {
                        "engine": p.engine,
                        "precision": p.precision,
                        "error": None if p.error is None or p.error == float("inf") else p.error,
                        "problem": p.problem,
                        "skipped": p.skipped,
                    }
                    for p in found.payloads
                ],
            }
        )
    return 0 if found.ok else 1
