"""Recipes: read with lines, included from one another, and told to editors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgedl.core.errors import BadValue
from edgedl.recipe import read_recipe, schema
from edgedl.train.settings import Sgd

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
SMALL = "data: {arrays: a.npz}\nnetwork: mlp\n"


def written(folder: Path, text: str, name: str = "r.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> BadValue:
    with pytest.raises(BadValue) as caught:
        read_recipe(written(folder, text))
    return caught.value


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    found = read_recipe(written(tmp_path, SMALL, "small.yaml"))
    assert (found.name, found.network.name, dict(found.network.settings)) == ("small", "mlp", {})
    assert found.compress is not None
    assert found.compress.precision == "int8"
    assert found.where == tmp_path / "small.yaml"
    bare = read_recipe(written(tmp_path, f"{SMALL}compress:\nbench: ~\n"))
    assert (bare.compress, bare.bench) == (None, None)


def test_settings_and_limits_are_read(tmp_path: Path) -> None:
    text = (
        "name: x\nseed: 3\ndata: {arrays: a.npz}\nnetwork: {name: mlp, width: 8}\n"
        "train: {epochs: 2, optimizer: {name: sgd, lr: 1/4}, loss: mse}\n"
        "compress: {max_drop: 0.5%, max_latency: 800us, max_bytes: 2MB}\n"
    )
    found = read_recipe(written(tmp_path, text))
    assert (found.name, found.seed, dict(found.network.settings)) == ("x", 3, {"width": 8})
    assert found.train.optimizer == Sgd(lr=0.25)
    assert found.compress is not None
    assert found.compress.parsed_max_drop() == 0.005
    assert found.compress.parsed_max_latency() == 0.8
    assert found.compress.parsed_max_bytes() == 2_000_000


@pytest.mark.parametrize(
    ("text", "line", "words", "hint"),
    [
        (f"{SMALL}trian: {{}}\n", 3, "unknown key `trian`", "did you mean `train`?"),
        (f"{SMALL}train:\n  epoch: 3\n", 4, "unknown key `epoch`", "did you mean `epochs`?"),
        (f"{SMALL}train:\n  epochs: many\n", 4, "wants a whole number, not `many`", ""),
        (f"{SMALL}train:\n  loss: {{name: crossentropy}}\n", 4, "`crossentropy`", "cross_entropy"),
        (f"{SMALL}train: !!python/object:os.system x\n", 3, "tag", "leave it out"),
        ("data: {arrays: a.npz}\n", 1, "lacks `network`", "network: resnet8"),
        ("network: mlp\n", 1, "lacks `data`", "data"),
        ("data: {arrays: a.npz}\nnetwork: {width: 3}\n", 2, "lacks `name`", "resnet8"),
        (f"{SMALL}compress: {{target: cup}}\n", 3, "`target` is `cup`", "did you mean `cpu`?"),
        (f"{SMALL}compress:\n  max_drop: 3x\n", 4, "`3x` is not a drop", "1%"),
        (f"{SMALL}export: {{opset: 9}}\n", 3, "`opset` is 9", "18 to 23"),
        (f"{SMALL}seed: -1\n", 3, "`seed` is -1", "0 or more"),
        ("data: {arrays: a.npz, table: b.csv}\nnetwork: mlp\n", 1, "says where the data is", "one"),
        ("- 1\n", 1, "holds no recipe", "data"),
    ],
)
def test_errors_have_their_line_and_a_way_out(
    tmp_path: Path, text: str, line: int, words: str, hint: str
) -> None:
    error = refused(tmp_path, text)
    assert error.where == f"{tmp_path / 'r.yaml'}:{line}"
    assert words in error.message
    assert hint in (error.hint or "")


def test_a_recipe_stands_above_what_it_includes(tmp_path: Path) -> None:
    written(
        tmp_path,
        "data: {arrays: a.npz, validation: 0.2}\nnetwork: {name: mlp, width: 8}\n"
        "train: {epochs: 9, batch: 32}\n",
        "base.yaml",
    )
    found = read_recipe(written(tmp_path, "include: base.yaml\ntrain: {epochs: 2}\n"))
    assert (found.train.epochs, found.train.batch, found.data.validation) == (2, 32, 0.2)
    assert dict(found.network.settings) == {"width": 8}
    # Settings of one network say nothing of another.
    other = read_recipe(written(tmp_path, "include: base.yaml\nnetwork: {name: tcn, depth: 2}\n"))
    assert dict(other.network.settings) == {"depth": 2}


def test_an_error_in_an_included_recipe_names_that_file(tmp_path: Path) -> None:
    written(tmp_path, f"{SMALL}train:\n  epochs: -1\n", "base.yaml")
    with pytest.raises(BadValue) as caught:
        read_recipe(written(tmp_path, "include: base.yaml\nseed: 1\n"))
    assert caught.value.where == f"{tmp_path / 'base.yaml'}:4"
    with pytest.raises(BadValue) as caught:
        read_recipe(written(tmp_path, "include: base.yaml\n\ntrain: {epochs: 3, batch: -1}\n"))
    assert caught.value.where == f"{tmp_path / 'r.yaml'}:3"


def test_a_circle_of_includes_is_told(tmp_path: Path) -> None:
    written(tmp_path, "include: b.yaml\n", "a.yaml")
    written(tmp_path, "include: a.yaml\n", "b.yaml")
    with pytest.raises(BadValue, match=r"a.yaml -> b.yaml -> a.yaml"):
        read_recipe(tmp_path / "a.yaml")
    with pytest.raises(BadValue, match=r"r.yaml -> r.yaml"):
        read_recipe(written(tmp_path, "include: r.yaml\n"))
    error = refused(tmp_path, "include: nothing.yaml\n")
    assert "no such file" in error.message
    assert error.where == f"{tmp_path / 'r.yaml'}:1"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_our_recipes_are_recipes(path: Path) -> None:
    assert read_recipe(path).name


def test_editors_are_told_every_key_and_nothing_old() -> None:
    found = schema()
    kept = json.loads((RECIPES / "recipe.schema.json").read_text(encoding="utf-8"))
    assert kept == json.loads(json.dumps(found)), (
        "it is out of date: `edgedl make --schema > recipes/recipe.schema.json`"
    )
    train = found["properties"]["train"]
    assert train["properties"]["epochs"]["type"] == "integer"
    assert {"cosine", "one_cycle"} <= set(train["properties"]["schedule"]["anyOf"][0]["enum"])
    assert "additionalProperties" in train
    assert found["properties"]["data"]["properties"]["set"]["description"]
