"""What `edgedl serve` keeps of the engine's throughput, and how long it answers under load.

    python benchmarks/serve.py BUNDLE [--batch 8] [--minutes 10] [--limit-ms MS]
    python benchmarks/serve.py --model mobilenetv2 [--cache DIR]     float32, on each engine

First the bare engine's highest throughput at the batch, by calls from this process one after
another; then the service's in this same process, on the same session, by a closed loop of a client
in another process, in turns with the bare engine's; then requests of one sample as a Poisson
process at 80 % of the service's throughput. All on the loopback, bounded in time and number.
Writes `benchmarks/results/serve.json` and `serve.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import edgedl
from edgedl.benchmark.machine import this_machine
from edgedl.report.table import markdown
from edgedl.runtime.session import Session
from edgedl.service import sockets
from edgedl.service.batcher import Policy
from edgedl.service.model import Model, Service, Settings
from edgedl.service.run import SWITCH_S, Server

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
CASES = 16
SHARE = 0.8
LEAST_OF_BARE = 0.85
BATCHES_OF_LIMIT = 5


def cases(session: Session, size: int, folder: Path) -> Path:
    """Made-up samples of one row and the session's own answers, for the client."""
    random = np.random.default_rng(0)
    feeds = []
    for _ in range(CASES):
        feed = {}
        for tensor in session.signature.inputs:
            axes = [d if isinstance(d, int) else size for d in (tensor.shape or (1,))[1:]]
            drawn = random.standard_normal((1, *axes))
            whole = not tensor.dtype.startswith("float")
            feed[tensor.name] = (np.abs(drawn) if whole else drawn).astype(tensor.dtype)
        feeds.append(feed)
    first = session.signature.outputs[0].name
    answers = np.stack([session.run(feed)[first] for feed in feeds])
    inputs = {f"in:{name}": np.stack([feed[name] for feed in feeds]) for name in feeds[0]}
    np.savez(folder / "cases.npz", answers=answers, **inputs)
    return folder / "cases.npz"


def bare(session: Session, samples: Path, batch: int, seconds: float) -> float:
    """Samples a second of calls of `batch`, one after another, from a thread as a worker's."""
    with np.load(samples) as arrays:
        feed = {
            name[3:]: np.concatenate(
                list(np.resize(arrays[name], (batch, *arrays[name].shape[1:])))
            )
            for name in arrays.files
            if name.startswith("in:")
        }
    rates: list[float] = []

    def work() -> None:
        session.run(feed)
        calls, start = 0, perf_counter()
        while (now := perf_counter()) < start + seconds:
            session.run(feed)
            calls += 1
        rates.append(calls * batch / (now - start))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return rates[0]


@contextmanager
def served(model: Model, settings: Settings) -> Iterator[tuple[int, Service]]:
    """The service in this process, on a thread with a loop of its own, and its port."""
    listener = sockets.tcp("127.0.0.1", 0)
    listening = threading.Event()
    service = Service([model], settings)
    service.stop = lambda: None  # type: ignore[method-assign]  # the session lives on
    server = Server(service, listening=listening.set)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
    thread.start()
    listening.wait()
    try:
        yield listener.getsockname()[1], service
    finally:
        server.stop()
        thread.join()


