"""Who may import whom, read from the code."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgedl

ROOT = Path(edgedl.__file__).parent
LAYERS = {
    "core": 0,
    "runtime": 1,
    "train": 2,
    "export": 2,
    "passes": 2,
    "diagnosis": 3,
    "backends": 2,
    "benchmark": 2,
    "devices": 2,
    "embed": 2,
    "report": 2,
    "monitor": 2,
    "service": 2,
    "yamls": 2,
    "recipe": 3,
    "inputs": 3,
    "search": 3,
    "ship": 3,
    "timed": 4,
    "untimed": 4,
    "pipeline": 4,
    "reports": 4,
    "verbs": 4,
    "line": 5,
    "cli": 6,
    "__main__": 7,
}
OWNERS = {
    "onnx": {"passes", "export"},
    "onnx_ir": {"passes"},
    "onnxscript": {"passes"},
    "google": {"passes"},
    "onnxruntime": {"runtime.ort", "backends.ort"},
    "openvino": {"runtime.openvino", "backends.openvino"},
    "tensorrt": {"runtime.tensorrt", "backends.tensorrt"},
    "tensorrt_rtx": {"runtime.tensorrt", "backends.tensorrt"},
    "cuda": {"runtime.tensorrt.cuda"},
    "torch": {"train", "export"},
    "safetensors": {"train.checkpoint"},
    "click": {"cli"},
    "yaml": {"yamls"},
    "PIL": {"runtime.process.pillow"},
    "tokenizers": {"runtime.process.text"},
    "cryptography": {"runtime.sign.private", "runtime.sign.cipher"},
    "pyarrow": {"train.data.parquet"},
    "matplotlib": {"report.picture"},
    "starlette": {"service"},
    "uvicorn": {"service"},
    "numpy": {
        "core",
        "runtime",
        "passes",
        "train",
        "benchmark",
        "service",
        "report",
        "search",
        "diagnosis",
        "inputs",
        "ship",
        "pipeline",
        "timed",
        "verbs",
        "export",
        "line",
    },
}
DOORS = {
    ("pipeline", "timed"): "the end of the same line",
    ("pipeline", "untimed"): "its other end, for a GPU that is not here",
    ("ship", "search"): "a chosen trial is what is shipped",
}
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "manager", "base"}
MOST_LINES = 450


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, within functions too, but not for types alone."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            found.update(
                f"{node.module}.{alias.name}" if node.module == "edgedl" else str(node.module)
                for alias in node.names
            )
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_arrows_point_down(path: Path) -> None:
    room = dotted(path).split(".")[0]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "edgedl" or len(parts) < 2 or parts[1] not in LAYERS or parts[1] == room:
            continue
        allowed = LAYERS[parts[1]] < LAYERS[room] or (room, parts[1]) in DOORS
        assert allowed, f"{dotted(path)} looks up or sideways at {name}"


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_heavy_libraries_have_owners(path: Path) -> None:
    name = dotted(path)
    for module in imports(path):
        top = module.split(".")[0]
        if top in ("edgedl", "__future__") or top in sys.stdlib_module_names:
            continue
        assert top in OWNERS, (
            f"{name} imports {top}, which nobody owns: OWNERS, above, needs a line"
        )
        assert any(name == owner or name.startswith(owner + ".") for owner in OWNERS[top]), (
            f"{name} imports {top}, owned by {OWNERS[top]}: ask one of them, or add it to OWNERS"
        )


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_every_module_has_a_room_a_sentence_and_a_bound(path: Path) -> None:
    text = path.read_text()
    room, length = dotted(path).split(".")[0], len(text.splitlines())
    assert room in LAYERS, f"`{room}` is no room: LAYERS, above, says which may import which"
    assert path.stem not in FORBIDDEN_NAMES, f"`{path.stem}` does not say what is in it"
    assert length <= MOST_LINES, f"{length} lines, {MOST_LINES} at most: part it"
    sentence = ast.get_docstring(ast.parse(text))
    assert sentence is not None, "a module begins with a sentence that says what is in it"
    first = sentence.splitlines()[0]
    assert first.endswith((".", "`")), f"`{first}` is no sentence on one line"


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_nothing_is_unpickled(path: Path) -> None:
    text = path.read_text()
    assert not imports(path) & {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
    assert "allow_pickle=True" not in text
    assert "yaml.load(" not in text


def test_importing_the_package_imports_nothing() -> None:
    code = "import sys; before = set(sys.modules); import edgedl; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"edgedl", "__future__"}


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys, edgedl.cli\n"
        "try:\n    edgedl.cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(*(name for name in sys.modules if '.' not in name), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert not loaded & {"numpy", "onnx", "onnx_ir", "onnxruntime", "openvino", "torch", "yaml"}
    assert "compress" in done.stdout


def test_every_public_verb_is_there() -> None:
    for verb in edgedl.VERBS:
        assert getattr(edgedl, verb) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        edgedl.nothing_like_it  # noqa: B018
