"""A model's files at another place, all of them."""

from __future__ import annotations

import glob
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx

from edgedl.core.model import Model, sha256
from edgedl.core.store import atomic_write

DIGITS = 12


def copy_to(model: Model, path: Path) -> None:
    """Write a model at a path; data that lie beside it come to lie beside that.

    They are named by the path and their content, so that what stood there before stays whole until
    the ONNX file itself, the last to be written, takes its place; its data are then removed.

    Raises:
        EdgeError: a file cannot be written.
    """
    names: dict[str, str] = {}
    for file in model.files[1:]:
        name = f"{path.name}.{sha256([file])[:DIGITS]}.data"
        names[str(file.relative_to(model.path.parent))] = name
        with atomic_write(path.with_name(name)) as there:
            shutil.copyfile(file, there)
    with atomic_write(path) as there:
        if names:
            there.write_bytes(_renamed(model.path, names))
        else:
            shutil.copyfile(model.path, there)
    for old in path.parent.glob(f"{glob.escape(path.name)}.{'?' * DIGITS}.data"):
        if old.name not in names.values():
            old.unlink(missing_ok=True)


def _renamed(path: Path, names: Mapping[str, str]) -> bytes:
    proto = onnx.load(path, load_external_data=False)
    for tensor in _tensors(proto.graph):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = names[str(Path(entry.value))]
    renamed: bytes = proto.SerializeToString()
    return renamed


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initialisers and tensors in attributes, those of graphs within as well."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)
