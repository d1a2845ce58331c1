"""The table of parses and builds as Markdown."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgedl.report.table import markdown

Row = Mapping[str, Any]
NONE = "-"
# What differs between two refusals for one reason: names of nodes, and numbers of their kernels.
QUOTED = re.compile(r"'([^']*)'")
NUMBERS = re.compile(r"(?<=_)\d+")


def told(row: Row) -> str:
    """What became of a network in one precision, in a few words."""
    if "not_written" in row:
        return NONE
    if "parser_refuses" in row:
        return "parser: " + ", ".join(sorted({one[0] or "?" for one in row["parser_refuses"]}))
    if not row["builder_refuses"]:
        return "built"
    if not row["built"]:
        return "builder: none"
    return "not " + ", ".join(row["builder_refuses"])


def markdown_of(document: Mapping[str, Any]) -> str:
    """The document as a page."""
    rows: Sequence[Row] = document["rows"]
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    parts = [
        "# What TensorRT's parser and builder take of what edgedl writes",
        _about(document),
        "## In short",
        _short(document, precisions),
        "## By network",
        "`built`: parsed, and built for every GPU that was asked for. `not SM75`: parsed, and the"
        " builder refuses it for that one. `parser: X`: the parser refuses operator X."
        f" `{NONE}`: there is nothing to build; why, stands below.",
        _by_network(rows, precisions),
        "## What is refused, by whom, and why",
        _refused(rows) or "Nothing is.",
        "## What was not written",
        _not_written(rows) or "Everything was.",
    ]
    return "\n\n".join(parts) + "\n"


def _about(document: Mapping[str, Any]) -> str:
    absent = [one for one in document["asked"] if one not in document["known"]]
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    lines = [
        f"Parsed, and built ahead of time, by {document['library']} on a machine without a GPU;"
        " no plan was run, and nothing timed (`python benchmarks/tensorrt_builds.py`). Weights of"
        f" `recipe` and `gpu` networks are random. {versions}.",
        "Built for, by kind of network: "
        + "; ".join(
            f"{kind}: {', '.join(one for one in wanted if one in document['known'])}"
            for kind, wanted in document["built_for"].items()
        )
        + ".",
    ]
    if absent:
        lines.append(
            f"This library builds ahead of time for no {', '.join(absent)} (Jetson Orin is SM87,"
            " Hopper SM90, data-centre Blackwell SM100): of these, TensorRT itself has to tell, on"
            " the device."
        )
    if document["absent"]:
        lines.append(f"Not looked at yet: {', '.join(document['absent'])}.")
    return "\n\n".join(lines)


def _short(document: Mapping[str, Any], precisions: Sequence[str]) -> str:
    body = []
    for precision in precisions:
        rows = [r for r in document["rows"] if r["precision"] == precision]
        there = [r for r in rows if "not_written" not in r]
        parsed = [r for r in there if "parser_refuses" not in r]
        cells = [f"{len(parsed)} of {len(there)}"]
        for name in document["known"]:
            asked = [r for r in parsed if name in r["built"] or name in r["builder_refuses"]]
            done = sum(name in r["built"] for r in asked)
            cells.append(f"{done} of {len(asked)}" if asked else NONE)
        body.append([precision, *cells])
    return markdown([["precision", "parsed", *document["known"]], *body])


def _by_network(rows: Sequence[Row], precisions: Sequence[str]) -> str:
    names = list(dict.fromkeys(row["name"] for row in rows))
    found = {(row["name"], row["precision"]): told(row) for row in rows}
    body = [[name, *(found.get((name, one), NONE) for one in precisions)] for name in names]
    return markdown([["network", *precisions], *body])


def _refused(rows: Iterable[Row]) -> str:
    grouped: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for row in rows:
        for operator, _, reason in row.get("parser_refuses", ()):
            grouped["parser", row["precision"], "all", f"{operator}: {reason}"].append(row["name"])
        reasons: dict[str, list[str]] = defaultdict(list)
        for name, reason in row.get("builder_refuses", {}).items():
            reasons[_without_library(reason)].append(name)
        for reason, names in reasons.items():
            nodes = ", ".join(f"`{node}`" for node in QUOTED.findall(reason))
            general = NUMBERS.sub("N", QUOTED.sub("'...'", reason))
            key = ("builder", row["precision"], ", ".join(names), general)
            grouped[key].append(row["name"] + (f" ({nodes})" if nodes else ""))
    body = [
        [who, precision, gpus, _plain(reason), ", ".join(dict.fromkeys(names))]
        for (who, precision, gpus, reason), names in sorted(grouped.items())
    ]
    return (
        markdown([["who", "precision", "GPU", "what it says", "networks"], *body]) if body else ""
    )


def _not_written(rows: Iterable[Row]) -> str:
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if "not_written" in row:
            grouped[row["precision"], _plain(row["not_written"])].append(row["name"])
    body = [[*key, ", ".join(names)] for key, names in sorted(grouped.items())]
    return markdown([["precision", "why", "networks"], *body]) if body else ""


def _without_library(reason: str) -> str:
    """The builder's words; which library it is stands above."""
    return reason.partition(" cannot build the model: ")[2] or reason


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")
