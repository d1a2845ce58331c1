"""`edgedl doctor`."""

from __future__ import annotations

import click

from edgedl.cli.options import json_option, print_json
from edgedl.core.units import format_bytes
from edgedl.report.table import table


@click.command()
@json_option
def command(as_json: bool) -> None:
    """What this machine can do, what is missing, and the command that installs it."""
    from edgedl import verbs

    found = verbs.doctor()
    machine = found["machine"]
    cores = f"{machine['usable_cores']} of {machine['cores']} cores usable"
    if machine["quota_cores"] is not None:
        cores += f", quota {machine['quota_cores']:g}"
    rows = [
        ["processor", f"{machine['processor']} ({machine['architecture']}), {cores}"],
        ["instruction sets", " ".join(machine["isa"]) or "unknown"],
        ["int8", found["int8"]],
    ]
    if machine["memory_bytes"] is not None and machine["available_bytes"] is not None:
        free = format_bytes(machine["available_bytes"])
        memory = f"{free} free of {format_bytes(machine['memory_bytes'])}"
        rows.append(["memory", memory])
    rows.append(["python", f"{machine['python']} on {machine['system']}"])
    for engine in found["engines"]:
        if engine["version"] is None:
            rows.append([engine["name"], f"not installed: {engine['install']}"])
        else:
            rows.append(
                [engine["name"], f"{engine['version']}, fast in {', '.join(engine['precisions'])}"]
            )
    for tool in found["tools"]:
        state = tool["version"] or f"not installed: {tool['install']}"
        rows.append([tool["name"], f"{state}  ({tool['for']})"])
    energy = ", ".join(found["energy"]) or "no counter can be read here (RAPL, INA3221, INA238)"
    rows.append(["energy", energy])
    rows.append(["store", found["store"]])
    click.echo(table(rows), err=as_json)
    if as_json:
        print_json(found)
