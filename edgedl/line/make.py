"""The line from a recipe to a bundle: what each stage makes is kept, and only what changed anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgedl.core.progress import Progress, silent
from edgedl.core.registry import load
from edgedl.core.store import atomic_write, check_writable
from edgedl.line.alike import like_original, original_of
from edgedl.line.begin import Line, begun, last_stage, network_of
from edgedl.line.checks import check_together
from edgedl.line.form import Form, check_export, form_of
from edgedl.line.guided import guide_of
from edgedl.line.keep import BUNDLE, TOLD
from edgedl.line.learned import learned
from edgedl.line.shipped import compressed, exported, pair_of, timed
from edgedl.line.shrunk import check_steps, shrunk
from edgedl.line.trained import LOG, leads, trained
from edgedl.recipe import read_recipe
from edgedl.report.made import Made, Shrink


def make(
    path: str | Path,
    *,
    output: str | Path | None = None,
    until: str = "bench",
    progress: Progress = silent,
) -> Made:
    """Train the recipe's network, export it, compress it and time it.

    Each stage's result is kept in the store under all that decides it: the data, the settings, the
    versions of the libraries. Killed and called again, training goes on where it was. Under
    `torchrun` all processes train, and the first goes on.

    Args:
        output: the file to write: a bundle, or an ONNX file where `until` is `export`; the recipe's
            name in the current folder where None.
        until: the last stage: `train`, `export`, `compress` or `bench`.

    Raises:
        EdgeError: the recipe, its data or its network is unsound, or a stage failed; what was made
            before is kept.
    """
    recipe = read_recipe(path)
    check_together(recipe, until)
    last = last_stage(recipe, until) if leads() else "train"
    suffix = ".onnx" if last == "export" else ".edl"
    target = None if last == "train" else Path(output or f"{recipe.name}{suffix}")
    if target is not None:
        check_writable(target)
    line = begun(recipe, progress)
    with line.opened:
        network = network_of(line)
        if last != "train":
            check_export(line, network)
        guide = guide_of(line, network)
        if last != "train" and recipe.shrink:
            check_steps(line, network, guide)
        key, run = trained(line, network, guide, exports=last != "train")
        weights = run
        model: Path | None = None
        bundle: Path | None = None
        told: Mapping[str, Any] | None = None
        times: Mapping[str, Any] | None = None
        steps: tuple[Shrink, ...] = ()
        original: Mapping[str, Any] | None = None
        if last != "train":
            key, network, shrunken, steps = shrunk(line, network, key)
            weights = shrunken or weights
            form = form_of(line, network)
            model = exported(line, form, key)
            if last in ("compress", "bench"):
                assert recipe.compress is not None
                folder = compressed(line, form, model, recipe.compress)
                told = json.loads((folder / TOLD).read_text("utf-8"))
                if recipe.qat is not None:
                    taught = learned(line, form, model, folder, recipe.qat)
                    folder, told = taught.folder, taught.told
                bundle = folder / BUNDLE
                if last == "bench":
                    times = timed(line, form, model, bundle)
            original = _beside(line, form, bundle or model, times)
        if target is not None and model is not None:
            _put(bundle, model, target)
    read_log = load("edgedl.train.track:read_log", "training")
    return Made(
        name=recipe.name,
        recipe=str(path),
        output=None if target is None else str(target),
        weights=None if weights is None else str(weights),
        history=() if run is None else tuple(read_log(run.parent / LOG)),
        stages=tuple(line.stages),
        shrink=steps,
        compressed=told,
        bench=times,
        doubts=tuple(dict.fromkeys(line.doubts)),
        original=original,
    )


def _beside(
    line: Line, form: Form, made: Path, times: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """What was made, beside the file that the user brought; None where there was none."""
    file = original_of(line)
    same = like_original(line, form, made)
    if file is None or same is None:
        return None
    own = None if times is None or line.unshrunk is None else pair_of(times, 1, -1)
    speedup = None if times is None else pair_of(times, 0, -1)
    return {"file": file.name, "agreement": same, "speedup": speedup, "own": own}


def _put(bundle: Path | None, model: Path, target: Path) -> None:
    """What was made, where the user wants it: the bundle, else the model with its data."""
    if bundle is None:
        opened = load("edgedl.passes.graph:open_model", "exporting")(model)
        load("edgedl.passes.copied:copy_to", "exporting")(opened, target)
        return
    with atomic_write(target) as there:
        shutil.copyfile(bundle, there)
