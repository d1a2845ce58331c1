"""What NVIDIA's parser and builder take of what edgedl writes: a table, made without a GPU.

    python benchmarks/tensorrt_builds.py [NAME ...] [--zoo DIR] [--list]

Each network is written in float32, float16, bf16, int8, fp8 and with 8-bit weights, parsed by
TensorRT-RTX, and built ahead of time for every GPU that the library can build for. Networks: the
families of the tests, tests/golden, those of recipes/ (untrained), those of benchmarks/gpu (random
weights), and those of the zoo that lie in DIR (`benchmarks/zoo.py` puts them there). Nothing is
timed, and no plan is run. Every network has a process of its own, so that a crash of the builder
is a row of the table. Writes `benchmarks/results/tensorrt_builds.json` and `.md`; with names, the
rows of these alone are made anew.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "tensorrt_builds"
ASKED = ("SM75", "SM80", "SM86", "SM87", "SM89", "SM90", "SM100", "SM120", "SM121")
# What networks of a kind are built for: the smaller they are, the more.
BUILT_FOR = {
    "family": ASKED,
    "golden": ASKED,
    "recipe": ("SM75", "SM86", "SM89", "SM120"),
    "gpu": ("SM75", "SM86", "SM120"),
    "zoo": ("SM75", "SM86", "SM120"),
}
LIMIT_SECONDS = 900
Row = dict[str, Any]


def rows_of(name: str, zoo: Path | None, capabilities: Sequence[str] | None = None) -> list[Row]:
    """A row for each precision of a network.

    Args:
        capabilities: GPUs to build for; those that are due to its kind where None.
    """
    from tensorrt_subjects import subjects, written

    subject = subjects(zoo)[name]
    if capabilities is None:
        capabilities = [one for one in BUILT_FOR[subject.kind] if one in known()]
    with tempfile.TemporaryDirectory(prefix="edgedl-builds-") as folder:
        return [
            {"name": name, "kind": subject.kind, "precision": one.precision}
            | (
                {"not_written": one.reason}
                if one.model is None
                else _tried(one.model, capabilities)
            )
            for one in written(subject, Path(folder))
        ]


def known() -> tuple[str, ...]:
    """The GPUs that the library builds for, of those that are asked for."""
    import tensorrt_rtx

    return tuple(one for one in ASKED if hasattr(tensorrt_rtx.ComputeCapability, one))


def _tried(model: Any, capabilities: Sequence[str]) -> Row:
    from edgedl.core.errors import EdgeError
    from edgedl.runtime.tensorrt.build import built, module, parsed
    from edgedl.runtime.tensorrt.refusals import Refused
    from edgedl.runtime.tensorrt.settings import Build, profile_seen
    from edgedl.search.untimed import two_of_four

    library = module("tensorrt_rtx")
    try:
        parsed(model.path, library=library)
    except Refused as error:
        return {"parser_refuses": [[o.operator, o.node, o.reason] for o in error.operators]}
    taken: list[str] = []
    refused: dict[str, str] = {}
    profiles = profile_seen(model.signature, [_least(model)])
    for name in capabilities:
        build = Build(profiles, sparse=two_of_four(model), compute_capabilities=(name,))
        try:
            built(model.path, build, library=library)
            taken.append(name)
        except EdgeError as error:
            refused[name] = error.message
    return {"built": taken, "builder_refuses": refused}


def _least(model: Any) -> dict[str, tuple[int, ...]]:
    """One sample's shapes: 1 for a free axis in front, 8 elsewhere."""
    return {
        tensor.name: tuple(
            size if isinstance(size, int) else 8 if axis else 1
            for axis, size in enumerate(tensor.shape or ())
        )
        for tensor in model.signature.inputs
    }


def apart(name: str, zoo: Path | None) -> list[Row]:
    """The rows of a network, made in a process of its own."""
    command = [sys.executable, __file__, "--one", name]
    command += ["--zoo", str(zoo)] if zoo else []
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return [_lost(name, f"took more than {LIMIT_SECONDS} s")]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return [_lost(name, f"its process ended with {done.returncode}: {last}"[:300])]
    rows: list[Row] = json.loads(done.stdout.splitlines()[-1])
    return rows


def _lost(name: str, reason: str) -> Row:
    return {"name": name, "kind": "lost", "precision": "all", "not_written": reason}


def main() -> int:
    """Make the table, or one network's rows of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks; all without one")
    parser.add_argument("--zoo", type=Path, metavar="DIR", help="where benchmarks/zoo.py put its")
    parser.add_argument("--list", action="store_true", help="say what there is, and build nothing")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at once")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(rows_of(options.one, options.zoo)))
        return 0
    from tensorrt_subjects import subjects

    there = list(subjects(options.zoo))
    unknown = set(options.names) - set(there)
    if unknown:
        print(f"error: no network {', '.join(sorted(unknown))}\n", file=sys.stderr)
        print(f"hint: --list; known: {', '.join(there)}", file=sys.stderr)
        return 2
    if options.list:
        print("\n".join(there))
        return 0
    names = options.names or there
    rows = _kept(names) if options.names else []
    order = {name: place for place, name in enumerate(there)}
    with ThreadPoolExecutor(options.jobs) as pool:
        for name, fresh in zip(
            names, pool.map(lambda one: apart(one, options.zoo), names), strict=True
        ):
            rows += fresh
            print(name, "; ".join(f"{row['precision']}: {cell(row)}" for row in fresh), flush=True)
            write(sorted(rows, key=lambda row: (order.get(row["name"], len(order)), row["name"])))
    return 0


def _kept(but: Iterable[str]) -> list[Row]:
    """The rows of the tracked document, where there is one, but for these networks."""
    path = RESULTS.with_suffix(".json")
    rows: list[Row] = json.loads(path.read_text())["rows"] if path.exists() else []
    return [row for row in rows if row["name"] not in but]


def all_names() -> list[str]:
    """Every network that the table could hold, those of the zoo, too, that do not lie here."""
    from tensorrt_subjects import subjects
    from zoo import RECIPES

    return [*subjects(), *(f"zoo {name}" for name in RECIPES)]


def write(rows: Sequence[Row]) -> None:
    """Write the document and its table."""
    from tensorrt_builds_table import markdown_of

    done = {row["name"] for row in rows}
    document = {
        "library": f"TensorRT-RTX {version('tensorrt-rtx')}",
        "asked": list(ASKED),
        "known": list(known()),
        "built_for": {kind: list(wanted) for kind, wanted in BUILT_FOR.items()},
        "versions": {name: version(name) for name in ("onnx", "onnx-ir", "torch", "numpy")},
        "absent": [name for name in all_names() if name not in done],
        "rows": list(rows),
    }
    text = json.dumps(document, indent=1) + "\n"
    RESULTS.with_suffix(".json").write_text(text)
    RESULTS.with_suffix(".md").write_text(markdown_of(document))


def cell(row: Mapping[str, Any]) -> str:
    """What became of a network in a precision, in a few words."""
    from tensorrt_builds_table import told

    return told(row)


if __name__ == "__main__":
    sys.exit(main())
