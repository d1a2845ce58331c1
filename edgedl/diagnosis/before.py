"""What is wrong before any quantizer: samples that the model does not expect, or its export."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgedl.core.errors import BadModel, EdgeError
from edgedl.core.memory import usable_cores
from edgedl.core.model import Model
from edgedl.core.samples import Samples
from edgedl.diagnosis.losses import Bounded, bounded_mean, loss
from edgedl.passes.calibrate import watching
from edgedl.passes.graph import read
from edgedl.report.diagnosed import Cause
from edgedl.runtime import any_engine, engine, installed_engines
from edgedl.runtime.session import Session

MOST_TRIED, FEW = 64, 4
AT_ONCE = 32
TOLERANCE = 0.01
# Without labels the lead of the first answer over the second must grow by half, with labels the
# accuracy by a twentieth, and by more than chance.
MORE_LEAD, MORE_RIGHT = 1.5, 0.05
# Of ranges, in lengths of what calibration saw: another scale altogether, and the same.
FAR_OFF, NEARLY = 0.4, 0.2
MEAN = np.asarray([0.485, 0.456, 0.406], np.float32)
STD = np.asarray([0.229, 0.224, 0.225], np.float32)
Change = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Mistake:
    """A usual mistake: what it is, how the samples would be right, and what mends them."""

    words: str
    change: Change
    mend: str
    colours: bool


def _along(values: np.ndarray, array: np.ndarray, axis: int) -> np.ndarray:
    return values.reshape([-1 if i == axis else 1 for i in range(array.ndim)])


MISTAKES: Sequence[Mistake] = (
    Mistake("the order of colours is the other one (RGB or BGR)",
            lambda x, axis: np.flip(x, axis), "x[:, ::-1], or x[..., ::-1] where colours come last",
            True),
    Mistake("values are 0 to 255 where the model expects 0 to 1",
            lambda x, _: x / np.float32(255), "x / 255", False),
    Mistake("values are 0 to 1 where the model expects 0 to 255",
            lambda x, _: x * np.float32(255), "x * 255", False),
    Mistake("values are 0 to 255 where the model expects -1 to 1",
            lambda x, _: x / np.float32(127.5) - 1, "x / 127.5 - 1", False),
    Mistake("values are 0 to 1 where the model expects -1 to 1",
            lambda x, _: x * 2 - 1, "x * 2 - 1", False),
    Mistake("values are -1 to 1 where the model expects 0 to 1",
            lambda x, _: (x + 1) / 2, "(x + 1) / 2", False),
    Mistake("mean and standard deviation (ImageNet's) were not taken out",
            lambda x, axis: (x - _along(MEAN, x, axis)) / _along(STD, x, axis),
            "(x - mean) / std", True),
    Mistake("ImageNet's mean and standard deviation were taken out of 0 to 255 undivided",
            lambda x, axis: (x / 255 - _along(MEAN, x, axis)) / _along(STD, x, axis),
            "(x / 255 - mean) / std", True),
    Mistake("mean and standard deviation were taken out, and should not be",
            lambda x, axis: x * _along(STD, x, axis) + _along(MEAN, x, axis), "x * std + mean",
            True),
)  # fmt: skip


def preprocessing(
    model: Model, samples: Samples, spans: Mapping[str, tuple[float, float]]
) -> Cause | None:
    """The usual mistake, if undoing one makes the float model much surer, or right much more often.

    Args:
        spans: the ranges that quantizers give to inputs: what calibration saw.
    """
    name = next((t.name for t in model.signature.inputs if t.dtype == "float32"), None)
    some = samples.take(range(min(MOST_TRIED, len(samples))))
    labels = some.chosen_labels
    classes = labels is not None and labels.dtype.kind in "iu" and labels.ndim == 1
    if name is None:
        return None
    first = some.feed(0)[name]
    axis = next((i for i in (1, first.ndim - 1) if first.ndim >= 3 and first.shape[i] == 3), None)
    best: tuple[float, Mistake, str] | None = None
    with any_engine().open_model(model.path, settings={}, threads=usable_cores()) as session:
        plain = _scores(session, some, name, None, axis, labels if classes else None)
        if plain is None:
            return _by_range(some, name, axis, spans.get(name))
        for mistake in MISTAKES:
            if mistake.colours and axis is None:
                continue
            changed = _scores(session, some, name, mistake, axis, labels if classes else None)
            if changed is None:
                continue
            line = _better(plain, changed, classes=classes)
            if not classes and mistake is not MISTAKES[0]:
                fits = name in spans and _fits(some, name, mistake, axis, spans[name])
                line = line if fits else None
            if line is not None and (best is None or changed.mean() > best[0]):
                best = (float(changed.mean()), mistake, line)
    return None if best is None else _told(best[1], name, best[2])


def _told(mistake: Mistake, name: str, evidence: str) -> Cause:
    return Cause(
        "preprocessing",
        f"the samples are not what the model expects: {mistake.words}",
        None,
        (evidence,),
        f"mend input `{name}`: {mistake.mend}; then np.savez again",
    )


def _by_range(
    samples: Samples, name: str, axis: int | None, span: tuple[float, float] | None
) -> Cause | None:
    """The mistake that turns what calibration saw into what the samples are, where answers without
    classes tell nothing."""
    if span is None:
        return None
    arrays = [feed[name] for feed in samples]
    now = _misfit(arrays, span)
    found = []
    for mistake in MISTAKES[1:]:
        if not mistake.colours or axis is not None:
            mended = [mistake.change(a, axis if axis is not None else 1) for a in arrays]
            found.append((_misfit(mended, span), mistake))
    least, mistake = min(found, key=lambda one: one[0])
    if now < FAR_OFF or least > NEARLY:
        return None
    low, high = (float(end([end(a) for a in arrays])) for end in (np.min, np.max))
    evidence = (
        f"calibration saw `{name}` from {span[0]:.3g} to {span[1]:.3g}, these samples span"
        f" {low:.3g} to {high:.3g}; mended, they would fit"
    )
    return _told(mistake, name, evidence)


def _misfit(arrays: Sequence[np.ndarray], span: tuple[float, float]) -> float:
    """How far the ends of arrays, or 0, lie from those of a range, in its lengths."""
    low = min(0.0, *(float(array.min()) for array in arrays))
    high = max(0.0, *(float(array.max()) for array in arrays))
    length = max(span[1] - span[0], 1e-30)
    return max(abs(low - span[0]), abs(high - span[1])) / length


def _scores(
    session: Session,
    samples: Samples,
    name: str,
    mistake: Mistake | None,
    axis: int | None,
    labels: np.ndarray | None,
) -> np.ndarray | None:
    """Of each sample whether it is right, or the lead of the first answer in units of the spread
    of all; None where the model has no classes, or always the same answer."""
    found, chosen = [], set()
    for i, feed in enumerate(samples):
        if mistake is not None:
            changed = mistake.change(feed[name], axis if axis is not None else 1)
            feed[name] = np.ascontiguousarray(changed, np.float32)
        answer = next(iter(session.run(feed).values()))
        scores = answer.reshape(-1).astype(np.float64)
        if (
            answer.shape[-1:] != scores.shape
            or scores.size < 3
            or answer.dtype.kind != "f"
            or not np.isfinite(scores).all()
        ):
            return None
        chosen.add(int(np.argmax(scores)))
        if labels is not None:
            found.append(float(np.argmax(scores) == labels[i]))
        else:
            second, top = np.partition(scores, -2)[-2:]
            found.append(float((top - second) / max(scores.std(), 1e-12)))
    if mistake is not None and len(chosen) == 1 and labels is None:
        return None
    return np.asarray(found)


def _better(plain: np.ndarray, changed: np.ndarray, *, classes: bool) -> str | None:
    gain: Bounded = bounded_mean(changed - plain)
    if gain.low <= 0:
        return None
    a, b = float(plain.mean()), float(changed.mean())
    if classes:
        return (
            f"undone, top1 of the float model goes from {a:.3f} to {b:.3f} on {len(plain)} samples"
            if gain.value >= MORE_RIGHT
            else None
        )
    return (
        f"undone, the lead of its first answer grows from {a:.2f} to {b:.2f} standard deviations"
        if b >= MORE_LEAD * a
        else None
    )


def _fits(
    samples: Samples, name: str, mistake: Mistake, axis: int | None, span: tuple[float, float]
) -> bool:
    """Whether what calibration saw is what the samples would be once mended, and are not now."""
    ends = max(abs(span[0]), abs(span[1]), 1e-30)
    feeds = [feed[name] for feed in samples]
    now = max(float(np.abs(array).max()) for array in feeds) / ends
    mended = max(
        float(np.abs(mistake.change(array, axis if axis is not None else 1)).max())
        for array in feeds
    )
    return 0.5 <= mended / ends <= 1.5 and not 0.5 <= now <= 1.5


def export(
    model: Model, samples: Samples, reference: Sequence[Mapping[str, np.ndarray]]
) -> Iterator[Cause]:
    """A float model that answers the same whatever it is asked, or otherwise on another engine."""
    again = "export it again and compare: edgedl eval A.onnx B.onnx --samples S.npz"
    first = next(iter(reference[0].values()))
    if first.dtype.kind == "f" and len(reference) > 1:
        answers = [next(iter(answer.values())) for answer in reference]
        same = all(a.shape == first.shape and np.allclose(a, first, rtol=1e-6) for a in answers)
        if same and _unlike(samples, len(reference)):
            yield Cause(
                "wrong_export",
                "the float model answers the same to every sample: it was exported wrongly",
                None,
                (f"{len(answers)} unlike samples, one answer",),
                again,
            )
    for name in installed_engines():
        if name == any_engine().name:
            continue
        try:
            with engine(name).open_model(
                model.path, settings={}, threads=usable_cores()
            ) as session:
                losses = [
                    loss(expected, session.run(samples.feed(i)))
                    for i, expected in enumerate(reference[:FEW])
                ]
        except EdgeError:
            continue
        if np.mean(losses) > TOLERANCE:
            yield Cause(
                "wrong_export",
                f"the float model answers otherwise on {name} than on {any_engine().name}",
                None,
                (f"{100 * float(np.mean(losses)):.2g} % of the answers' power differs",),
                again,
            )


def _unlike(samples: Samples, count: int) -> bool:
    first = samples.feed(0)
    return any(
        not np.array_equal(first[name], array)
        for i in range(1, count)
        for name, array in samples.feed(i).items()
    )


def raise_not_finite(model: Model, samples: Samples, sample: int, whose: str) -> None:
    """Name the first layer that answers a sample with what is not finite.

    Raises:
        BadModel: always.
    """
    one = samples.take([sample])
    names = [
        value.name or "" for node in read(model.path).graph for value in node.outputs if value.name
    ]
    layer = None
    for start in range(0, len(names), AT_ONCE):
        with watching(model, one, names[start : start + AT_ONCE]) as session:
            seen = session.run(one.feed(0))
        for name in names[start : start + AT_ONCE]:
            array = seen.get(name)
            if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
                layer = name
                break
        if layer:
            break
    maker = next(
        (n.op_type for n in read(model.path).graph if layer in {v.name for v in n.outputs}), ""
    )
    raise BadModel(
        f"{whose} makes NaN or infinity on sample {sample}; first in `{layer}` ({maker})",
        where=str(model.path),
        hint="export it again, or keep that layer in float32; `edgedl inspect` shows the model",
    )
