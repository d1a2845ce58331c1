"""Whether an ONNX file's graph can be one, before anything is done with it."""

from __future__ import annotations

import math

import onnx
import onnx_ir as ir

from edgedl.core.errors import BadModel, nearest

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})


def check_sound(proto: onnx.ModelProto, where: str) -> None:
    """Check that a model has inputs, outputs, whole weights, known operators and no cycle.

    Raises:
        BadModel: it lacks one of them; the message says which.
    """
    graph = proto.graph
    if not proto.ir_version or not graph.node:
        raise BadModel("not an ONNX file, or an empty one", where=where, hint="export it again")
    if not proto.opset_import:
        raise BadModel("it names no opset: truncated", where=where, hint="export it again")
    for tensor in graph.initializer:
        _check_weight(tensor, where)
    initializers = {tensor.name for tensor in graph.initializer}
    initializers |= {tensor.values.name for tensor in graph.sparse_initializer}
    if not any(value.name not in initializers for value in graph.input):
        raise BadModel(
            "the model has no inputs",
            where=where,
            hint="export it with its inputs as arguments; a constant needs no compression",
        )
    if not graph.output:
        raise BadModel("the model has no outputs", where=where, hint="export it again")
    for value in (*graph.input, *graph.output):
        _check_array(value, where)
    opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in proto.opset_import}
    functions = {(function.domain, function.name) for function in proto.functions}
    _check_graph(graph, set(), functions, opsets, where)


def _check_array(value: onnx.ValueInfoProto, where: str) -> None:
    """An input or output is an array; scikit-learn's converter makes maps of class scores."""
    kind = value.type.WhichOneof("value")
    if kind in (None, "tensor_type"):
        return
    element = value.type.sequence_type.elem_type.WhichOneof("value")
    maps = kind == "map_type" or (kind == "sequence_type" and element == "map_type")
    what = "maps of scores" if maps else f"a {kind.removesuffix('_type').replace('_', ' ')}"
    raise BadModel(
        f"`{value.name}` is {what}, where engines here take and give arrays",
        where=where,
        hint="export it again without ZipMap: to_onnx(..., options={'zipmap': False})"
        if maps
        else "export it again with an array in its place",
    )


def _check_weight(tensor: onnx.TensorProto, where: str) -> None:
    if not tensor.HasField("raw_data"):
        return
    try:
        itemsize = ir.DataType(tensor.data_type).itemsize
    except (TypeError, ValueError):
        return
    if min(tensor.dims, default=1) < 0 or len(tensor.raw_data) != math.ceil(
        math.prod(tensor.dims) * itemsize
    ):
        raise BadModel(
            f"weight `{tensor.name}` has {len(tensor.raw_data)} bytes, not those of its shape",
            where=where,
            hint="export it again",
        )


def _check_graph(
    graph: onnx.GraphProto,
    outer: set[str],
    functions: set[tuple[str, str]],
    opsets: dict[str, int],
    where: str,
) -> None:
    made = {name for node in graph.node for name in node.output if name}
    known = outer | {value.name for value in graph.input}
    known |= {tensor.name for tensor in graph.initializer}
    known |= {tensor.values.name for tensor in graph.sparse_initializer}
    for node in graph.node:
        _check_operator(node, functions, opsets, where)
        for name in node.input:
            if name and name not in known and name not in made:
                raise BadModel(
                    f"node `{node.name or node.op_type}` reads `{name}`, which nothing makes:"
                    " a missing initialiser or node",
                    where=where,
                    hint="export it again, with its weights",
                )
    _check_acyclic(graph, made - known, where)
    for value in graph.output:
        if value.name not in known and value.name not in made:
            raise BadModel(
                f"nothing makes the output `{value.name}`", where=where, hint="export it again"
            )
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                if body.node:
                    _check_graph(body, known | made, functions, opsets, where)


def _check_acyclic(graph: onnx.GraphProto, made: set[str], where: str) -> None:
    """See that nodes can run one after the other (Kahn, Topological sorting of large networks,
    1962)."""
    waiting = [{name for name in node.input if name in made} for node in graph.node]
    readers: dict[str, list[int]] = {}
    for i, names in enumerate(waiting):
        for name in names:
            readers.setdefault(name, []).append(i)
    ready = [i for i, names in enumerate(waiting) if not names]
    done = 0
    while ready:
        node = graph.node[ready.pop()]
        done += 1
        for name in node.output:
            for i in readers.pop(name, ()):
                waiting[i].discard(name)
                if not waiting[i]:
                    ready.append(i)
    if done < len(graph.node):
        stuck = next(node for node, names in zip(graph.node, waiting, strict=True) if names)
        raise BadModel(
            f"the graph is cyclic: node `{stuck.name or stuck.op_type}` waits for its own output",
            where=where,
            hint="export it again; recurrence belongs into Loop, Scan, LSTM or a state input",
        )


def _check_operator(
    node: onnx.NodeProto, functions: set[tuple[str, str]], opsets: dict[str, int], where: str
) -> None:
    if (node.domain, node.op_type) in functions:
        return
    if node.domain not in DOMAINS:
        raise BadModel(
            f"operator `{node.op_type}` is of the unknown domain `{node.domain}`",
            where=where,
            hint="export it to standard ONNX operators; custom operators cannot be compressed",
        )
    domain = "" if node.domain == "ai.onnx" else node.domain
    if domain != "com.microsoft" and not onnx.defs.has(node.op_type, domain):
        names = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == domain}
        raise BadModel(
            f"unknown operator `{node.op_type}`",
            where=where,
            hint=nearest(node.op_type, names).split(" known:")[0],
        )
    opset = opsets.get(domain)
    if domain == "" and opset is not None and not onnx.defs.has(node.op_type, opset, domain):
        raise BadModel(
            f"operator `{node.op_type}` is newer than the model's opset {opset}",
            where=where,
            hint="export it again with a later opset_version",
        )
