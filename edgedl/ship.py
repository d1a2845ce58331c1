"""A chosen model into a bundle, opened again and proven."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.backends import backend
from edgedl.core.errors import WrongAnswers
from edgedl.core.samples import Samples
from edgedl.core.store import atomic_write
from edgedl.passes.graph import to_ship
from edgedl.runtime import engine
from edgedl.runtime.bundle import Payload, write_bundle
from edgedl.runtime.check import check
from edgedl.runtime.golden import Answer, Golden, coarse
from edgedl.runtime.process import Processing
from edgedl.runtime.session import Operator
from edgedl.search.candidates import Trial, shipped_settings

GOLDEN_SHARE = 0.03
MOST_GOLDEN = 8
PROFILE_RUNS = 15
PRODUCTS = (
    "Conv", "Gemm", "MatMul", "FullyConnected", "Deconvolution", "Attention", "LSTM", "GRU", "RNN",
)  # fmt: skip


def ship(
    winner: Trial,
    samples: Samples,
    output: Path,
    threads: int,
    notes: Mapping[str, Any],
    processing: Processing | None = None,
) -> tuple[Operator, ...]:
    """Write the winner's bundle, open it again, and check its golden answers.

    What stood at `output` is replaced by a bundle that was proven, or not at all.

    Returns:
        The operators that the engine really runs, timed.

    Raises:
        EdgeError: the file cannot be written. WrongAnswers: the bundle answers otherwise.
    """
    golden = _golden(winner, samples, threads)
    built = backend(winner.candidate.engine)
    data, names = to_ship(winner.candidate.model)
    settings = shipped_settings(winner.candidate.settings, names)
    payload: Payload = built.compile(data, winner.candidate.precision, settings)
    with atomic_write(output) as work:
        write_bundle(
            work,
            signature=winner.candidate.model.signature,
            payloads=[(payload, data)],
            golden=golden,
            history=winner.candidate.model.history,
            notes=notes,
            names=names,
            processing=processing,
        )
        proof = check(work, threads=threads)
        if not proof.ok:
            raise WrongAnswers(
                f"the bundle does not answer as its model did ({proof.payloads[0].problem})",
                where=str(output),
                hint="please report this, with the model",
            )
    run = engine(payload.engine).operators(
        data, golden.inputs[0], settings=payload.settings, threads=threads, runs=PROFILE_RUNS
    )
    return tuple(run)


def _golden(winner: Trial, samples: Samples, threads: int) -> Golden:
    """Samples with the winner's answers, within 3 % of the model's bytes, one at least."""
    room = GOLDEN_SHARE * winner.candidate.model.bytes
    inputs, answers = [], []
    with winner.candidate.open(threads) as session:
        for feed in samples.take(range(min(MOST_GOLDEN, len(samples)))):
            stored = coarse(feed)
            inputs.append(stored)
            answers.append(
                {name: Answer.of(output) for name, output in session.run(stored).items()}
            )
            room -= sum(a.size for a in stored.values()) + sum(
                a.values.nbytes for a in answers[-1].values()
            )
            if room <= 0:
                break
    error = 10 ** (-winner.agreement.sqnr_db / 20)
    return Golden(tuple(inputs), tuple(answers), float(np.clip(2 * error, 0.01, 0.5)))


def precision_of(operators: Sequence[Operator]) -> str:
    """What the operators that do the work compute in: one precision, or `mixed`."""
    working = [o for o in operators if o.precision not in ("conversion", "integer")]
    products = [o.precision for o in working if any(name in o.kind for name in PRODUCTS)]
    kinds = set(products or [o.precision for o in working])
    if not kinds:
        return "float32"
    return kinds.pop() if len(kinds) == 1 else "mixed"


def count_operators(operators: Sequence[Operator]) -> dict[str, int]:
    """How many operators compute in int8, how many in float, and the conversions between."""
    found = Counter(o.precision for o in operators)
    floats = sum(found[name] for name in ("float32", "float64", "bf16", "float16"))
    return {"int8": found["int8"], "float": floats, "conversions": found["conversion"]}
