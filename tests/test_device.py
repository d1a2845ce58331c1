"""The device's part of edgedl: how large it is, and that it is whole."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import edgedl
from edgedl.core.engines import ON_GPU, install_of, package_of
from edgedl.core.registry import how_to_install
from edgedl.runtime import ENGINES, how_to_get, installed_engines
from edgedl.runtime.process import Processing
from edgedl.runtime.process.image import Image, Resize
from edgedl.runtime.process.scores import TopK
from tests.test_bare_runtime import REFUSE, REFUSED, net_and_bundle

ROOT = Path(edgedl.__file__).parents[1]
DEVICE = ROOT / "packaging" / "device"
# An engine on a GPU brings its building in child processes, and its binding of CUDA.
MOST_BYTES, MOST_GPU_BYTES = 300_000, 450_000
SCRIPT = """
import importlib, json, pathlib, sys
import numpy as np
import edgedl
place, bundle, given, out = map(pathlib.Path, sys.argv[1:5])
engines = set(sys.argv[5:])
assert pathlib.Path(edgedl.__file__).parent == place / "edgedl", edgedl.__file__
with np.load(given) as arrays:
    feed, wanted = {"x": arrays["x"]}, arrays["logits"]
with edgedl.open(bundle, threads=1) as session:
    assert np.allclose(session.run(feed)["logits"], wanted, atol=1e-4)
assert edgedl.check(bundle).ok
assert edgedl.processing(bundle).preprocess.kind == "image"
with edgedl.answering(bundle, threads=1) as model:
    best = model.answer(np.full((20, 30, 3), 99, np.uint8))[0]
with edgedl.open(bundle, warm=True, finite=True) as session:
    many = edgedl.run_batch(session, {"x": np.concatenate([feed["x"]] * 2)})["logits"]
    assert np.allclose(many, wanted, atol=1e-4)
    with edgedl.Workers(session) as workers:
        assert np.allclose(workers.submit(feed, 1e6).result()["logits"], wanted, atol=1e-4)
    try:
        edgedl.Stream(session)
    except edgedl.EdgeError as error:
        assert "no output is named as a state" in str(error)
    try:
        session.run({"y": feed["x"]})
    except edgedl.EdgeError as error:
        assert "`y` is not an input" in str(error)
np.savez(given, x=feed["x"])
assert edgedl.run(bundle, given, out) == 1
with np.load(out) as saved:
    assert np.allclose(saved["logits"], wanted, atol=1e-4)
refused = {}
for verb in ("compress", "bench", "inspect", "make"):
    try:
        getattr(edgedl, verb)
    except edgedl.EdgeError as error:
        refused[verb] = [str(error), error.hint]
try:
    edgedl.compile(bundle, output=out.with_suffix(".edl"))
except edgedl.EdgeError as error:
    refused["compile(output=)"] = [str(error), error.hint]
unloadable = []
for path in sorted(place.rglob("*.py")):
    name = ".".join(path.relative_to(place).with_suffix("").parts).removesuffix(".__init__")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in engines:
            unloadable.append([name, error.name])
hint = None
try:
    edgedl.answering(bundle).answer(bundle.with_suffix(".png"))
except edgedl.EdgeError as error:
    hint = error.hint
print(json.dumps({"label": best.label, "refused": refused, "unloadable": unloadable,
                  "hint": hint}))
