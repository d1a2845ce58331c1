"""Steps that shrink a trained network: each decided, trained, judged on the target, or undone."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgedl
from edgedl.core.errors import Diverged, EdgeError, NoGain, OutOfReach
from edgedl.core.fields import to_plain
from edgedl.core.registry import load, version
from edgedl.core.store import default_store, key_of
from edgedl.line.alike import like_original
from edgedl.line.begin import Line, content_digest, users_code
from edgedl.line.form import form_of
from edgedl.line.guided import guide_of
from edgedl.line.keep import BUNDLE, TOLD
from edgedl.line.shipped import compressed, exported
from edgedl.line.trained import deciding, fitted, key_of_guide, located
from edgedl.recipe import Compress
from edgedl.report.made import Shrink
from edgedl.runtime import engine as engine_of
from edgedl.search.memory import machine_parts
from edgedl.train.settings import Fit, OneCycle
from edgedl.train.settings import Step as ByEpochs

if TYPE_CHECKING:
    from torch import nn

    from edgedl.search.layer_times import LayerTimes
    from edgedl.train.distil.guide import Guide
    from edgedl.train.distil.settings import Distillation
    from edgedl.train.shrink.step import Ground, Step

DECIDED, REFIT, WEIGHTS = "decided.json", "refit.safetensors", "weights.safetensors"
# Of the training's epochs and rate, what a step's own training has where it does not say.
EPOCHS_SHARE, RATE_SHARE = 1 / 3, 0.1
SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class _State:
    """A network on its way, and what the target makes of it.

    Attributes:
        key: of all that made it.
        bundle: what would ship of it.
        told: what `compress` said of that.
        original: how alike that answers to the file that was brought, where one was.
    """

    key: str
    network: nn.Module
    bundle: Path
    told: Mapping[str, Any]
    original: Mapping[str, Any] | None


def shrunk(
    line: Line, network: nn.Module, key: str
) -> tuple[str, nn.Module, Path | None, tuple[Shrink, ...]]:
    """The key of all that made the network after the recipe's steps, that network, the file of its
    weights where a step trained it, and a row for each step.

    After each step the network is exported, compressed as the recipe says but for its effort and
    limits, and timed beside what it was before; a step that promises speed and brings none is
    undone, and so is one that promises bytes.

    Raises:
        EdgeError: a step cannot be taken; it is named with its line. What was trained is kept.
        OutOfReach: a step is asked for more than can be had, and nothing was trained before it;
            else it is left out.
    """
    steps = line.recipe.shrink
    if not steps:
        return key, network, None, ()
    network = load("edgedl.train.shrink.weights:plain_weights", "shrinking")(network)
    state = _judged(line, network, key)
    line.unshrunk = state.bundle
    rows = [_row("train", state, None, None)]
    guide = guide_of(line, network, is_trained=True)
    taken: list[Step] = []
    for place, step in enumerate(steps):
        before = state
        try:
            state = _stepped(line, step, before, guide, taken)
        except (NoGain, OutOfReach) as error:
            if isinstance(error, OutOfReach) and not _costs(line, steps[:place]):
                raise line.recipe.located(error, "shrink", place) from error
            why = _said(error)
            rows.append(_row(step.name, before, None, why))
            line.doubts.append(f"step {place + 1}, `{step.name}`, was left out: {why}")
            continue
        except Diverged as error:
            raise line.recipe.instead(error, "shrink", place) from error
        except EdgeError as error:
            raise located(line, guide, error, "shrink", place) from error
        against = _against(line, before, state)
        undone = _undone(step.promise, before, state, against)
        rows.append(_row(step.name, state, against, undone))
        if undone is not None:
            line.doubts.append(f"step {place + 1}, `{step.name}`, was undone: {undone}")
            state = before
        else:
            taken.append(step)
    weights = None if state.key == key else _weights(state)
    return state.key, state.network, weights, tuple(rows)


def _costs(line: Line, before: Sequence[Step]) -> bool:
    """Whether anything was trained so far, in steps that were undone, too."""
    return bool(line.settings.epochs) or any(
        settings_of(line.settings, step).epochs for step in before
    )


def _said(error: EdgeError) -> str:
    """Why a step is left out, and where less can be had, how much."""
    known = isinstance(error, OutOfReach) and error.hint
    return f"{error.message} ({error.hint})" if known else error.message


def check_steps(line: Line, network: nn.Module, guide: Guide | None) -> None:
    """Try steps on the network as it is before training. What a step makes of
    it may not be known by then, such as which layers are factored: steps behind one that foresees
    what it may come to are tried on that, too, and have to work on one of the two.

    Raises:
        EdgeError: one cannot be taken whatever is learned; it is named with its line.
    """
    network = load("edgedl.train.shrink.weights:plain_weights", "shrinking")(network)
    forms = [network]
    for place, step in enumerate(line.recipe.shrink):
        line.progress(f"trying {step.name}", place, len(line.recipe.shrink))
        with users_code(line.recipe):
            grounds = [_ground(line, step, one, guide) for one in forms]
            errors = [_refused(step, *one) for one in zip(forms, grounds, strict=True)]
        said = [error for error in errors if error is not None]
        if len(said) == len(forms):
            raise line.recipe.located(said[-1], "shrink", place) from said[-1]
        foreseen = step.foreseen(network, grounds[0])
        forms = forms if foreseen is None else [network, foreseen]


def _refused(step: Step, network: nn.Module, ground: Ground) -> EdgeError | None:
    """Why a step cannot be taken; None where it can."""
    try:
        step.check(network, ground)
    except EdgeError as error:
        return error
    return None


def _ground(line: Line, step: Step, network: nn.Module, guide: Guide | None, **more: Any) -> Ground:
    """What a step decides by."""
    ground_of = load("edgedl.train.shrink.ground:ground_of", "shrinking")
    found: Ground = ground_of(
        network, line.dataset.train, settings_of(line.settings, step), distil=_taught(line, guide),
        seed=line.recipe.seed, **more,
    )  # fmt: skip
    return found


def _taught(line: Line, guide: Guide | None) -> Distillation | None:
    return None if guide is None else line.recipe.distil


def _stepped(
    line: Line, step: Step, before: _State, guide: Guide | None, taken: Sequence[Step]
) -> _State:
    """What a step makes of a network, in all its rounds.

    Args:
        taken: the steps before it that stand.
    """
    network, key = copy.deepcopy(before.network), before.key
    for number in range(step.rounds):
        try:
            key = _taken(line, network, key, step, number, before, guide, taken)
        except (NoGain, OutOfReach) as error:
            if not number:
                raise
            line.doubts.append(f"`{step.name}` ended after round {number}: {_said(error)}")
            break
    return _judged(line, network, key)


def _taken(
    line: Line,
    network: nn.Module,
    key: str,
    step: Step,
    number: int,
    before: _State,
    guide: Guide | None,
    taken: Sequence[Step],
) -> str:
    """Take one round of a step in place, trained; the key of what came out."""
    sparse = not step.holds_zeros and any(one.makes_zeros for one in taken)
    settings = settings_of(line.settings, step)
    key = key_of(
        stage="shrink",
        before=key,
        step=to_plain(step),
        round=number,
        settings=deciding(settings),
        price=_priced_by(line, before) if step.is_priced else None,
        versions={"edgedl": edgedl.__version__, "torch": version("torch")},
        **key_of_guide(guide),
    )

    def build(folder: Path) -> None:
        line.progress(f"deciding on {step.name}", number, step.rounds)
        price = _price(line, before) if step.is_priced else None
        priced = None if price is None else price.price
        ground = _ground(
            line, step, network, guide, price=priced, keeps_zeros=sparse, progress=line.progress
        )
        change = step.decide(network, ground, number)
        said = [] if price is None else price.said
        text = json.dumps({"change": change, "said": said}, allow_nan=False)
        (folder / DECIDED).write_text(text, encoding="utf-8")
        better = step.refit(network, change, ground)
        if better:
            load("edgedl.train.checkpoint:write", "shrinking")(folder / REFIT, better, {})

    about = f"{step.name}, round {number + 1} of {step.rounds}" if step.rounds > 1 else step.name
    with users_code(line.recipe):
        folder = default_store().make(key, build)
        decided = json.loads((folder / DECIDED).read_text(encoding="utf-8"))
        step.apply(network, decided["change"])
        if (folder / REFIT).exists():
            better, _ = load("edgedl.train.checkpoint:read", "shrinking")(folder / REFIT)
            network.load_state_dict(better, strict=False)
    line.doubts += decided["said"]
    # Measured prices are others when measured again: what was decided tells, not what it was
    # decided by.
    key = key_of(stage="shrink", decided=key, change=decided["change"])
    hold_zeros = load("edgedl.train.shrink.sparsity:hold_zeros", "shrinking")
    zeros = sparse and hold_zeros(network)
    fitted(line, network, key, settings, guide, "shrink", about)
    step.settle(network)
    if zeros:
        load("edgedl.train.shrink.weights:release", "shrinking")(network)
    return key


def settings_of(settings: Fit, step: Step) -> Fit:
    """The training behind a step: the recipe's, shorter and at a lower rate where it says nothing
    else, its schedule shortened alike."""
    epochs, schedule = step.epochs, settings.schedule
    if epochs is None:
        epochs = max(1, round(settings.epochs * EPOCHS_SHARE))
    rate = settings.optimizer.lr * RATE_SHARE if step.lr is None else step.lr
    share = min(1.0, epochs / max(1, settings.epochs))
    if not isinstance(schedule, OneCycle):
        schedule = replace(schedule, warmup_epochs=schedule.warmup_epochs * share)
    if isinstance(schedule, ByEpochs):
        schedule = replace(schedule, at=tuple(max(1, round(one * share)) for one in schedule.at))
    optimizer = replace(settings.optimizer, lr=rate)
    return replace(settings, epochs=epochs, optimizer=optimizer, schedule=schedule)


def _priced_by(line: Line, before: _State) -> dict[str, Any]:
    """What decides prices of layers: the engine that would ship the network as it is, and the
    precision that it would ship in; float32 where the engine times no layers in that."""
    asked = judged_by(line)
    engine, precision = before.told["engine"], before.told["precision"]
    backend = load("edgedl.backends:backend", "shrinking")(engine)
    floats = ("float32", *backend.floats())
    if precision == "mixed":
        precision = asked.precision if asked.precision in floats else "int8"
    return {
        "engine": engine,
        "version": engine_of(engine).version,
        "precision": precision if precision in ("int8", *floats) else "float32",
        "threads": asked.threads,
        "machine": machine_parts(),
    }


def _price(line: Line, before: _State) -> LayerTimes:
    """The time of single layers."""
    by = _priced_by(line, before)
    of: type[LayerTimes] = load("edgedl.search.layer_times:LayerTimes", "shrinking")
    return of(by["engine"], by["precision"], by["threads"], progress=line.progress)


def _weights(state: _State) -> Path:
    """The file of a network's weights, none of them held to a form any more."""

    def build(folder: Path) -> None:
        write = load("edgedl.train.checkpoint:write", "shrinking")
        write(folder / WEIGHTS, state.network.state_dict(), {})

    return default_store().make(key_of(stage="weights", network=state.key), build) / WEIGHTS


