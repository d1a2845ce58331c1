"""`edgedl doctor`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from edgedl.cli.options import json_option, print_json
from edgedl.core.units import format_bytes
from edgedl.report.table import table


def jetson_rows(jetson: Mapping[str, Any]) -> list[list[str]]:
    """What a Jetson says of itself; what it does not say is left out."""
    system = f"L4T {jetson['l4t']}" if jetson["l4t"] else "an L4T that does not say which"
    if jetson["jetpack"]:
        system += f", JetPack {jetson['jetpack']}"
    mode = jetson["power_mode"] or "unknown: no /var/lib/nvpmodel/status"
    rows = [["jetson", f"{jetson['module']}, {system}"], ["power mode", mode]]
    locked = {True: "locked", False: "not locked: `sudo jetson_clocks`", None: "lock unknown"}
    clocks = locked[jetson["clocks_locked"]]
    if jetson["gpu_mhz"] is not None:
        least, most = jetson["gpu_least_mhz"], jetson["gpu_most_mhz"]
        span = "" if least is None or most is None else f" of {least:.0f} to {most:.0f}"
        clocks = f"GPU {jetson['gpu_mhz']:.0f} MHz{span}, {clocks}"
    rows.append(["clocks", clocks])
    if jetson["swap_bytes"]:
        free, whole = jetson["swap_free_bytes"], format_bytes(jetson["swap_bytes"])
        rows.append(["swap", whole if free is None else f"{format_bytes(free)} free of {whole}"])
    elif jetson["swap_bytes"] == 0:
        rows.append(["swap", "none: building an engine may run out of memory"])
    return rows


def builds_only(engine: Mapping[str, Any]) -> str:
    """What an engine can do whose library is here, and whose GPU is not, and what it cannot."""
    library = engine["builder"]
    ahead = library["ahead_of_time"]
    can = "parses models"
    if ahead:
        can += (
            f", and builds ahead of time for {', '.join(ahead)}"
            " (`edgedl compress --target tensorrt --unmeasured` has it prove what it writes)"
        )
    return f"{library['version']} {can}; runs and times nothing here: {engine['install']}"


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
        shared = "" if machine["jetson"] is None else ", which the GPU shares"
        rows.append(["memory", memory + shared])
    if machine["jetson"] is not None:
        rows += jetson_rows(machine["jetson"])
    rows.append(["python", f"{machine['python']} on {machine['system']}"])
    for engine in found["engines"]:
        if engine["builder"] is not None:
            rows.append([engine["name"], builds_only(engine)])
        elif engine["version"] is None:
            absent = "not installed: " if engine["install"].startswith("pip") else "not here: "
            rows.append([engine["name"], absent + engine["install"]])
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
