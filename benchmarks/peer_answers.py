"""Opens whatever a peer made, and says how alike it answers to the float model.

    python peer_answers.py JOB.json OUT.json

in a fresh process, so that what crashes takes nobody along. JOB names the file, its engine and
settings, the samples, and the reference: the float model's answers, which the job that `is_float`
writes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from peer_agreement import Answers, has_classes

from edgedl.benchmark.accuracy import metric_for
from edgedl.core.errors import EdgeError
from edgedl.core.model import Signature, Tensor
from edgedl.core.samples import Samples, open_npz
from edgedl.core.stats import AgreementMeter
from edgedl.runtime import engine
from edgedl.runtime.artifact import find_artifact
from edgedl.runtime.session import Session

WARM = 3


@dataclass(frozen=True)
class Job:
    """What is to be run.

    `signature` is that of the float model, by whose names samples are fed and answers compared.
    """

    path: str
    engine: str | None
    precision: str
    threads: int
    samples: str
    reference: str
    signature: Mapping[str, Any]
    shapes: Mapping[str, list[int]]
    is_float: bool = False


class Renamed:
    """A session under the float model's names, where a peer gave others or dropped an input."""

    def __init__(self, inner: Session, inputs: Mapping[str, str], outputs: list[str]) -> None:
        self.inner, self.inputs, self.outputs = inner, inputs, outputs
        self.signature = inner.signature

    def run(self, inputs: Mapping[str, np.ndarray]) -> Answers:
        found = self.inner.run({theirs: inputs[ours] for theirs, ours in self.inputs.items()})
        return dict(zip(self.outputs, found.values(), strict=True))

    def close(self) -> None:
        self.inner.close()


def open_file(
    path: Path, engine_name: str | None, precision: str, threads: int, signature: Signature
) -> Session:
    """A session of a bundle, or of a model in the engine's float precision that is given."""
    if path.suffix == ".edl":
        inner: Session = find_artifact(path, engine_name).open(threads)
    else:
        assert engine_name is not None
        settings = {"precision": precision} if engine_name == "openvino" else {}
        inner = engine(engine_name).open_model(path, settings=settings, threads=threads)
    ours, outputs = names(signature.inputs), names(signature.outputs)
    theirs = names(inner.signature.inputs)
    if set(theirs) == set(ours) and names(inner.signature.outputs) == outputs:
        return inner
    known = set(theirs) <= set(ours)
    pairs = zip(theirs, theirs if known else ours, strict=True)
    return Renamed(inner, dict(pairs), outputs)  # type: ignore[return-value]


def names(tensors: tuple[Tensor, ...]) -> list[str]:
    return [tensor.name for tensor in tensors]


def open_contestant(entry: Mapping[str, Any], threads: int) -> Session:
    """What the fresh process of a contest calls."""
    settings = entry["settings"]
    signature = Signature.from_json(settings["signature"])
    return open_file(
        Path(entry["path"]), settings["engine"], settings["precision"], threads, signature
    )


def bind(samples: Path, signature: Signature, shapes: Mapping[str, list[int]]) -> Samples:
    """The samples as the float model takes them, with these shapes fixed."""
    inputs = tuple(
        Tensor(t.name, t.dtype, tuple(shapes[t.name]) if t.name in shapes else t.shape)
        for t in signature.inputs
    )
    return open_npz(samples).bind(Signature(inputs, signature.outputs))


def answer(job: Job) -> dict[str, Any]:
    """Agreement and accuracy over all samples, and by sample; and the median call, roughly."""
    signature = Signature.from_json(job.signature)
    bound = bind(Path(job.samples), signature, job.shapes)
    session = open_file(Path(job.path), job.engine, job.precision, job.threads, signature)
    answers, times = [], []
    for feed in bound:
        begun = perf_counter()
        given = session.run(feed)
        times.append(perf_counter() - begun)
        # Some sessions write their next answers into the same arrays.
        answers.append({name: np.array(array) for name, array in given.items()})
    session.close()
    reference = Path(job.reference)
    if job.is_float:
        write(reference, answers)
    expected = read(reference, list(answers[0]), len(answers))
    classes = has_classes(expected)
    return {
        "rough_ms": 1e3 * float(np.median(times[WARM:] or times)),
        "agreement": agreement(expected, answers, classes),
        "by_sample": [agreement([e], [a], classes) for e, a in zip(expected, answers, strict=True)],
        "accuracy": accuracy(bound, answers),
    }


def agreement(
    expected: list[Answers], given: list[Answers], classes: bool
) -> dict[str, float | int | None]:
    """As edgedl's own, but that whether there are classes is told from all answers together."""
    meter = AgreementMeter()
    same: list[np.ndarray] = []
    for one, other in zip(expected, given, strict=True):
        meter.add(one, other)
        x, y = (next(iter(answer.values())) for answer in (one, other))
        if classes:
            same.append(np.ravel(x.argmax(-1) == y.argmax(-1) if x.shape == y.shape else False))
    top1 = float(np.mean(np.concatenate(same))) if same else None
    return meter.result().to_json() | {"top1": top1}


def accuracy(samples: Samples, answers: list[Answers]) -> float | None:
    metric, labels = metric_for(samples, None), samples.chosen_labels
    if metric is None or labels is None:
        return None
    return metric.score(metric.rows((a, y, {}) for a, y in zip(answers, labels, strict=True)))


def write(path: Path, answers: list[Answers]) -> None:
    arrays: dict[str, Any] = {
        f"{i}.{k}": array for i, one in enumerate(answers) for k, array in enumerate(one.values())
    }
    partial = path.with_name("." + path.name)
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    partial.replace(path)


def read(path: Path, outputs: list[str], count: int) -> list[Answers]:
    with np.load(path, allow_pickle=False) as arrays:
        return [{name: arrays[f"{i}.{k}"] for k, name in enumerate(outputs)} for i in range(count)]


def main() -> int:
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    try:
        found = answer(job)
    except EdgeError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    Path(sys.argv[2]).write_text(json.dumps(found))
    return 0


def write_job(path: Path, job: Job) -> None:
    path.write_text(json.dumps(asdict(job)))


if __name__ == "__main__":
    sys.exit(main())