def client(port: int, samples: Path, *words: Any) -> dict[str, Any]:
    """What a client's process printed."""
    command = [sys.executable, HERE / "serve_client.py", port, "bench", samples, *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measured(path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """A bundle's row."""
    settings = Settings(Policy(given.batch, given.max_wait_ms / 1e3))
    with edgedl.open(path, threads=given.threads) as session, tempfile.TemporaryDirectory() as work:
        samples = cases(session, given.size, Path(work))
        model = Model.of("bench", session, settings)
        batch = model.policy.max_batch
        many = ("--connections", given.connections, "--seconds", given.seconds)
        rates: dict[str, list[float]] = {"bare": [], "served": []}
        errors: dict[str, int] = {}
        for _ in range(given.rounds):
            rates["bare"].append(bare(session, samples, batch, given.seconds))
            with served(model, settings) as (port, service):
                found = client(port, samples, "closed", *many)
                held = service.metrics.batch_samples
                mean_batch = held.sums["bench"] / sum(held.counts["bench"])
            rates["served"].append(found["per_s"])
            errors = {k: errors.get(k, 0) + v for k, v in found["errors"].items()} | errors
        highest = statistics.median(rates["served"])
        engine = statistics.median(rates["bare"])
        rate = SHARE * highest
        limit_ms = given.limit_ms or given.max_wait_ms + BATCHES_OF_LIMIT * batch / engine * 1e3
        with served(model, settings) as (port, service):
            load = client(
                port, samples, "open", "--rate", rate, "--seconds", given.minutes * 60,
                "--connections", settings.policy.max_queue,
            )  # fmt: skip
            sizes = service.metrics.batch_samples
            load["mean_batch"] = sizes.sums["bench"] / sum(sizes.counts["bench"])
    return {
        "bundle": path.name, "batch": batch, "threads": given.threads, "alone": model.alone,
        "max_wait_ms": given.max_wait_ms, "bare_per_s": rates["bare"],
        "served_per_s": rates["served"], "share": highest / engine, "closed_errors": errors,
        "closed_mean_batch": mean_batch, "rate_per_s": rate, "limit_ms": limit_ms, "load": load,
        "enough": highest >= LEAST_OF_BARE * engine and not errors,
        "within": not load["errors"] and load["p99_ms"] <= limit_ms,
    }  # fmt: skip


def zoo_bundles(name: str, cache: Path | None, folder: Path) -> list[Path]:
    """A model of the zoo with a dynamic batch axis, in float32, as a bundle for each engine."""
    from zoo import CACHE, fetch

    from edgedl.backends import backend
    from edgedl.core.samples import open_npz
    from edgedl.passes.graph import open_model, to_ship
    from edgedl.runtime import engine, installed_engines
    from edgedl.runtime.golden import Answer, Golden
    from edgedl.runtime.writing import Contents, write_bundle

    entry = fetch(name, (cache or CACHE).expanduser())
    model = open_model(entry.model)
    feed = dict(open_npz(entry.samples).bind(model.signature).feed(0))
    paths = []
    for one in installed_engines():
        data, names = to_ship(model)
        with engine(one).open_model(data, settings={}, threads=1) as session:
            answers = {key: Answer.of(array) for key, array in session.run(feed).items()}
        path = folder / f"{name}-{one}.edl"
        write_bundle(
            path, Contents(signature=model.signature, golden=Golden((feed,), (answers,), 0.01),
            history=(), notes={}, payloads=[(backend(one).compile(data, "float32"), data)],
            names=names,
        ))  # fmt: skip
        paths.append(path)
    return paths


def table(rows: list[dict[str, Any]]) -> str:
    head = [
        "bundle", "batch", "engine alone, /s", "served, /s", "share", "load, /s", "minutes",
        "requests", "errors", "p50", "p99", "limit",
    ]  # fmt: skip
    lines = [head]
    for row in rows:
        load = row["load"]
        lines.append([
            f"`{row['bundle']}`", str(row["batch"]),
            f"{statistics.median(row['bare_per_s']):.0f}",
            f"{statistics.median(row['served_per_s']):.0f}", f"{row['share']:.1%}",
            f"{row['rate_per_s']:.0f}", f"{load['seconds'] / 60:.1f}", str(load["sent"]),
            str(sum(load["errors"].values())), f"{load['p50_ms']:.2f} ms",
            f"{load['p99_ms']:.2f} ms", f"{row['limit_ms']:.1f} ms",
        ])  # fmt: skip
    return markdown(lines, right=tuple(range(1, len(head))))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("bundles", nargs="*", type=Path)
    parser.add_argument("--model", help="of the zoo, with a dynamic batch axis")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-wait-ms", type=float, default=2.0)
    parser.add_argument("--limit-ms", type=float, help="of p99; by default the waiting and 5 calls")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--size", type=int, default=224, help="of dynamic axes but the first")
    given = parser.parse_args()
    sys.setswitchinterval(SWITCH_S)
    with tempfile.TemporaryDirectory() as folder:
        bundles = list(given.bundles)
        if given.model:
            bundles += zoo_bundles(given.model, given.cache, Path(folder))
        rows = [measured(path, given) for path in bundles]
    document = {"machine": this_machine().to_json(), "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "serve.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "serve.md").write_text(table(rows) + "\n")
    print(table(rows))
    if not all(row["enough"] and row["within"] for row in rows):
        raise SystemExit("a bar was missed")


if __name__ == "__main__":
    main()
