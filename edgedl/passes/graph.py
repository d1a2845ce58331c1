"""ONNX files in and out: a `Model` for everyone, and its graph for who plans or edits it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

import edgedl
from edgedl.core.errors import BadModel, EdgeError, Unsupported, first_line
from edgedl.core.model import Model, Signature, Step, Tensor, sha256
from edgedl.core.registry import version
from edgedl.core.samples import Samples
from edgedl.core.store import Store, default_store, key_of
from edgedl.core.units import format_bytes
from edgedl.passes.external import check_external, external_files, has_inside, link_external
from edgedl.passes.mapped import keep_mapped, without_weights
from edgedl.passes.sound import check_sound

HISTORY_KEY = "edgedl.history"
EXTERNAL_BYTES = 8 << 20
FILE_NAME = "model.onnx"
DATA_SUFFIX = ".data"
LEAST_IR_VERSION = 8
QUANTIZED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeLSTM",
     "ConvInteger", "MatMulInteger"}
)  # fmt: skip
MOST_BYTES = (1 << 31) - (1 << 20)


class Edit(Protocol):
    """What a pass gives to `rewrite`: its name, its settings as fields, and one in-place edit."""

    name: ClassVar[str]

    def edit(self, graph: ir.Model) -> None: ...


def open_model(path: str | Path) -> Model:
    """The model in an ONNX file, checked for soundness, none of its weights copied.

    Raises:
        BadModel: not an ONNX file, truncated, cyclic, an initialiser or external data file is
            missing, an operator or domain is unknown, or it has no inputs or outputs.
    """
    path = Path(path)
    graph = read(path)
    signature = signature_of(graph, str(path))
    files = (path, *external_files(graph, path))
    try:
        steps = json.loads(graph.metadata_props.get(HISTORY_KEY, "[]"))
        history = tuple(Step.from_json(step) for step in steps)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadModel(
            f"its history under `{HISTORY_KEY}` is damaged",
            where=str(path),
            hint=f"remove `{HISTORY_KEY}` from its metadata, or make it again",
        ) from error
    return Model(path, sha256(files), signature, history, files)


def read(path: Path) -> ir.Model:
    """The graph in an ONNX file; large weights stay on disk, memory-mapped on use.

    Raises:
        BadModel: as `open_model`, but for its inputs and outputs.
    """
    try:
        proto = onnx.load_model_from_string(without_weights(path))
    except FileNotFoundError as error:
        raise BadModel(
            "no such file", where=str(path), hint="give the path of an ONNX file"
        ) from error
    except IsADirectoryError as error:
        raise BadModel("is a folder", where=str(path), hint="give the ONNX file in it") from error
    except OSError as error:
        raise BadModel(f"cannot be read ({error.strerror})", where=str(path)) from error
    except DecodeError as error:
        raise BadModel(
            "not an ONNX file, or a truncated one",
            where=str(path),
            hint="export it again; torch: torch.onnx.export(model, args, 'model.onnx')",
        ) from error
    check_sound(proto, str(path))
    try:
        graph = ir.serde.deserialize_model(proto)
    except Exception as error:
        raise BadModel(
            f"damaged ({first_line(error)})", where=str(path), hint="export it again"
        ) from error
    ir.external_data.set_base_dir(graph.graph, path.parent)
    keep_mapped(graph)
    check_external(graph, path)
    return graph


def signature_of(graph: ir.Model, where: str) -> Signature:
    """Inputs that are not initialisers, and outputs.

    Raises:
        BadModel: one is nothing that a session takes or gives, as `tensor_of` says.
    """
    inputs = [value for value in graph.graph.inputs if value.name not in graph.graph.initializers]
    return Signature(
        tuple(tensor_of(value, where) for value in inputs),
        tuple(tensor_of(value, where) for value in graph.graph.outputs),
    )


def tensor_of(value: ir.Value, where: str) -> Tensor:
    """A graph's input or output as the signature tells it.

    Raises:
        BadModel: it holds text, or is of a type that no array has.
    """
    name = value.name or ""
    if value.dtype == ir.DataType.STRING:
        raise BadModel(
            f"`{name}` holds text, which no engine here computes with",
            where=where,
            hint="move the text's encoding out of the model",
        )
    if value.dtype is None:
        raise BadModel(f"`{name}` has no element type", where=where, hint="export it again")
    try:
        dtype = value.dtype.numpy().name
    except TypeError as error:
        raise BadModel(f"`{name}` is {value.dtype}, which no array holds", where=where) from error
    return Tensor(name, dtype, None if value.shape is None else shape_of(value))


def shape_of(value: ir.Value) -> tuple[int | str | None, ...]:
    """A value's dimensions: ints, names of dynamic axes, None; () for unknown rank."""
    if value.shape is None:
        return ()
    return tuple(
        dimension if isinstance(dimension, int) else dimension.value for dimension in value.shape
    )


def constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """A new initialiser of the graph."""
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(array, name=name),
    )
    graph.register_initializer(value)
    return value


def drop_unused_initializers(graph: ir.Model) -> None:
    """Remove constants that nothing reads, in the bodies of `If` and `Loop`, too."""
    for one in (graph.graph, *graph.graph.subgraphs()):
        for name, value in list(one.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del one.initializers[name]


def settings_of(edit: Any) -> dict[str, Any]:
    """A pass's fields as plain JSON; samples stand as their digest."""
    assert is_dataclass(edit)
    return {
        field.name: _plain(getattr(edit, field.name))
        for field in fields(edit)
        if getattr(edit, field.name) is not None
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Samples):
        return {"samples": len(value), "digest": value.digest}
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list, frozenset, set)):
        return [
            _plain(entry)
            for entry in (sorted(value) if isinstance(value, (set, frozenset)) else value)
        ]
    return value


def versions() -> dict[str, str]:
    """The versions of what edits graphs."""
    found = {name: version(name.replace("_", "-")) for name in ("onnx", "onnx_ir", "onnxscript")}
    return {"edgedl": edgedl.__version__, **{name: v for name, v in found.items() if v}}


def rewrite(model: Model, *edits: Edit, store: Store | None = None) -> Model:
    """The model after these edits in turn, read once and written once, into the store.

    The same model, settings and library versions give the same file.

    Raises:
        BadModel: an edit failed on this graph.
    """
    source = model.digest
    steps: list[Step] = []
    for edit in edits:
        steps.append(Step(edit.name, settings_of(edit), source, versions()))
        source = key_of(step=steps[-1].to_json())
    history = (*model.history, *steps)
    signatures: list[Signature] = []

    def build(folder: Path) -> None:
        graph = read(model.path)
        for edit in edits:
            try:
                edit.edit(graph)
            except EdgeError:
                raise
            except Exception as error:
                raise BadModel(
                    f"pass `{edit.name}` failed on this graph ({first_line(error)})",
                    where=str(model.path),
                    hint="does it run as it is? try `edgedl bench` on it",
                ) from error
        graph.metadata_props[HISTORY_KEY] = json.dumps(
            [step.to_json() for step in history], sort_keys=True
        )
        write(graph, folder / FILE_NAME)
        signatures.append(signature_of(graph, str(model.path)))
        _forget_weights(graph)

    folder = (store or default_store()).make(
        key_of(model=model.digest, steps=[step.to_json() for step in steps]), build
    )
    path = folder / FILE_NAME
    if not signatures:
        return open_model(path)
    files = (path, *(file for file in (folder / (FILE_NAME + DATA_SUFFIX),) if file.exists()))
    return Model(path, sha256(files), signatures[0], history, files)


def write(graph: ir.Model, path: Path) -> None:
    """Save a graph; weights that pass 8 MiB together lie beside it, to be memory-mapped."""
    weights = sum(
        value.const_value.nbytes
        for value in graph.graph.initializers.values()
        if value.const_value is not None
    )
    graph.producer_name, graph.producer_version = "edgedl", edgedl.__version__
    graph.ir_version = max(graph.ir_version or LEAST_IR_VERSION, LEAST_IR_VERSION)
    if weights > EXTERNAL_BYTES:
        ir.save(graph, path, external_data=path.name + DATA_SUFFIX, size_threshold_bytes=1024)
    else:
        ir.external_data.load_to_model(graph)
        ir.save(graph, path)


