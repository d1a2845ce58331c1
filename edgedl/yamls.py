"""YAML files that people edit, read into plain data that knows its lines.

Scalars are those of the YAML 1.2 core schema (yaml.org/spec/1.2.2, 10.3) but for hexadecimal, octal
and infinite numbers, so that `no` is a word and `1e-3` a number. Aliases and tags are refused: what
is read is as large as what was written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from edgedl.core.errors import BadValue

T = TypeVar("T")
Keys = tuple[str | int, ...]
MOST_BYTES = 1_000_000
TAG = "tag:yaml.org,2002:"
SCALARS: Mapping[str, tuple[str, str]] = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]{1,18}", "-+0123456789"),
    "float": (r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
}


class _Alias(yaml.MarkedYAMLError):
    """An alias, which would let a small file stand for a huge one."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2 and without aliases."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.get_event()  # type: ignore[no-untyped-call]
            raise _Alias(None, None, f"the alias `*{event.anchor}` is not read", event.start_mark)
        return super().compose_node(parent, index)


for _name, (_pattern, _first) in SCALARS.items():
    _firsts = [*_first, ""] if _name == "null" else [*_first]
    _Loader.add_implicit_resolver(TAG + _name, re.compile(f"(?:{_pattern})$"), _firsts)


@dataclass(frozen=True, eq=False)
class Located:
    """What a file holds as plain data, and the line of everything in it, counted from 1.

    `lines` has a key's or entry's line under the keys that lead to it: names in mappings, positions
    in lists.
    """

    path: Path
    data: Any
    lines: Mapping[Keys, int] = field(default_factory=dict)

    def error(self, keys: Keys, message: str, hint: str | None = None) -> BadValue:
        """An error about what lies under the keys, or would: its `where` is `FILE:LINE`."""
        known = next((keys[:n] for n in range(len(keys), 0, -1) if keys[:n] in self.lines), ())
        where = f"{self.path}:{self.lines.get(known, 1)}"
        return BadValue(message, keys=keys, where=where, hint=hint)

    def read(self, reader: Callable[[Any], T]) -> T:
        """What `reader` makes of the data.

        Raises:
            BadValue: as the reader raises it, with the line.
        """
        try:
            return reader(self.data)
        except BadValue as error:
            raise self.error(error.keys, error.message, error.hint) from error


def read_yaml(path: str | Path, most_bytes: int = MOST_BYTES) -> Located:
    """The one document of a YAML file in UTF-8, of 1 MB at most where nothing else is said.

    Raises:
        BadValue: the file is missing, too large, no text, or no YAML; it holds aliases, tags or
            several documents; a key stands twice or is no text.
    """
    path = Path(path)
    node = _composed(path, _text(path, most_bytes))
    lines: dict[Keys, int] = {}
    data = None if node is None else _Plain(path, lines).of(node, ())
    return Located(path, data, lines)


def _text(path: Path, most_bytes: int) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise BadValue(f"{reason}", where=str(path), hint="name a YAML file") from None
    if len(content) > most_bytes:
        size = most_bytes // 1_000_000
        raise BadValue(f"larger than {size} MB", where=str(path), hint="is it a YAML file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        hint = "save it as UTF-8; is it a YAML file?"
        raise BadValue("not text in UTF-8", where=f"{path}:{line}", hint=hint) from None


def _composed(path: Path, text: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise _marked(path, error) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"the character U+{error.character:04X} may not stand in YAML"
        raise BadValue(message, where=f"{path}:{line}", hint="remove it") from None
    except RecursionError:
        hint = "write it with fewer levels"
        raise BadValue("nested too deep", where=str(path), hint=hint) from None


def _marked(path: Path, error: yaml.MarkedYAMLError) -> BadValue:
    mark = error.problem_mark or error.context_mark
    where = str(path) if mark is None else f"{path}:{mark.line + 1}"
    hint = "brackets and quotes must close, and lines of one level begin alike, without tabs"
    if error.problem and "another document" in error.problem:
        hint = "a file holds one: leave out what stands behind `---`"
    elif isinstance(error, _Alias):
        hint = "write out what it stands for"
    return BadValue(error.problem or error.context or "cannot be read", where=where, hint=hint)


@dataclass(frozen=True)
class _Plain:
    """Nodes to plain data; the lines are noted on the way."""

    path: Path
    lines: dict[Keys, int]

    def of(self, node: yaml.Node, keys: Keys) -> Any:
        self.lines.setdefault(keys, node.start_mark.line + 1)
        kind = node.tag.removeprefix(TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self.mapping(node, keys)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.of(entry, (*keys, i)) for i, entry in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and kind in (*SCALARS, "str"):
            return self.scalar(node, kind)
        tag = node.tag.replace(TAG, "!!")
        raise self.wrong(node, f"the tag `{tag}` is not read", "leave it out")

    def mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{TAG}str":
                raise self.wrong(key_node, "a key that is not text", "put it between quotes")
            key = str(self.scalar(key_node, "str"))
            way = (*keys, key)
            if key in found:
                message = f"`{key}` stands here a second time, after line {self.lines[way]}"
                raise self.wrong(key_node, message, "leave one of them out")
            self.lines[way] = key_node.start_mark.line + 1
            found[key] = self.of(value_node, way)
        return found

    def scalar(self, node: yaml.ScalarNode, kind: str) -> Any:
        text = str(node.value)
        if kind == "str":
            return text if text.isascii() else self.whole(node, text)
        if not re.fullmatch(SCALARS[kind][0], text):
            raise self.wrong(node, f"`{text}` is no {kind}", "leave the tag out")
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        number = int(text) if kind == "int" else float(text)
        if not math.isfinite(number):
            raise self.wrong(node, f"the number `{text}` is too large", "like 1e30")
        return number

    def whole(self, node: yaml.Node, text: str) -> str:
        """The text with the two halves that JSON's escapes make of rare characters joined."""
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self.wrong(node, "half a character", r"`\uD83D` wants its other half") from None

    def wrong(self, node: yaml.Node, message: str, hint: str) -> BadValue:
        return BadValue(message, where=f"{self.path}:{node.start_mark.line + 1}", hint=hint)