"""


@pytest.fixture(scope="module")
def tree() -> ModuleType:
    spec = importlib.util.spec_from_file_location("device_tree", DEVICE / "tree.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def installed_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What installing the wheel of the device's part puts into a folder, with every engine."""
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    folder = tmp_path_factory.mktemp("device")
    words = ["wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, DEVICE]
    subprocess.run(
        [sys.executable, "-m", "pip", *map(str, words)],
        check=True,
        env={**os.environ, "EDGEDL_ENGINES": ",".join(ENGINES)},
    )
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


@pytest.mark.parametrize("engine_name", ENGINES)
def test_with_one_engine_it_is_small(engine_name: str, tree: ModuleType, tmp_path: Path) -> None:
    sizes = {path: path.stat().st_size for path in tree.copy(tmp_path, [engine_name])}
    largest = sorted(sizes.items(), key=lambda one: -one[1])[:8]
    listing = ", ".join(f"{path.relative_to(tmp_path)} {size}" for path, size in largest)
    most = MOST_GPU_BYTES if engine_name in ON_GPU else MOST_BYTES
    assert sum(sizes.values()) <= most, f"{sum(sizes.values())} bytes, the largest {listing}"


def test_an_engine_that_is_not_asked_for_stays_behind(tree: ModuleType) -> None:
    files = {str(path) for path in tree.files(["onnxruntime"])}
    assert "runtime/ort/engine.py" in files
    assert "runtime/openvino/engine.py" not in files
    assert not any(name.startswith(("train", "passes", "benchmark", "cli")) for name in files)
    assert "runtime/ort/gpu.py" not in files
    assert not any("tensorrt" in name for name in files)
    assert "runtime/tensorrt/engine.py" in {str(path) for path in tree.files(["tensorrt"])}
    files = {str(path) for path in tree.files(["onnxruntime-cuda"])}
    assert {"runtime/ort/gpu.py", "runtime/ort/child.py", "runtime/ort/session.py"} <= files
    assert "runtime/ort/engine.py" not in files
    with pytest.raises(ValueError, match="no engine tensorflow; known: onnxruntime"):
        tree.files(["tensorflow"])


@pytest.mark.parametrize("engine_name", ENGINES)
def test_it_opens_checks_and_runs_where_nothing_else_is(
    engine_name: str, installed_wheel: Path, tmp_path: Path
) -> None:
    if engine_name not in installed_engines():
        pytest.skip(f"{engine_name} is not installed")
    before = Image(resize=Resize(exactly=(8, 8)), scale=1 / 255)
    processing = Processing(before, TopK(labels=("a", "b", "c", "d", "e")))
    _, bundle = net_and_bundle(tmp_path, engine_name, processing)
    module = package_of(engine_name)
    refused = {*REFUSED, *ENGINES, "tests", "hypothesis"} - {module}
    place = tmp_path / "bare"
    place.mkdir()
    (place / "sitecustomize.py").write_text(REFUSE.format(refused=refused))
    words = [installed_wheel, bundle, tmp_path / "given.npz", tmp_path / "out.npz"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, words), *refused],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(place), str(installed_wheel)])},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    with edgedl.answering(bundle, threads=1) as model:
        assert found["label"] == model.answer(np.full((20, 30, 3), 99, np.uint8))[0].label
    assert found["unloadable"] == []
    assert found["hint"] == "pip install 'edgedl-runtime[images]'"
    assert set(found["refused"]) == {"compress", "bench", "inspect", "make", "compile(output=)"}
    assert "cache=DIR" in found["refused"]["compile(output=)"][1]
    way_out = "pip uninstall edgedl-runtime, then pip install edgedl, which holds both"
    for message, hint in found["refused"].values():
        assert "the device's part of edgedl" in message
        assert hint.removeprefix("cache=DIR keeps it on this machine; or ") == way_out


def test_every_extra_that_a_hint_names_is_there() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
    declared = tomllib.loads((DEVICE / "pyproject.toml").read_text())["project"]
    wholes = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras, whole = declared["optional-dependencies"], wholes["optional-dependencies"]
    hints = [how_to_install("images"), *map(install_of, ENGINES), *map(how_to_get, ENGINES)]
    named = set(re.findall(r"edgedl(?:-runtime)?\[([\w-]+)\]", " ".join(hints)))
    assert {"onnxruntime-gpu", "tensorrt-rtx"} <= named
    assert named <= set(extras)
    for name in ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt-rtx"):
        assert extras[name] == whole[name]


def test_what_stays_behind_is_docstrings_comments_types_and_spaces_alone(tree: ModuleType) -> None:
    for name in tree.files(ENGINES):
        path = ROOT / "edgedl" / name
        source = path.read_text()
        bare = tree.bare(source)
        assert bare.count("\n") == source.count("\n"), path
        assert program(bare) == program(source), path


def test_of_words_in_a_program_none_is_lost(tree: ModuleType) -> None:
    source = (
        '"""Says."""\n# gone\nx = "# kept"  # gone, ünd mehr\ny = """a\n    # kept\n"""\n'
        'class A:\n    """Says\n\n    more."""\n\n    def f(self): "gone"\n\n'
        'def g():\n    """ü"""; return 1\n'
    )
    wanted = (
        '\n\nx = "# kept"\ny = """a\n    # kept\n"""\nclass A:\n\n\n\n\n def f(self): ...\n\n'
        "def g():\n ...; return 1\n"
    )
    assert tree.bare(source) == wanted


def program(source: str) -> str:
    """What a module does, and on which lines, whatever its docstrings and its functions' types."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
            del node.end_lineno, node.end_col_offset
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            said = ast.get_docstring(node, clean=False) is not None
            rest = [*node.body[said:]] if said else list(node.body)
            node.body = [one for one in rest if ast.unparse(one) != "..."]  # type: ignore[assignment]
    lines = [getattr(node, "lineno", 0) for node in ast.walk(tree)]
    return ast.dump(tree) + repr(lines)
