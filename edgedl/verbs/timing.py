"""Models timed side by side, and held against what was timed before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedl.benchmark.bench import bench as run_bench
from edgedl.benchmark.gate import Against, Gated, gate, read_baseline
from edgedl.benchmark.result import BenchReport
from edgedl.benchmark.unlike import library_differences
from edgedl.core.errors import BadOption, EdgeError
from edgedl.core.progress import Progress, silent
from edgedl.inputs import (
    ProcessingSource,
    SampleSource,
    load_model,
    open_inputs,
)
from edgedl.runtime.artifact import engine_of_target, find_model
from edgedl.runtime.bundle import is_bundle
from edgedl.runtime.sign.admit import TrustSource
from edgedl.runtime.sign.sealed import KeySource
from edgedl.verbs.artifacts import opened_at, with_shapes


def bench(
    models: Sequence[str | Path],
    *,
    target: str | None = None,
    samples: SampleSource | None = None,
    preprocess: ProcessingSource | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    threads: int = 1,
    seconds: float = 10.0,
    pin: bool = True,
    modes: Mapping[str, Mapping[str, Any]] | None = None,
    metric: str | None = None,
    anyway: bool = False,
    seed: int = 0,
    trust: TrustSource | None = None,
    key: KeySource | None = None,
    progress: Progress = silent,
) -> BenchReport:
    """Time models side by side; ONNX files run in float32 on the target's engine.

    Args:
        preprocess: what turns raw files into inputs, as a YAML file or a value, where samples are
            a folder of them; what the bundles carry where None.
        modes: further modes by name, each with its options: `profile`, `throughput` (`batches`,
            `streams`), `load` (`rates` or `p99_ms`, `seed`), `energy` (`windows`), all with
            `seconds`.
        anyway: time even where the machine cannot give honest figures.
        trust, key: those of `edgedl.open`, for every bundle among the models. The processes in
            which they are timed get keys by a pipe; none is written down.

    Raises:
        EdgeError: a file is unsound, its engine is missing, or the inputs do not fit.
    """
    engine_name = engine_of_target(target)
    paths = [str(_shaped(path, shapes)) if shapes else str(path) for path in models]
    given = processing = None
    if samples is None and preprocess is not None:
        raise BadOption(
            "--preprocess goes with --samples", hint="--samples FOLDER of images or WAV files"
        )
    if samples is not None:
        opened = [opened_at(path, trust) for path in models]
        given, processing = open_inputs(samples, preprocess, opened)
    return run_bench(
        paths,
        names=[str(path) for path in models],
        engine=engine_name,
        samples=given,
        postprocess=None if processing is None else processing.postprocess,
        threads=threads,
        seconds=seconds,
        pin=pin,
        modes=modes,
        metric=metric,
        anyway=anyway,
        seed=seed,
        trust=trust,
        key=key,
        progress=progress,
    )


def bench_against(
    models: Sequence[str | Path], baseline: str | Path, limit: float, **options: Any
) -> Against:
    """Time models and hold them against an earlier `edgedl bench --json`.

    Where anything is red, all of them are timed once more, and red is what is so again.

    Args:
        limit: the slow-down that is allowed, as a fraction.
        options: those of `bench`.

    Returns:
        The report, and a row for each model, or why the baseline does not fit what was timed.

    Raises:
        EdgeError: as `bench`, or the file is no baseline.
    """
    path = Path(baseline)
    old = read_baseline(path)
    found = bench(models, **options)
    differences = library_differences(old["machine"], found.machine)
    rows: tuple[Gated, ...] = ()
    again, refused = False, None
    try:
        rows = gate(found.to_json(), old, limit, path)
        if any(row.red for row in rows):
            second = gate(bench(models, **options).to_json(), old, limit, path)
            rows = tuple(b if a.red else a for a, b in zip(rows, second, strict=True))
            again = True
    except EdgeError as error:
        rows, refused = (), error
    return Against(found, path, limit, rows, again, differences, refused)


def _shaped(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    found = find_model(path)
    return found if is_bundle(found) else with_shapes(load_model(found), shapes).path
