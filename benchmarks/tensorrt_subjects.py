"""The networks of the table of builds: each is made as it comes, then written in every precision.

A subject gives an ONNX file and samples to calibrate by; weights may be random, since whether a
graph is parsed and built does not hang on them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edgedl.core.model import Model
from edgedl.core.samples import Samples, from_arrays, open_npz
from edgedl.passes.clean import Clean
from edgedl.passes.graph import open_model, rewrite
from edgedl.passes.half import Half
from edgedl.passes.plan import Plan
from edgedl.passes.quantize import Quantize
from edgedl.search.candidates import stored_weights
from edgedl.search.ready import prepare, proven_clean
from edgedl.train.shapes import TensorShape

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CALIBRATED = 8
FP8_OPSET = 19
Shapes = Mapping[str, TensorShape]
GOLDEN = ("mobilenet_v2", "mobilenet_v3", "efficientnet", "vit", "detector")
# What the networks of recipes are fed, and how much they answer, by data set.
SETS: Mapping[str, tuple[Shapes, int]] = {
    "fashion_mnist": ({"image": TensorShape((1, 28, 28))}, 10),
    "har": ({"streams": TensorShape((6, 128))}, 6),
    "shuttle": ({"values": TensorShape((9,))}, 0),
    "power_demand": ({"hours": TensorShape((1, 18))}, 6),
    "spoken_digits": ({"frames": TensorShape((13, 40))}, 10),
    "reuters_r8": ({"tokens": TensorShape((128,), "int64", 8192)}, 8),
    "movielens": (
        {
            "user": TensorShape((1,), "int64", 943),
            "film": TensorShape((1,), "int64", 1682),
        },
        1,
    ),
    "tree_boxes": ({"picture": TensorShape((3, 400, 400))}, 1),
    "a folder": ({"image": TensorShape((3, 128, 128))}, 2),
}


@dataclass(frozen=True)
class Subject:
    """One network.

    Attributes:
        kind: where it comes from: `family`, `golden`, `recipe`, `gpu` or `zoo`.
        make: writes it into a folder; gives it cleaned, in float32, and samples of its inputs.
    """

    name: str
    kind: str
    make: Callable[[Path], tuple[Model, Samples]]


@dataclass(frozen=True)
class Written:
    """A network in one precision, or why there is none."""

    precision: str
    model: Model | None
    reason: str = ""


def subjects(zoo: Path | None = None) -> dict[str, Subject]:
    """By name, those that need nothing beside the checkout, then those of the zoo that lie in a
    folder, which `benchmarks/zoo.py` has filled."""
    for place in (ROOT, HERE, HERE / "gpu"):
        if str(place) not in sys.path:
            sys.path.append(str(place))
    found = [*_families(), *_golden(), *_recipes(), *_gpu(), *_zoo(zoo)]
    return {one.name: one for one in found}


def written(subject: Subject, folder: Path) -> Iterator[Written]:
    """The network in each precision that edgedl writes for TensorRT; in fp8 as the benchmark on a
    GPU writes it."""
    clean, samples = subject.make(folder)
    yield Written("float32", clean)
    yield _tried("float16", lambda: Half()(clean))
    yield _tried("bf16", lambda: Half("bfloat16")(clean))
    plan = Quantize(samples, scheme="tensorrt", method="minmax").plan(clean)
    stored = rewrite(clean, stored_weights(_scheme()))
    if not plan.int8:
        for name in ("int8", "int8, rest float16", "fp8, rest float16"):
            yield Written(name, None, "the scheme places no operator in 8 bits")
    else:
        int8 = _placed(plan, clean)
        yield Written("int8", int8)
        yield _tried("int8, rest float16", lambda: Half()(int8))
        yield _tried("fp8, rest float16", lambda: _fp8(samples, clean, folder))
    if stored.bytes < clean.bytes:
        yield _tried("8-bit weights, float16", lambda: Half()(stored))
    else:
        reason = "no weights that are worth storing in 8 bits"
        yield Written("8-bit weights, float16", None, reason)


def _scheme() -> Any:
    from edgedl.core.target import TENSORRT

    return TENSORRT


def _placed(plan: Plan, clean: Model) -> Model:
    from edgedl.passes.place import Place

    return rewrite(clean, Place(plan))


def _fp8(samples: Samples, clean: Model, folder: Path) -> Model:
    from fp8 import to_fp8

    raised = rewrite(clean, Clean(min_opset=FP8_OPSET))
    path = folder / "fp8.onnx"
    to_fp8(Quantize(samples, scheme="tensorrt", method="minmax")(raised).path, path)
    return Half()(open_model(path))


def _tried(precision: str, make: Callable[[], Model]) -> Written:
    try:
        return Written(precision, make())
    except Exception as error:
        return Written(precision, None, f"{type(error).__name__}: {error}"[:200])


def _families() -> Iterator[Subject]:
    from tests.models import NETS, samples, saved

    def maker(name: str) -> Callable[[Path], tuple[Model, Samples]]:
        def make(folder: Path) -> tuple[Model, Samples]:
            clean = prepare(saved(NETS[name](), folder), {})
            return clean, samples(clean.signature, CALIBRATED)

        return make

    return (Subject(name, "family", maker(name)) for name in NETS)


def _golden() -> Iterator[Subject]:
    def maker(name: str) -> Callable[[Path], tuple[Model, Samples]]:
        def make(_: Path) -> tuple[Model, Samples]:
            from tests.models import samples

            clean = prepare(open_model(ROOT / "tests" / "golden" / f"{name}.onnx"), {})
            return clean, samples(clean.signature, CALIBRATED)

        return make

    return (Subject(f"golden {name}", "golden", maker(name)) for name in GOLDEN)


def recipe_network(path: Path) -> tuple[nn.Module, Shapes]:
    """The untrained network of a recipe in the form in which it ships, and its inputs."""
    import torch

    from edgedl.recipe import read_recipe
    from edgedl.train.networks import build
    from edgedl.train.networks.deploy import deployed

    recipe = read_recipe(path)
    inputs, outputs = SETS[recipe.data.set or "a folder"]
    torch.manual_seed(0)
    network = build(recipe.network.name, inputs, outputs, recipe.network.settings).eval()
    return deployed(network, inputs)


def recipe_paths() -> list[Path]:
    """Every recipe, but those whose network, as it is before training, is another's, too."""
    from edgedl.recipe import read_recipe

    read = {path: read_recipe(path) for path in sorted((ROOT / "recipes").glob("*.yaml"))}
    found: dict[str, Path] = {}
    for path, recipe in sorted(read.items(), key=lambda pair: (bool(pair[1].shrink), pair[0])):
        found.setdefault(f"{recipe.data.set} {recipe.network}", path)
    return sorted(found.values())