def _judged(line: Line, network: nn.Module, key: str) -> _State:
    """The network as it would ship: exported, compressed with the least effort."""
    form = form_of(line, network)
    model = exported(line, form, key)
    folder = compressed(line, form, model, judged_by(line))
    told = json.loads((folder / TOLD).read_text(encoding="utf-8"))
    original = like_original(line, form, folder / BUNDLE)
    return _State(key, network, folder / BUNDLE, told, original)


def judged_by(line: Line) -> Compress:
    """How a network is compressed between steps: as the recipe says, with the least effort and
    without limits; in float32 where it ends before."""
    asked = line.recipe.compress or Compress(precision="float32")
    return replace(asked, effort="fast", max_drop=None, max_latency=None, max_bytes=None)


def _against(line: Line, before: _State, after: _State) -> Mapping[str, Any]:
    """How much faster what would ship now is, timed beside what would have shipped; kept."""
    threads, asked = judged_by(line).threads, line.recipe.bench
    seconds = SECONDS if asked is None else min(SECONDS, asked.seconds)
    key = key_of(
        stage="against",
        before=content_digest(before.bundle),
        after=content_digest(after.bundle),
        machine=machine_parts(),
        engines=[[one.told["engine"], engine_of(one.told["engine"]).version]
                 for one in (before, after)],
        threads=threads,
        seconds=seconds,
        edgedl=edgedl.__version__,
    )  # fmt: skip

    def build(folder: Path) -> None:
        bench = load("edgedl.benchmark.bench:bench", "timing")
        found = bench(
            [before.bundle, after.bundle], threads=threads, seconds=seconds, each_alone=False,
            progress=line.progress,
        ).to_json()  # fmt: skip
        pair = {key: found["pairs"][0][key] for key in ("ratio", "low", "high", "verdict")}
        pair["noise"] = found["noise_floor"]
        (folder / TOLD).write_text(json.dumps(pair), encoding="utf-8")

    folder = default_store().make(key, build)
    found: Mapping[str, Any] = json.loads((folder / TOLD).read_text(encoding="utf-8"))
    return found


