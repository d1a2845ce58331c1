"""`edgedl inspect`."""

from __future__ import annotations

from typing import Any

import click

from edgedl.cli.options import json_option, parse_shapes, print_json, shape_option
from edgedl.core.model import Tensor
from edgedl.core.units import format_bytes
from edgedl.report.table import table

MOST_SHOWN = 4


@click.command()
@click.argument("model")
@shape_option
@json_option
def command(model: str, shapes: tuple[str, ...], as_json: bool) -> None:
    """Inputs, outputs, operators, parameters, MACs, bytes, precisions, history of MODEL."""
    fixed = parse_shapes(shapes)
    from edgedl import verbs

    found = verbs.inspect(model, shapes=fixed)
    click.echo(_text(found), err=as_json)
    if as_json:
        print_json(found)


VERSION_ENDS = {"least": "from version", "most": "to version"}


def _text(found: dict[str, Any]) -> str:
    rows = []
    for kind in ("inputs", "outputs"):
        rows += [[kind[:-1], str(Tensor.from_json(tensor))] for tensor in found[kind]]
    for payload in found.get("payloads", ()):
        rows.append(["payload", _payload(payload)])
    if found.get("processing"):
        rows += _processing(found["processing"])
    rows.append(["bytes", format_bytes(found["bytes"])])
    rows += [["signed", _signed(one)] for one in found.get("signed", ())]
    if "operators" in found:
        rows += _graph(found)
    else:
        keys = ", ".join(f"`{key}`" for key in found["encrypted"])
        rows.append(["graph", f"encrypted, by the key {keys}: operators and weights are not shown"])
    for step in found["history"]:
        settings = ", ".join(
            f"{k}={v}" for k, v in step["settings"].items() if not isinstance(v, (dict, list))
        )
        rows.append(["history", f"{step['name']}({settings})"])
    return table(rows)


def _signed(claim: dict[str, Any]) -> str:
    """Who says to have signed, which `edgedl verify` alone proves."""
    name = f" as `{claim['name']}`" if claim.get("name") else ""
    return f"by key {claim['key'][:16]}{name}, says the file; `edgedl verify` proves it"


def _graph(found: dict[str, Any]) -> list[list[str]]:
    """What was counted in the model."""
    rows = []
    rows.append(["parameters", f"{found['parameters']:,}"])
    macs, shapes = found["macs"], [one["shape"] for one in found["inputs"]]
    open_shapes = any(shape is None or {type(d) for d in shape[1:]} - {int} for shape in shapes)
    unknown = "shapes are dynamic, fix them with --shape"
    if not open_shapes:
        unknown = "a shape inside, or how often a loop runs, depends on the data"
    rows.append(["MACs", f"unknown: {unknown}" if macs is None else f"{macs:,} a sample"])
    weights = ", ".join(
        f"{format_bytes(size)} {kind}" for kind, size in found["weight_bytes"].items()
    )
    rows.append(["weights", weights + (", quantized" if found["quantized"] else "")])
    operators = ", ".join(f"{count} {kind}" for kind, count in found["operators"].items())
    rows.append(["operators", operators])
    if found["operators_in_bodies"]:
        rows.append(["", f"{found['operators_in_bodies']} of them inside If, Loop or Scan bodies"])
    rows.append(["opset", str(found["opset"])])
    return rows


def _payload(payload: dict[str, Any]) -> str:
    """Its engine and precision, what it needs, and its sizes where it is deflated."""
    text = f"{payload['engine']} {payload['precision']}"
    needs = payload.get("needs", {})
    version, machine = needs.get("version", {}), needs.get("machine", {})
    if payload["format"] == "build":
        text += ", built where it is opened"
    if machine:
        text += f", compiled for {machine.get('processor', 'one machine')}"
    ends = [f"{word} {version[key]}" for key, word in VERSION_ENDS.items() if key in version]
    text += "".join(f", {one}" for one in [*ends, *needs.get("flags", ())])
    if "inflated" not in payload:
        return text
    inflated, lying = payload["inflated"]["bytes"], payload["bytes"]
    return f"{text}, {format_bytes(inflated)} deflated to {format_bytes(lying)}"


def _processing(document: dict[str, Any]) -> list[list[str]]:
    """What stands before the network and behind it, its settings as they are written."""
    before = {key: value for key, value in document.items() if key != "postprocess"}
    rows = [["pre-processing", _settings(before)]]
    if document["postprocess"] is not None:
        rows.append(["post-processing", _settings(document["postprocess"])])
    return rows


def _settings(document: dict[str, Any]) -> str:
    parts = []
    for key, value in document.items():
        if isinstance(value, list) and len(value) > MOST_SHOWN:
            parts.append(f"{len(value)} {key}")
        elif isinstance(value, dict):
            parts.append(f"{key} ({_settings(value)})")
        elif value is not None and value != []:
            text = " ".join(map(str, value)) if isinstance(value, list) else value
            parts.append(f"{key} {text}")
    return ", ".join(parts)
