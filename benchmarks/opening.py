"""What opening a bundle costs, its checks included, against opening the bare ONNX model.

    python benchmarks/opening.py [--model mobilenetv2] [--rounds 40] [--cache DIR]
    python benchmarks/opening.py --file MODEL.onnx --samples S.npz

The bundle holds the model as `edgedl compress` ships it, in float32, with two golden answers. The
bare engine opens the very same ONNX file by its path, in the same settings. Each round opens all
ways once, in an order that is drawn anew, in one process in which the engine is loaded; the ratio
to the bare engine is the median of the rounds' ratios, with a 95 % interval. An engine's first call
is slower than those after it, and a golden answer is one: so both are opened and called once, too.
Writes `benchmarks/results/opening.json` and `opening.md`, or into `--results DIR`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from zoo import fetch

import edgedl
from edgedl.backends import backend
from edgedl.backends.added import add_compiled
from edgedl.benchmark.machine import this_machine
from edgedl.core.samples import Samples, open_npz
from edgedl.core.stats import bootstrap_ratio
from edgedl.passes.graph import open_model, to_ship
from edgedl.report.table import markdown
from edgedl.runtime.golden import Answer, Golden, coarse
from edgedl.runtime.writing import Contents, write_bundle

RESULTS = Path(__file__).parent / "results"
ENGINES = ("onnxruntime", "openvino")
BARE = "the bare engine"
CALLED = ", and a first call"
LIMIT = 1.2
WARM_ROUNDS = 2
Feed = dict[str, np.ndarray]


def written(engine: str, model: Path, given: Samples, folder: Path) -> tuple[Path, Path, Feed]:
    """The ONNX file as it ships, a bundle of it for one engine, and an input."""
    opened = open_model(model)
    data, names = to_ship(opened)
    onnx, bundle = folder / f"{engine}.onnx", folder / f"{engine}.edl"
    onnx.write_bytes(data)
    payload = backend(engine).compile(data, "float32")
    rows = [coarse(feed) for feed in given.bind(opened.signature).take(range(2))]
    from edgedl.runtime import engine as engine_of

    with engine_of(engine).open_model(data, settings=payload.settings, threads=1) as session:
        told = [{k: Answer.of(v) for k, v in session.run(row).items()} for row in rows]
    write_bundle(
        bundle,
        Contents(
            signature=opened.signature,
            payloads=[(payload, data)],
            golden=Golden(tuple(rows), tuple(told), 0.01),
            history=opened.history,
            notes={},
            names=names,
        ),
    )
    return onnx, bundle, rows[0]


def bare(engine: str, onnx: Path, feed: Feed) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Opening in the engine's own words, and opening and calling once."""
    if engine == "onnxruntime":
        import onnxruntime

        def opened() -> Any:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            return onnxruntime.InferenceSession(
                str(onnx), options, providers=["CPUExecutionProvider"]
            )

        return opened, lambda: opened().run(None, feed)
    import openvino

    core = openvino.Core()
    config = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }

    def requested() -> Any:
        return core.compile_model(core.read_model(str(onnx)), "CPU", config).create_infer_request()

    return requested, lambda: requested().infer(feed)


def ways(
    engine: str, onnx: Path, bundle: Path, folder: Path, feed: Feed
) -> dict[str, Callable[[], Any]]:
    """Each way of opening, by its name."""
    compiled = folder / f"{engine}-compiled.edl"
    add_compiled(bundle, compiled, threads=1)
    cache, emptied = folder / f"{engine}-cache", folder / f"{engine}-emptied"

    def first() -> Any:
        shutil.rmtree(emptied, ignore_errors=True)
        return edgedl.open(bundle, threads=1, cache=emptied)

    edgedl.open(bundle, threads=1, cache=cache).close()
    assert edgedl.open(bundle, threads=1, cache=cache).opened.cached
    assert edgedl.open(compiled, threads=1).opened.format == "compiled"
    opened, called = bare(engine, onnx, feed)
    return {
        BARE: opened,
        BARE + CALLED: called,
        "the bundle" + CALLED: lambda: edgedl.open(bundle, threads=1).run(feed),
        "the bundle": lambda: edgedl.open(bundle, threads=1),
        "the bundle, no golden answer": lambda: edgedl.open(bundle, threads=1, golden="none"),
        "the bundle, all golden answers": lambda: edgedl.open(bundle, threads=1, golden="all"),
        "the bundle, cached": lambda: edgedl.open(bundle, threads=1, cache=cache),
        "the bundle, first time with a cache": first,
        "a bundle with a compiled payload": lambda: edgedl.open(compiled, threads=1),
    }


def timed(found: Mapping[str, Callable[[], Any]], rounds: int, seed: int) -> dict[str, list[float]]:
    """Milliseconds of each way in each round; closing is not among them."""
    source = random.Random(seed)
    times: dict[str, list[float]] = {name: [] for name in found}
    for number in range(WARM_ROUNDS + rounds):
        order = list(found)
        source.shuffle(order)
        for name in order:
            start = perf_counter()
            session = found[name]()
            end = perf_counter()
            if number >= WARM_ROUNDS:
                times[name].append((end - start) * 1e3)
            del session
    return times


def row(engine: str, name: str, times: Mapping[str, list[float]]) -> dict[str, Any]:
    beside = BARE + CALLED if name.endswith(CALLED) else BARE
    ratio = bootstrap_ratio(times[name], times[beside])
    return {
        "engine": engine,
        "way": name,
        "p50_ms": statistics.median(times[name]),
        "ratio": ratio.to_json(),
        "milliseconds": times[name],
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [["engine", "way", "p50", "times the bare engine", "95 %", f"at most {LIMIT}"]]
    for one in rows:
        ratio = one["ratio"]
        kept = "" if one["way"].startswith(BARE) else "yes" if ratio["ratio"] <= LIMIT else "no"
        interval = f"{ratio['low']:.2f} to {ratio['high']:.2f}"
        p50 = f"{one['p50_ms']:.1f} ms"
        lines.append([one["engine"], one["way"], p50, f"{ratio['ratio']:.2f}", interval, kept])
    return markdown(lines, right=(2, 3))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="mobilenetv2", help="of the zoo")
    parser.add_argument("--file", type=Path, help="an ONNX file, with --samples, instead")
    parser.add_argument("--samples", type=Path, help="its inputs, an .npz file")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "edgedl" / "zoo")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.file is None:
        entry = fetch(arguments.model, arguments.cache)
        name, model, samples = entry.name, entry.model, entry.samples
    else:
        name, model, samples = arguments.file.stem, arguments.file, arguments.samples
    rows = []
    sizes = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for engine in ENGINES:
            onnx, bundle, feed = written(engine, model, open_npz(samples), folder)
            sizes[engine] = {"onnx": onnx.stat().st_size, "bundle": bundle.stat().st_size}
            times = timed(ways(engine, onnx, bundle, folder, feed), arguments.rounds, seed=0)
            rows += [row(engine, way, times) for way in times]
    document = {
        "model": name,
        "bytes": sizes,
        "rounds": arguments.rounds,
        "threads": 1,
        "limit": LIMIT,
        "machine": this_machine().to_json(),
        "rows": rows,
    }
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "opening.json").write_text(json.dumps(document, indent=1) + "\n")
    (arguments.results / "opening.md").write_text(table(rows) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
