"""Steps that shrink a trained network: each decided, trained, judged on the target, or undone."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgedl
from edgedl.core.errors import Diverged, EdgeError, NoGain, Unsupported
from edgedl.core.fields import to_plain
from edgedl.core.layers import Price
from edgedl.core.registry import load, version
from edgedl.core.runs import run_folder
from edgedl.core.store import atomic_write, default_store, key_of
from edgedl.line.alike import like_original
from edgedl.line.begin import Line, content_digest
from edgedl.line.form import form_of
from edgedl.line.guided import guide_of
from edgedl.line.keep import BUNDLE, TOLD
from edgedl.line.shipped import compressed, exported
from edgedl.line.trained import deciding, fitted, key_of_guide
from edgedl.recipe import Compress
from edgedl.report.made import Shrink
from edgedl.search.memory import machine_parts
from edgedl.train.settings import Fit

if TYPE_CHECKING:
    from torch import nn

    from edgedl.train.distil.guide import Guide
    from edgedl.train.shrink.step import Step

CHANGE = "change.json"
# Of the training's epochs and rate, what a step's own training has where it does not say.
EPOCHS_SHARE, RATE_SHARE = 1 / 3, 0.1
SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class _State:
    """A network on its way, and what the target makes of it.

    Attributes:
        key: of all that made it.
        weights: the file of those that a step trained last.
        bundle: what would ship of it.
        told: what `compress` said of that.
        original: how alike that answers to the file that was brought, where one was.
    """

    key: str
    network: nn.Module
    weights: Path | None
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
    """
    steps = line.recipe.shrink
    if not steps:
        return key, network, None, ()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        error = Unsupported(
            "`shrink` is the work of one process", hint="train with torchrun, then `edgedl make`"
        )
        raise line.recipe.located(error, "shrink")
    state = _judged(line, network, key, None)
    line.unshrunk = state.bundle
    rows = [_row("train", state, None, None)]
    for place, step in enumerate(steps):
        before = state
        network, key = copy.deepcopy(before.network), before.key
        try:
            guide = guide_of(line, before.network)
            weights = before.weights
            for number in range(step.rounds):
                key, run = _taken(line, network, key, step, number, before, guide)
                weights = run or weights
            state = _judged(line, network, key, weights)
        except NoGain as error:
            rows.append(_row(step.name, before, None, error.message))
            line.doubts.append(f"step {place + 1}, `{step.name}`, was left out: {error.message}")
            continue
        except Diverged as error:
            raise line.recipe.instead(error, "shrink", place) from error
        except EdgeError as error:
            raise line.recipe.located(error, "shrink", place) from error
        against = _against(line, before, state)
        undone = _undone(step.promise, before, state, against)
        rows.append(_row(step.name, state, against, undone))
        if undone is not None:
            line.doubts.append(f"step {place + 1}, `{step.name}`, was undone: {undone}")
            state = before
    return state.key, state.network, state.weights, tuple(rows)


def _taken(
    line: Line,
    network: nn.Module,
    key: str,
    step: Step,
    number: int,
    before: _State,
    guide: Guide | None,
) -> tuple[str, Path | None]:
    """Take one round of a step in place, trained; the key of what came out, and its weights."""
    settings = _settings(line.settings, step)
    priced = line.recipe.compress or Compress()
    key = key_of(
        stage="shrink",
        before=key,
        step=to_plain(step),
        round=number,
        settings=deciding(settings),
        target=[priced.target, priced.threads, machine_parts()],
        versions={"edgedl": edgedl.__version__, "torch": version("torch")},
        **key_of_guide(guide),
    )
    folder = run_folder(default_store(), key)
    file = folder / CHANGE
    if file.is_file():
        change = json.loads(file.read_text(encoding="utf-8"))
    else:
        folder.mkdir(parents=True, exist_ok=True)
        line.progress(f"deciding on {step.name}", number, step.rounds)
        ground_of = load("edgedl.train.shrink.ground:ground_of", "shrinking")
        ground = ground_of(
            network, line.dataset.train, line.dataset.validation, settings, folder=folder,
            distil=line.recipe.distil if line.dataset.task == "unlabelled" else None,
            seed=line.recipe.seed, price=_price(line, priced, before), progress=line.progress,
        )  # fmt: skip
        change = step.decide(network, ground, number)
        with atomic_write(file) as there:
            there.write_text(json.dumps(change), encoding="utf-8")
    step.apply(network, change)
    about = f"{step.name}, round {number + 1} of {step.rounds}" if step.rounds > 1 else step.name
    weights = fitted(line, network, key, settings, guide, "shrink", about)
    step.settle(network)
    return key, weights


def _settings(settings: Fit, step: Step) -> Fit:
    """The training behind a step: the recipe's, shorter and at a lower rate where it says nothing
    else."""
    tune = step.tune
    epochs = tune.epochs
    if epochs is None:
        epochs = max(1, round(settings.epochs * EPOCHS_SHARE))
    rate = settings.optimizer.lr * RATE_SHARE if tune.lr is None else tune.lr
    return replace(settings, epochs=epochs, optimizer=replace(settings.optimizer, lr=rate))


def _price(line: Line, asked: Compress, before: _State) -> Price:
    """The time of single layers on the engine that would ship the network as it is, in the
    precision that it would ship in."""
    of = load("edgedl.search.layer_times:LayerTimes", "shrinking")
    precision = {"mixed": "int8"}.get(before.told["precision"], before.told["precision"])
    price: Price = of(before.told["engine"], precision, asked.threads, progress=line.progress).price
    return price


def _judged(line: Line, network: nn.Module, key: str, weights: Path | None) -> _State:
    """The network as it would ship: exported, compressed with the least effort."""
    asked = line.recipe.compress or Compress()
    quick = replace(asked, effort="fast", max_drop=None, max_latency=None, max_bytes=None)
    form = form_of(line, network)
    model = exported(line, form, key)
    folder = compressed(line, form, model, quick)
    told = json.loads((folder / TOLD).read_text(encoding="utf-8"))
    original = like_original(line, form, folder / BUNDLE)
    return _State(key, network, weights, folder / BUNDLE, told, original)


def _against(line: Line, before: _State, after: _State) -> Mapping[str, Any]:
    """How much faster what would ship now is, timed beside what would have shipped; kept."""
    key = key_of(
        stage="against",
        before=content_digest(before.bundle),
        after=content_digest(after.bundle),
        machine=machine_parts(),
        edgedl=edgedl.__version__,
    )

    def build(folder: Path) -> None:
        bench = load("edgedl.verbs:bench", "timing")
        found = bench(
            [before.bundle, after.bundle], threads=(line.recipe.compress or Compress()).threads,
            seconds=SECONDS, progress=line.progress,
        ).to_json()  # fmt: skip
        (folder / TOLD).write_text(json.dumps(found["pairs"][0]), encoding="utf-8")

    folder = default_store().make(key, build)
    found: Mapping[str, Any] = json.loads((folder / TOLD).read_text(encoding="utf-8"))
    return found


def _undone(promise: str, before: _State, after: _State, against: Mapping[str, Any]) -> str | None:
    """Why a step is taken back; None where it kept its promise."""
    if promise == "speed" and against["verdict"] != "faster":
        low, high = against["low"], against["high"]
        return (
            f"no faster on {after.told['engine']}: {against['ratio']:.2f}x [{low:.2f}, {high:.2f}]"
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