def write_beside(graph: ir.Model, model: Model, path: Path) -> None:
    """Save an edited graph that shares the external data of `model`, which it was read from;
    weights inside that are written anew."""
    if has_inside(graph, model.path):
        write(graph, path)
        return
    link_external(model, path.parent)
    ir.save(graph, path)


@contextmanager
def short_named(model: Model) -> Iterator[tuple[Path, dict[str, str]]]:
    """The model as `to_ship` writes it, but for weights that lie in files of their own: the path of
    an ONNX file that is there as long as the context, and names by their short ones."""
    graph, names = _shortened(model)
    with tempfile.TemporaryDirectory(prefix=".short-", dir=model.path.parent) as folder:
        path = Path(folder) / FILE_NAME
        if has_inside(graph, model.path):
            ir.external_data.load_to_model(graph)
        link_external(model, path.parent)
        path.write_bytes(_serialized(graph))
        del graph
        yield path, names


def too_large(model: Model) -> str | None:
    """Why a model cannot be one ONNX file; None where it can."""
    if model.bytes < MOST_BYTES:
        return None
    return f"the model has {format_bytes(model.bytes)}, an ONNX file holds 2 GiB at most"


def to_ship(model: Model) -> tuple[bytes, dict[str, str]]:
    """The model as one small ONNX file, and its nodes' and tensors' names by their short ones.

    External data is brought inside; names within the graph are shortened, and history and shapes of
    inner tensors, which an engine infers, are left out. Inputs and outputs keep their names.

    Raises:
        Unsupported: it passes the 2 GiB that one file may have.
    """
    if problem := too_large(model):
        raise Unsupported(
            problem, where=str(model.path), hint="compress it in parts, or prune it first"
        )
    graph, names = _shortened(model)
    ir.external_data.load_to_model(graph)
    return _serialized(graph), names


def _shortened(model: Model) -> tuple[ir.Model, dict[str, str]]:
    graph = read(model.path)
    graph.metadata_props.pop(HISTORY_KEY, None)
    return graph, {} if any(True for _ in graph.graph.subgraphs()) else _shorten(graph.graph)


def _serialized(graph: ir.Model) -> bytes:
    proto = ir.to_proto(graph)
    _forget_weights(graph)
    del proto.graph.value_info[:]
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _forget_weights(graph: ir.Model) -> None:
    """Let go of a graph's weights, which lie in cycles of references until these are collected."""
    for value in graph.graph.initializers.values():
        value.const_value = None


def _shorten(graph: ir.Graph) -> dict[str, str]:
    kept = {value.name for value in (*graph.inputs, *graph.outputs)}
    names: dict[str, str] = {}
    weights = list(graph.initializers.values())
    inner = [value for node in graph for value in node.outputs]
    for prefix, values in (("w", weights), ("t", inner)):
        for i, value in enumerate(values):
            if value.name and value.name not in kept:
                names[f"{prefix}{i}"] = value.name
    if kept & set(names):
        return {}
    shorter = {long: short for short, long in names.items()}
    renamed = [(v, shorter[v.name]) for v in (*weights, *inner) if v.name in shorter]
    # By way of names that nothing has: a weight may bear the short name of another.
    for suffix in ("/renamed", ""):
        for value, short in renamed:
            value.name = short + suffix
    for i, node in enumerate(graph):
        names[f"n{i}"], node.name = node.name or "", f"n{i}"
    return names


def quantized_already(model: Model) -> bool:
    """Whether the graph converts between float and integers, or holds integer operators."""
    return any(
        node.op_type in QUANTIZED or node.op_type.startswith("QLinear")
        for node in read(model.path).graph.all_nodes()
    )