def _recipes() -> Iterator[Subject]:
    def maker(path: Path) -> Callable[[Path], tuple[Model, Samples]]:
        return lambda folder: _exported(*recipe_network(path), folder, fixed=False)

    return (Subject(f"recipe {p.stem}", "recipe", maker(p)) for p in recipe_paths())


def _gpu() -> Iterator[Subject]:
    def maker(name: str) -> Callable[[Path], tuple[Model, Samples]]:
        def make(folder: Path) -> tuple[Model, Samples]:
            from models import SUBJECTS, network

            return _exported(network(name), SUBJECTS[name].inputs, folder, fixed=True)

        return make

    names = ("resnet50", "mobilenetv2", "vit-tiny", "minilm")
    return (Subject(f"gpu {name}", "gpu", maker(name)) for name in names)


def _exported(
    network: nn.Module, inputs: Shapes, folder: Path, *, fixed: bool
) -> tuple[Model, Samples]:
    """A network as `edgedl export` writes it, cleaned; its batch of 1 where that is fixed."""
    from edgedl.export import export

    given = _drawn(inputs)
    feeds = [{name: array[i : i + 1] for name, array in given.items()} for i in range(2)]
    path = folder / "exported.onnx"
    export(network, feeds, path, tolerance=1e-2)
    shapes = {name: (1, *one.shape) for name, one in inputs.items()} if fixed else {}
    clean = prepare(open_model(path), shapes)
    return clean, from_arrays(given).bind(clean.signature)


def _drawn(inputs: Shapes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}
    for name, shape in inputs.items():
        whole = (CALIBRATED, *shape.shape)
        drawn = rng.integers(0, shape.count, whole) if shape.count else rng.standard_normal(whole)
        found[name] = drawn.astype(shape.dtype)
    return found


def _zoo(folder: Path | None) -> Iterator[Subject]:
    if folder is None or not folder.is_dir():
        return
    from zoo import RECIPES

    def maker(name: str) -> Callable[[Path], tuple[Model, Samples]]:
        def make(_: Path) -> tuple[Model, Samples]:
            place = folder / name
            shapes = {
                key: tuple(map(int, text.split("x"))) for key, text in RECIPES[name].shapes.items()
            }
            given = open_model(place / f"{name}.onnx")
            clean = prepare(given, shapes)
            bound = open_npz(place / "samples.npz").bind(clean.signature)
            samples = bound.take(range(CALIBRATED))
            # a branch that is never taken may not bear the shapes
            return proven_clean(given, clean, samples)[0], samples

        return make

    for name in RECIPES:
        if (folder / name / "stamp.json").exists():
            yield Subject(f"zoo {name}", "zoo", maker(name))
