"""The names that TensorRT's published Python bindings offer, version by version.

    python benchmarks/tensorrt_api.py WHEELS [--output tests/runtime/tensorrt/api.json]

WHEELS is a folder of the bindings' wheels for this Python, which the package registry serves:

    pip download --no-deps -d WHEELS tensorrt-cu12-bindings==10.3.0
    pip download --no-deps -d WHEELS tensorrt-cu12-bindings==10.13.3.9
    pip download --no-deps -d WHEELS tensorrt-cu12-bindings==10.16.1.11
    pip download --no-deps -d WHEELS tensorrt-cu13-bindings==11.4.0.106
    pip download --no-deps -d WHEELS tensorrt-rtx-cu13-bindings==1.7.1.116

The bindings import libraries that the registry does not serve. Each wheel is unpacked and imported
in a process of its own over stubs of them, which the system's C compiler makes and which define
the few symbols that the bindings ask for; nothing of TensorRT runs. The document names of each
class the attributes that it has, and in which versions: names are facts, no code is kept.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "tests" / "runtime" / "tensorrt" / "api.json"
WHEEL = re.compile(r"(tensorrt_(?:rtx_)?cu\d+_bindings)-([0-9.]+(?:post\d+)?)-.*\.whl")
NEEDED = re.compile(r"\(NEEDED\).*\[(lib(?:nvinfer|nvonnxparser|tensorrt)[^\]]*)\]")
FUNCTIONS = re.compile(
    r" U ((?:create\w+_INTERNAL|getBuilderPluginRegistry|getPluginRegistry|getNvOnnxParserVersion"
    r"|initLibNvInferPlugins)\w*)$",
    re.MULTILINE,
)
LIST = """
import ctypes, importlib, json, sys
for library in sys.argv[3:]:
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
sys.path.insert(0, sys.argv[1])
module = importlib.import_module(sys.argv[2])
plain = set(dir(object)) | set(dir(type)) | {"__index__", "__int__", "__setstate__", "__entries"}
public = lambda thing: sorted(
    n for n in dir(thing) if not n.startswith("_") and n not in plain
)
found = {"": public(module)}
for name in public(module):
    value = getattr(module, name)
    if isinstance(value, type):
        found[name] = public(value)
        for inner in found[name]:
            if isinstance(getattr(value, inner), type):
                found[f"{name}.{inner}"] = public(getattr(value, inner))
print(json.dumps({"version": module.__version__, "names": found}))
"""


def stubs(library: Path, folder: Path) -> list[Path]:
    """Shared libraries under the names that the bindings ask for, with the functions they call."""
    asked = subprocess.run(
        ["readelf", "-d", library], capture_output=True, text=True, check=True
    ).stdout
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True
    ).stdout
    source = folder / "stub.c"
    source.write_text(
        "".join(f"void *{n}(void) {{ return 0; }}\n" for n in FUNCTIONS.findall(symbols))
    )
    made = [folder / name for name in NEEDED.findall(asked)]
    for path in made:
        command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{path.name}", "-o", path, source]
        subprocess.run(command, check=True)
    return made


def surface(wheel: Path) -> dict[str, Any]:
    """The bindings' version, and the public names of the module (under "") and of its classes."""
    with tempfile.TemporaryDirectory() as given:
        folder = Path(given)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        library = next(
            path
            for path in folder.rglob("*.so")
            if path.parent.name.startswith("tensorrt") and path.stem.startswith("tensorrt")
        )
        module = library.parent.name
        libraries = stubs(library, folder)
        done = subprocess.run(
            [sys.executable, "-c", LIST, folder, module, *libraries],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{wheel.name}: {done.stderr.strip().splitlines()[-1]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def document(wheels: list[Path]) -> dict[str, Any]:
    """All surfaces as one: of each name a digit a version, 1 where the version has it."""
    found: dict[str, dict[str, Any]] = {}
    for wheel in wheels:
        match = WHEEL.fullmatch(wheel.name)
        if match:
            found[f"{match[1].replace('_', '-')}=={match[2]}"] = surface(wheel)
    order = sorted(
        found, key=lambda k: ("rtx" in k, [int(n) for n in re.findall(r"\d+", k.split("==")[1])])
    )
    names: dict[str, dict[str, str]] = {}
    for owner in sorted({owner for one in found.values() for owner in one["names"]}):
        sets = [set(found[key]["names"].get(owner, ())) for key in order]
        every = sorted(set().union(*sets))
        names[owner] = {name: "".join("01"[name in one] for one in sets) for name in every}
    return {"versions": order, "names": names}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("wheels", type=Path)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    found = document(sorted(given.wheels.glob("*.whl")))
    lines = [
        f"  {json.dumps(owner)}: {json.dumps(names)}" for owner, names in found["names"].items()
    ]
    text = f'{{"versions": {json.dumps(found["versions"])},\n "names": {{\n' + ",\n".join(lines)
    given.output.write_text(text + "\n }\n}\n")
    print(", ".join(found["versions"]))


if __name__ == "__main__":
    main()
