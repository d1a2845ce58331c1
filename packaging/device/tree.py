"""The part of edgedl that a device needs: which files, and what of them.

Files are those that the device's verbs reach by imports, within functions too, and by names in
tables, `module:attribute`; of the engines, those that are asked for. Docstrings, comments, the
types of functions' arguments and three of four spaces stay behind, and every line keeps its number,
so that a traceback from a device can be read beside the sources of the same version.

    python packaging/device/tree.py FOLDER [ENGINE ...]     copies it, without building a wheel
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "edgedl"
VERBS = (
    *("open", "processing", "answering", "run_batch", "Workers", "Stream", "warm"),
    *("check", "compile", "run", "verify", "trust", "EdgeError"),
)
ROOMS = ("core", "runtime")
NAMED = re.compile(r"(edgedl(?:\.\w+)+):\w+")


def engines(package: Path = PACKAGE) -> tuple[str, ...]:
    """The engines that edgedl knows."""
    return tuple(_engines(package))


def files(chosen: Iterable[str], package: Path = PACKAGE) -> tuple[Path, ...]:
    """The files that a device with these engines needs, as they are called in the package.

    Raises:
        ValueError: there is no such engine.
    """
    init = package / "__init__.py"
    known = _engines(package)
    if strange := set(chosen) - set(known):
        raise ValueError(f"no engine {', '.join(sorted(strange))}; known: {', '.join(known)}")
    verbs = {**_table(init, "VERBS"), **_table(init, "ON_DEVICE")}
    asked = {_module(known[name]) for name in chosen}
    left_out = {_module(path) for path in known.values()} - asked
    waiting = [_module(verbs[name]) for name in VERBS if name in verbs]
    waiting += [_module(known[name]) for name in chosen]
    found = {init}
    while waiting:
        name = waiting.pop()
        if name in left_out:
            continue
        for path in _paths(name, package):
            if path not in found:
                found.add(path)
                waiting += _needs(path)
    return tuple(sorted(path.relative_to(package) for path in found))


def bare(source: str) -> str:
    """A module's source without docstrings, comments and functions' types, each line where it
    was."""
    lines = source.splitlines(keepends=True)
    tree = ast.parse(source)
    spans = [*_docstrings(tree), *_comments(source), *_types(tree, source)]
    for (top, left), (bottom, right), instead in sorted(spans, reverse=True):
        before, behind = lines[top - 1], lines[bottom - 1]
        # columns of the syntax tree count bytes
        head = before.encode()[:left].decode()
        tail = behind.encode()[right:].decode()
        instead = "..." if tail.startswith(";") else instead
        lines[top - 1 : bottom] = [
            f"{head}{instead}".rstrip() + ("\n" if top != bottom else tail),
            *["\n"] * (bottom - top - 1),
            *([tail.lstrip(" ")] if top != bottom else []),
        ]
    return _indented_by_one("".join(line if line.strip() else "\n" for line in lines))


def _indented_by_one(source: str) -> str:
    """The same, each level indented by one space; lines that a text goes on in stay as they are."""
    fixed: set[int] = set()
    inside = getattr(tokenize, "FSTRING_START", None)  # from Python 3.12 on, in parts
    begun: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING:
            fixed.update(range(token.start[0] + 1, token.end[0] + 1))
        elif inside is not None and token.type == inside:
            begun.append(token.start[0])
        elif inside is not None and token.type == tokenize.FSTRING_END:
            fixed.update(range(begun.pop() + 1, token.end[0] + 1))
    lines = []
    for number, line in enumerate(source.splitlines(keepends=True), 1):
        spaces = len(line) - len(line.lstrip(" "))
        lines.append(line if number in fixed else " " * (spaces // 4) + line[spaces:])
    return "".join(lines)


def copy(folder: Path, chosen: Iterable[str], package: Path = PACKAGE) -> list[Path]:
    """Write the files below a folder, in `edgedl`; returns them."""
    found = []
    for name in files(tuple(chosen), package):
        path = folder / "edgedl" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(bare((package / name).read_text("utf-8")), "utf-8")
        found.append(path)
    return found


def _engines(package: Path) -> dict[str, str]:
    """Where the device's side of each engine lies, by the engine's name."""
    for node in ast.parse((package / "core" / "engines.py").read_text("utf-8")).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "LISTED":
            assert isinstance(node.value, ast.Dict)
            return {
                ast.literal_eval(name): ast.literal_eval(one.value)
                for name, line in zip(node.value.keys, node.value.values, strict=True)
                if name is not None and isinstance(line, ast.Call)
                for one in line.keywords
                if one.arg == "runtime"
            }
    raise ValueError("core/engines.py lists no engines")


def _table(path: Path, name: str) -> dict[str, str]:
    """A table of names in a module; empty where it has none."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(one) for one in node.targets] == [name]:
            found: dict[str, str] = ast.literal_eval(node.value)
            return found
    return {}


def _module(path: str) -> str:
    return path.partition(":")[0]


def _paths(name: str, package: Path) -> Iterator[Path]:
    """The file of a module and of the packages around it; none where it is no module of these
    rooms."""
    parts = name.split(".")
    if parts[0] != "edgedl" or len(parts) < 2 or parts[1] not in ROOMS:
        return
    place = package.joinpath(*parts[1:])
    own = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    if own.is_file():
        yield from (package.joinpath(*parts[1:i], "__init__.py") for i in range(2, len(parts)))
        yield own


def _needs(path: Path) -> list[str]:
    """The modules that a file imports or names, but not those for types alone."""
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
            found.extend(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and (named := NAMED.fullmatch(str(node.value))):
            found.append(named[1])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text("utf-8")))
    return found


Span = tuple[tuple[int, int], tuple[int, int], str]


def _docstrings(tree: ast.Module) -> Iterator[Span]:
    """Where docstrings lie, and what must stand in their place."""
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if ast.get_docstring(node, clean=False) is None:
            continue
        said = node.body[0]
        instead = "" if len(node.body) > 1 or isinstance(node, ast.Module) else "..."
        if _is_dataclass(node):
            instead = '"."'  # where it has none, it makes one of its signature, and takes its time
        assert said.end_lineno is not None
        assert said.end_col_offset is not None
        yield (said.lineno, said.col_offset), (said.end_lineno, said.end_col_offset), instead


def _is_dataclass(node: ast.AST) -> bool:
    decorators = node.decorator_list if isinstance(node, ast.ClassDef) else []
    return any("dataclass" in ast.unparse(one) for one in decorators)


def _comments(source: str) -> Iterator[Span]:
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            place = len(lines[row - 1][:column].encode())
            yield (row, place), (row, place + len(token.string.encode())), ""


def _types(tree: ast.Module, source: str) -> Iterator[Span]:
    """Where the types of functions' arguments and of what they give lie; those of fields, which are
    read when a program runs, do not."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    arrows = [token.start for token in tokens if token.string == "->"]
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None:
            name = node.col_offset + len(node.arg.encode())
            yield (node.lineno, name), _end(node.annotation), ""
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns is not None:
            row, column = max(one for one in arrows if one < (node.returns.lineno, sys.maxsize))
            yield (row, len(lines[row - 1][:column].encode())), _end(node.returns), ""


def _end(node: ast.expr) -> tuple[int, int]:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return node.end_lineno, node.end_col_offset


if __name__ == "__main__":
    written = copy(Path(sys.argv[1]), sys.argv[2:] or engines())
    print(f"{len(written)} files, {sum(path.stat().st_size for path in written)} bytes")
