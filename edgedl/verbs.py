"""The verbs beside `compress`: each opens files, calls one room, and gives plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import edgedl
from edgedl.benchmark.answers import answered
from edgedl.benchmark.bench import bench as run_bench
from edgedl.benchmark.bench import number_twins
from edgedl.benchmark.gate import Against, Gated, gate, read_baseline
from edgedl.benchmark.machine import INT8_FLAGS, energy_counters, processor_of, this_machine
from edgedl.benchmark.result import BenchReport
from edgedl.benchmark.unlike import library_differences
from edgedl.core.errors import BadOption, EdgeError, Unsupported
from edgedl.core.model import Model
from edgedl.core.progress import Progress, silent
from edgedl.core.registry import installed, load, version
from edgedl.core.store import check_writable, default_store
from edgedl.core.target import Processor
from edgedl.inputs import (
    ProcessingSource,
    SampleSource,
    find_processing,
    load_model,
    open_inputs,
)
from edgedl.report.diagnosed import Diagnosis
from edgedl.runtime import ENGINES, ON_GPU, engine, how_to_get, installed_engines, session_of
from edgedl.runtime.artifact import Artifact, engine_of_target, find_artifact, find_model
from edgedl.runtime.bundle import Bundle, is_bundle, open_bundle
from edgedl.runtime.run import write_answers
from edgedl.runtime.session import Session
from edgedl.runtime.sign.admit import TrustSource
from edgedl.runtime.sign.sealed import KeySource
from edgedl.runtime.sign.verify import envelopes_of

ANOTHER = "answers of another processor"


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
        opened = [_opened(path, trust) for path in models]
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
    return found if is_bundle(found) else _fixed(load_model(found), shapes).path


def _fixed(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    found: Model = load("edgedl.passes.shapes:Shapes", "fixing a shape")(shapes)(model)
    return found


def evaluate(
    models: Sequence[str | Path],
    samples: SampleSource,
    *,
    preprocess: ProcessingSource | None = None,
    target: str | None = None,
    metric: str | None = None,
    threads: int | None = None,
    trust: TrustSource | None = None,
    key: KeySource | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """A metric of each model on labelled samples, and how alike it answers to the first.

    Without labels, a named metric takes the first model's answers for them. A metric that fails at
    some sample costs its model's row its figures; what the samples before make is in the row.

    Args:
        metric: a name of `edgedl.benchmark.metrics.METRICS` with its settings, or `module:function`
            of your own; where None, what the labels suggest.
        preprocess: what turns raw files into inputs, where samples are a folder of them; what the
            bundles carry where None.
        target: an engine, or a processor of `edgedl.core.target.PROCESSORS`, whose answers are then
            foretold.
        trust, key: those of `edgedl.open`, for every bundle among the models.

    Returns:
        `metric`, `figure`, its name in its field, `foretold`, how answers of another processor came
        about, and `rows`, each with `artifact`, `engine`,
        `value` (more is better), `figure` (in its usual direction), `samples`, `agreement`,
        `difference` from the first, `against_first` without labels, and `failed`.

    Raises:
        EdgeError: a file is unsound, its engine is missing, or the samples do not fit.
    """
    engine_name, processor = engine_of_target(target), processor_of(target)
    opened = [_opened(path, trust) for path in models]
    given, processing = open_inputs(samples, preprocess, opened)
    if processing is None and (metric or "").partition(":")[0] == "detection":
        processing = find_processing(None, opened)
    artifacts = [_artifact(path, engine_name, trust, key) for path in models]
    names = number_twins([str(artifact.path) for artifact in artifacts])
    named = dict(zip(names, artifacts, strict=True))
    boxes = None if processing is None else processing.boxes
    foretold: list[str] = []
    if processor is not None:
        tell = load("edgedl.search.foretold:told_of", ANOTHER)
        named = {n: _there(one, load_model(one.path), processor) for n, one in named.items()}
        foretold = tell(processor, named)
    found = answered(named, given, metric, threads, progress, boxes=boxes)
    told = [one.accuracy or one.against_first for one in found.values()]
    nothing = {"metric": metric, "figure": {"name": None}}
    first: Mapping[str, Any] = next((one for one in told if one is not None), nothing)
    rows = [
        {
            "artifact": name,
            "engine": artifact.engine,
            "precision": artifact.precision,
            "value": None if one.accuracy is None else one.accuracy["value"],
            "figure": None if one.accuracy is None else one.accuracy["figure"]["value"],
            "samples": one.samples,
            "agreement": one.agreement,
            "difference": one.difference,
            "against_first": one.against_first,
            "failed": None if one.failed is None else str(one.failed),
        }
        for (name, artifact), one in zip(named.items(), found.values(), strict=True)
    ]
    figure = first["figure"]["name"]
    return {"metric": first["metric"], "figure": figure, "foretold": foretold, "rows": rows}


def _opened(path: str | Path, trust: TrustSource | None) -> Path | Bundle:
    """The bundle at a path, by whom it is trusted to be; anything else as it is."""
    found = find_model(path)
    return open_bundle(found, sparing=True, trust=trust) if is_bundle(found) else found


def _artifact(
    path: str | Path, engine_name: str | None, trust: TrustSource | None, key: KeySource | None
) -> Artifact:
    """What is run of a model; an ONNX file, which nobody signs, stands beside trusted bundles."""
    found = find_model(path)
    asked = trust if is_bundle(found) else None
    return find_artifact(found, engine_name, trust=asked, key=key)


def _there(artifact: Artifact, model: Model, processor: Processor) -> Artifact:
    found: Artifact = load("edgedl.search.foretold:as_there", ANOTHER)(artifact, model, processor)
    return found


def diagnose(
    model: str | Path,
    compressed: str | Path,
    samples: SampleSource,
    *,
    preprocess: ProcessingSource | None = None,
    target: str | None = None,
    metric: str | None = None,
    seconds: float = 12.0,
    machine: Mapping[str, Any] | None = None,
    trust: TrustSource | None = None,
    progress: Progress = silent,
) -> Diagnosis:
    """Why a compressed model, of any tool, answers worse than its float model.

    Args:
        preprocess: what turns raw files into inputs, where samples are a folder of them; what the
            bundle carries where None.
        seconds: budget for measuring operators one by one.
        machine: what it is to run on, as `doctor()["machine"]` tells it; where None, the processor
            that the target names, or this one.
        trust: that of `edgedl.open`, for every bundle of the two.

    Raises:
        EdgeError: a file is unsound, the pair does not fit, or the samples do not. BadKey: a bundle
            is encrypted: its graph would have to be written to disk in clear.
    """
    diagnose_pair = load("edgedl.diagnosis.pair:diagnose_pair", "`edgedl diagnose`")
    pair_of = load("edgedl.diagnosis.pair:pair_of", "`edgedl diagnose`")
    processor = processor_of(target)
    if processor is not None and machine is None:
        machine = processor.machine()
    first, quantized = load_model(model, trust=trust), load_model(compressed, trust=trust)
    artifact = _artifact(compressed, engine_of_target(target), trust, None)
    named = str(samples) if isinstance(samples, (str, Path)) else "S.npz"
    if processor is not None:
        artifact = _there(artifact, quantized, processor)
    pair = pair_of(first, quantized, artifact, str(model), named)
    given, _ = open_inputs(
        samples, preprocess, [_opened(path, trust) for path in (model, compressed)]
    )
    bound = given.bind(pair.model.signature)
    found: Diagnosis = diagnose_pair(
        pair, bound, metric=metric, seconds=seconds, machine=machine, progress=progress
    )
    return found


def run(
    bundle: str | Path,
    inputs: SampleSource,
    output: str | Path,
    *,
    preprocess: ProcessingSource | None = None,
    threads: int | None = None,
    target: str | None = None,
    trust: TrustSource | None = None,
    key: KeySource | None = None,
    progress: Progress = silent,
    notice: Callable[[str], None] | None = None,
    **opening: Any,
) -> int:
    """Run every sample and save the outputs by name, one row a sample; returns how many.

    Inputs may be raw files, a folder or one, where `preprocess` or the bundle says what turns them
    into inputs; an array `files` then names the rows. A bundle is opened as by `edgedl.open`, with
    its `trust` and `key` and what else it takes, `opening`; `notice` is told in a line of each
    payload that was skipped, and why.

    Raises:
        EdgeError: a file is unsound, its engine is missing, the inputs do not fit, or the outputs
            of two samples have unlike shapes.
    """
    check_writable(Path(output), bundle, inputs)
    path, engine_name = find_model(bundle), engine_of_target(target)
    model: Path | Bundle = path
    session: Session
    if trust is not None or is_bundle(path):
        model = open_bundle(path, sparing=True, trust=trust, key=key)
        session = session_of(model, threads=threads, engine_name=engine_name, **opening)
        if notice is not None:
            for skipped in session.opened.skipped:
                notice(f"skipped: {skipped}")
    else:
        session = find_artifact(path, engine_name).open(threads)
    with session:
        bound = open_inputs(inputs, preprocess, [model])[0].bind(session.signature)
        return write_answers(session, bound, output, progress)


def inspect(
    model: str | Path, *, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Any]:
    """What is in a model or a bundle, as plain JSON.

    Of an encrypted bundle it is what lies in clear: `encrypted` names the keys, and nothing is said
    of operators, parameters and weights. `signed` is what signatures claim; only `verify` proves
    one.

    Raises:
        BadModel, BadBundle: the file is missing or unsound.
    """
    path = find_model(model)
    bundle = open_bundle(path) if is_bundle(path) else None
    if bundle is not None and all(payload.sealed for payload in bundle.payloads):
        steps = [step.to_json() for step in bundle.history()]
        return {**bundle.signature.to_json(), **_around(bundle), "history": steps}
    loaded = load_model(path)
    if shapes:
        loaded = _fixed(loaded, shapes)
    inspect_model = load("edgedl.passes.inspect:inspect", "`edgedl inspect`")
    found: dict[str, Any] = inspect_model(loaded).to_json()
    return found if bundle is None else {**found, **_around(bundle)}


def _around(bundle: Bundle) -> dict[str, Any]:
    """What a bundle says around its models, which is never encrypted."""
    processing = bundle.processing()
    return {
        "bytes": bundle.size_bytes,
        "payloads": [
            {**payload.to_json(), "bytes": bundle.parts[payload.part].bytes}
            for payload in bundle.payloads
        ],
        "notes": dict(bundle.notes),
        "processing": None if processing is None else processing.to_json(),
        "encrypted": sorted({one.sealed.key for one in bundle.payloads if one.sealed is not None}),
        "signed": [{"key": one.key_id, **one.statement.to_json()} for one in envelopes_of(bundle)],
    }


def _builder(name: str) -> dict[str, Any] | None:
    """What the library of a GPU's engine can do where it can run nothing; None where it does not
    load."""
    module = load("edgedl.runtime.tensorrt.build:module", "building")
    ahead_of_time = load("edgedl.runtime.tensorrt.build:ahead_of_time", "building")
    try:
        library = module(name)
    except EdgeError:
        return None
    return {"version": str(library.__version__), "ahead_of_time": list(ahead_of_time(library))}


def doctor() -> dict[str, Any]:
    """What this machine can do and what is missing, as plain JSON."""
    machine = this_machine()
    engines: list[dict[str, Any]] = []
    for name in ENGINES:
        here = name in installed_engines()
        row: dict[str, Any] = {
            "name": name,
            "version": None,
            "precisions": [],
            "install": how_to_get(name),
            "builder": None,
        }
        if here:
            try:
                found = engine(name)
                # what an engine on a GPU finds out only by trying
                getattr(found, "ready", lambda: None)()
                row |= {"version": found.version, "precisions": list(found.precisions())}
            except Unsupported as error:
                row["install"] = f"{error}; {error.hint}" if error.hint else str(error)
            except (ImportError, OSError, EdgeError) as error:
                row["install"] = f"it is installed, but does not load ({error})"
        if name in ON_GPU and row["version"] is None and installed(name):
            row["builder"] = _builder(name)
        engines.append(row)
    tools = [
        {
            "name": package,
            "version": version(package),
            "for": purpose,
            "install": f"pip install 'edgedl[{extra}]'",
        }
        for package, extra, purpose in (
            ("onnx", "build", "reading and writing models"),
            ("onnx-ir", "build", "compressing"),
            ("onnxscript", "build", "compressing"),
            ("PyYAML", "build", "recipes and pre-processing"),
            ("Pillow", "images", "photos as samples, and before a network on the device"),
            ("torch", "train", "training; not needed to compress or to run"),
        )
    ]
    fast = sorted(INT8_FLAGS & set(machine.isa))
    if fast:
        int8 = f"fast: {', '.join(fast)}"
    elif "avx2" in machine.isa:
        int8 = "no VNNI: u8 x s8 products saturate at 16 bits, accuracy may fall, little is gained"
    else:
        int8 = "no int8 dot product found; gains will be small"
    return {
        "version": edgedl.__version__,
        "machine": machine.to_json(),
        "int8": int8,
        "engines": engines,
        "tools": tools,
        "energy": list(energy_counters()),
        "store": str(default_store().root),
    }
