"""Weights that lie in files of their own beside an ONNX file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from edgedl.core.errors import BadModel
from edgedl.core.model import Model


def check_external(graph: ir.Model, path: Path) -> None:
    """See that the files are there, below the model's folder, and as large as its tensors say.

    Raises:
        BadModel: one is not.
    """
    for tensor in external_tensors(graph):
        location = Path(tensor.location)
        if location.is_absolute() or ".." in location.parts:
            raise BadModel(
                f"external data `{location}` lies outside the model's folder",
                where=str(path),
                hint="save it again with its data beside it",
            )
        file = path.parent / location
        if not file.is_file():
            raise BadModel(
                f"the external data file `{location}` is missing",
                where=str(path),
                hint=f"copy it to {path.parent}",
            )
        if tensor.length is not None and tensor.length != tensor.nbytes:
            raise BadModel(
                f"`{tensor.name}` has {tensor.length} bytes, not those of its shape",
                where=str(path),
                hint="save it again",
            )
        if (tensor.offset or 0) + (tensor.length or tensor.nbytes) > file.stat().st_size:
            raise BadModel(
                f"the external data file `{location}` is truncated",
                where=str(path),
                hint="copy it again",
            )


def external_tensors(graph: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Tensors that lie in files: initialisers and attributes, in bodies of operators as well."""
    for subgraph in (graph.graph, *graph.graph.subgraphs()):
        for value in subgraph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
        for node in subgraph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and isinstance(
                    attribute.value, ir.ExternalTensor
                ):
                    yield attribute.value


def external_files(graph: ir.Model, path: Path) -> tuple[Path, ...]:
    """The external data files of a graph read from `path`, in order of name."""
    beside = {path.parent / tensor.location for tensor in external_tensors(graph)}
    return tuple(sorted(beside - {path}))


def has_inside(graph: ir.Model, path: Path) -> bool:
    """Whether weights of a graph read from `path` are mapped from within that file itself."""
    return any(tensor.path == str(path) for tensor in external_tensors(graph))


def link_external(model: Model, folder: Path) -> None:
    """The model's external data under the same names in another folder, copied only where its
    files cannot have two names."""
    for file in model.files[1:]:
        link = folder / file.relative_to(model.path.parent)
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, link)
        except OSError:
            shutil.copyfile(file, link)
