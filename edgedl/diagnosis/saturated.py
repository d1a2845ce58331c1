"""What a processor without VNNI would make of the int8 products, emulated and carried through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgedl.core.model import Model
from edgedl.core.samples import Samples
from edgedl.diagnosis.losses import loss
from edgedl.passes.emulate import Emulated

MOST_SAMPLES = 6


@dataclass(frozen=True)
class Saturated:
    """The losses of samples with and without saturation, and the operators that saturate: the
    share of noise in their results, the worst first."""

    exact: np.ndarray
    saturating: np.ndarray
    operators: tuple[tuple[str, float], ...]


def saturated(
    quantized: Model, engine: str, samples: Samples, reference: list[dict[str, np.ndarray]]
) -> Saturated | None:
    """The loss with sums kept in 16 bits beside that without; None where no sum can pass them.

    Raises:
        EngineFailed: the graph does not run. Missing: onnxruntime, which emulates.
    """
    few = samples.take(range(min(MOST_SAMPLES, len(reference))))
    with Emulated(quantized, engine, saturating=True) as there:
        if not there.operators:
            return None
        saturating = [loss(reference[i], there.run(feed)) for i, feed in enumerate(few)]
    with Emulated(quantized, engine, saturating=False) as here:
        exact = [loss(reference[i], here.run(feed)) for i, feed in enumerate(few)]
    ratios = {node: lost / max(power, 1e-300) for node, (lost, power) in there.noise.items()}
    worst = sorted(((n, r) for n, r in ratios.items() if r > 0), key=lambda e: -e[1])
    return Saturated(np.asarray(exact), np.asarray(saturating), tuple(worst))