def _undone(promise: str, before: _State, after: _State, against: Mapping[str, Any]) -> str | None:
    """Why a step is taken back; None where it kept its promise."""
    if promise == "speed" and against["verdict"] != "faster":
        low, high, noise = against["low"], against["high"], against.get("noise")
        beyond = f" beyond the noise of {noise:.0%}" if noise is not None and low > 1 else ""
        return (
            f"no faster on {after.told['engine']}{beyond}:"
            f" {against['ratio']:.2f}x [{low:.2f}, {high:.2f}]"
        )
    if promise == "bytes" and after.told["bytes"] >= before.told["bytes"]:
        return f"no smaller: {before.told['bytes']:,} to {after.told['bytes']:,} bytes"
    return None


def _row(
    name: str,
    state: _State,
    against: Mapping[str, Any] | None,
    undone: str | None,
) -> Shrink:
    accuracy = state.told["accuracy"]
    return Shrink(
        step=name,
        parameters=sum(parameter.numel() for parameter in state.network.parameters()),
        metric=None if accuracy is None else accuracy["figure"]["name"],
        float_figure=None if accuracy is None else accuracy["figure"]["baseline"],
        figure=None if accuracy is None else accuracy["figure"]["result"],
        agreement=state.told["agreement"],
        engine=state.told["engine"],
        precision=state.told["precision"],
        bytes=state.told["bytes"],
        float_bytes=state.told["baseline_bytes"],
        latency_ms=state.told["latency_ms"]["result"]["p50"],
        float_ms=state.told["latency_ms"]["baseline"]["p50"],
        speedup=against,
        undone=undone,
        original=state.original,
    )
