"""A quantized model as a float one in which every quantizer can be switched on, off or mended."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir

from edgedl.core.memory import usable_cores
from edgedl.core.model import Model
from edgedl.core.store import default_store
from edgedl.passes.graph import FILE_NAME, constant, read
from edgedl.passes.match import Match, activations, bias_of, float_weights, match
from edgedl.passes.quantizers import Found, Grid, take_out
from edgedl.runtime import any_engine
from edgedl.runtime.session import Session

Setting = Literal["given"] | Grid | np.ndarray
Settings = Mapping[int, Setting]
BASE, GIVEN = "base.data", "given.data"
ALIGN = 64
# What taking a graph apart, and onnxruntime's quantizer, add to names.
SUFFIXES = ("_activation", "_float", "_quantized", "_quant")
MEASURED = {"memory_pattern": False}
# onnxruntime would quantize the float weights between quantizers by itself.
AS_WRITTEN = {"unfused": ["WeightBiasQuantization", "QDQSelectorActionTransformer"]}
CLIPS = frozenset({"Relu", "Clip", "Sigmoid", "Softmax", "HardSigmoid", "HardSwish"})


@dataclass(frozen=True)
class Place:
    """Where an array lies in the file of given values."""

    offset: int
    shape: tuple[int, ...]

    def read(self, folder: Path) -> np.ndarray:
        if not all(self.shape):
            return np.zeros(self.shape, np.float32)
        path = folder / GIVEN
        return np.memmap(path, np.float32, "r", self.offset, self.shape)


class Switchboard:
    """The quantizers of a model, each with a switch; all are off where nothing is said.

    Off, a weight is that of the float model, and an activation is not rounded. `given` is what the
    quantized model has; a `Grid` or an array is put in its place.

    Attributes:
        found: the quantizers, in graph order; a switch is its position here.
        left: operators that compute on codes and could not be taken apart.
        unmatched: switches of weights that the float model has not: they have no off.
        tensors: float tensors along the graph, by the name of the node that makes them.
        operators: types of nodes by name.
    """

    def __init__(
        self, quantized: Model, floats: Sequence[Model], names: Mapping[str, str], folder: Path
    ) -> None:
        graph = read(quantized.path)
        ir.external_data.load_to_model(graph)
        found, self.left = take_out(graph)
        self.folder, self.names = folder, names
        weights = match(found, float_weights(floats), names)
        self.float_nodes = {stored: one.weight.node for stored, one in weights.items()}
        _restore_activations(graph, found, activations(floats), self.float_nodes, names)
        self._places: dict[str, Place] = {}
        self._moved: dict[str, list[str]] = {}
        self._written = 0
        with (folder / GIVEN).open("wb") as self._file:
            self._put_floats(graph, found, weights)
        self.unmatched = tuple(
            i
            for i, one in enumerate(found)
            if one.kind != "activation" and one.stored not in self.float_nodes
        )
        self.found = [replace(one, value=None) for one in found]
        self.tensors = {node.name or "": node.outputs[0].name or "" for node in graph.graph}
        self.operators = {node.name or "": node.op_type for node in graph.graph}
        self.producers = {
            v.name or "": node.name or "" for node in graph.graph for v in node.outputs
        }
        self.inputs_of = {
            node.name or "": [v.name or "" if v is not None else "" for v in node.inputs]
            for node in graph.graph
        }
        self.attributes = {
            node.name or "": {
                key: attribute.value
                for key, attribute in node.attributes.items()
                if attribute.type in (ir.AttributeType.INT, ir.AttributeType.INTS)
            }
            for node in graph.graph
        }
        self.order = {name: i for i, name in enumerate(self.tensors)}
        ir.save(graph, folder / FILE_NAME, external_data=BASE, size_threshold_bytes=256)
        self._proto = onnx.load(folder / FILE_NAME, load_external_data=False)
        self._initializers = {t.name: i for i, t in enumerate(self._proto.graph.initializer)}
        self._nodes = {n.name: i for i, n in enumerate(self._proto.graph.node)}

    def _put_floats(
        self, graph: ir.Model, found: Sequence[Found], weights: Mapping[str, Match]
    ) -> None:
        """Keep what the quantized model has of each weight and bias, and have the graph compute
        with what the float model has."""
        for one in found:
            if one.value is not None:
                self._keep(one.stored, one.value)
        biases: dict[str, np.ndarray] = {}
        for one in found:
            if one.stored in weights:
                same = weights[one.stored]
                _set(graph, one.stored, same.array())
                if same.weight.bias is not None:
                    biases[one.node] = same.weight.bias
                self._move_bias(graph, one, same.weight.bias)
        for one in found:
            bias = biases.get(one.node)
            if one.kind != "bias" or bias is None or one.value is None:
                continue
            if bias.size == one.value.size:
                _set(graph, one.stored, bias.reshape(one.value.shape))
                self.float_nodes[one.stored] = one.node

    def _keep(self, name: str, array: np.ndarray) -> None:
        self._file.write(bytes(-self._written % ALIGN))
        self._written += -self._written % ALIGN
        data = np.ascontiguousarray(array, np.float32)
        self._places[name] = Place(self._written, data.shape)
        self._file.write(data.tobytes())
        self._written += data.nbytes

    def _move_bias(self, graph: ir.Model, one: Found, bias: np.ndarray | None) -> None:
        """A float bias that differs from the float model's, for it was corrected: its switch is
        that of the weights."""
        node = next((n for n in graph.graph if n.name == one.node), None)
        if node is None:
            return
        value, array = bias_of(node)
        if value is None or array is None or value.name is None or value.name in self._places:
            return
        if len(list(value.uses())) > 1 or array.dtype != np.float32:
            return
        if bias is None and node.op_type == "MatMul":
            return
        before = np.zeros_like(array) if bias is None else bias
        if before.size != array.size or np.array_equal(before.reshape(array.shape), array):
            return
        self._keep(value.name, array)
        self._moved.setdefault(one.stored, []).append(value.name)
        _set(graph, value.name, before.reshape(array.shape).astype(np.float32))

    def name_of(self, name: str) -> str:
        """The original name of a node or tensor, as far as it can be told."""
        plain = name
        for suffix in SUFFIXES:
            plain = plain.removesuffix(suffix)
        return self.names.get(name) or self.names.get(plain) or plain

    def given(self, switch: int) -> np.ndarray:
        """The value of a weight as its codes say, float32 in its shape, mapped from its file."""
        return self._places[self.found[switch].stored].read(self.folder)

    def float_of(self, switch: int) -> np.ndarray | None:
        """The value of a weight in the float model, in its shape; None where it was not found."""
        stored = self.found[switch].stored
        if stored not in self.float_nodes:
            return None
        proto = self._proto.graph.initializer[self._initializers[stored]]
        return np.asarray(onnx.numpy_helper.to_array(proto, str(self.folder)))

    @property
    def all_on(self) -> dict[int, Setting]:
        """Every switch as the quantized model has it."""
        return dict.fromkeys(range(len(self.found)), "given")

    def variant(
        self,
        settings: Settings,
        *,
        watch: Sequence[str] = (),
        twins: Sequence[int] = (),
    ) -> onnx.ModelProto:
        """The float model with these switches, its large weights beside it.

        Args:
            watch: tensors that become outputs.
            twins: switches of weights; the operator that reads one is there a second time with the
                weight as given, and its result is the output `edgedl_twin_<switch>`.
        """
        proto = onnx.ModelProto()
        proto.CopyFrom(self._proto)
        graph = proto.graph
        for switch, setting in settings.items():
            one = self.found[switch]
            if one.kind == "activation":
                continue
            for name in (one.stored, *self._moved.get(one.stored, ())):
                tensor = graph.initializer[self._initializers[name]]
                if isinstance(setting, np.ndarray) and name == one.stored:
                    tensor.CopyFrom(onnx.numpy_helper.from_array(setting, name))
                elif not isinstance(setting, Grid):
                    self._refer(tensor, self._places[name])
        for switch in twins:
            _twin(proto, self.found[switch], switch, self)
        nodes = list(graph.node)
        replaced = {
            self._nodes[self.found[switch].stored]: _quantizer(
                proto, self.found[switch], nodes[self._nodes[self.found[switch].stored]], setting
            )
            for switch, setting in settings.items()
            if self.found[switch].kind == "activation"
        }
        del graph.node[:]
        for i, node in enumerate(nodes):
            graph.node.extend(replaced.get(i, [node]))
        outputs = {value.name for value in graph.output}
        for name in (*watch, *(f"edgedl_twin_{switch}" for switch in twins)):
            if name not in outputs:
                outputs.add(name)
                graph.output.append(
                    onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
                )
        return proto

    def _refer(self, tensor: onnx.TensorProto, place: Place) -> None:
        length = int(np.prod(place.shape, dtype=np.int64)) * 4
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        del tensor.external_data[:]
        if length <= 1024:
            array = np.asarray(place.read(self.folder))
            tensor.ClearField("data_location")
            tensor.raw_data = array.tobytes()
            return
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", GIVEN), ("offset", place.offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))

    @contextmanager
    def open(
        self,
        settings: Settings,
        *,
        watch: Sequence[str] = (),
        twins: Sequence[int] = (),
    ) -> Iterator[Session]:
        """A session of a variant, on the first engine that is installed."""
        path = self.folder / "variant.onnx"
        path.write_bytes(self.variant(settings, watch=watch, twins=twins).SerializeToString())
        kept = {**(MEASURED if watch or twins else {}), **AS_WRITTEN}
        with any_engine().open_model(path, settings=kept, threads=usable_cores()) as session:
            yield session


@contextmanager
def switchboard(
    quantized: Model, floats: Sequence[Model], names: Mapping[str, str]
) -> Iterator[Switchboard]:
    """The switchboard of a quantized model, whose files go when it is done with.

    Args:
        floats: the float model, as it is and with its constants folded.
        names: original names by those of the quantized graph.
    """
    root = default_store().root
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".switches-", dir=root))
    try:
        yield Switchboard(quantized, floats, names, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _restore_activations(
    graph: ir.Model,
    found: Sequence[Found],
    spans: Mapping[str, tuple[float, float]],
    float_nodes: Mapping[str, str],
    names: Mapping[str, str],
) -> None:
    """Bring back the activations that a tool left to the ends of a quantizer's range."""
    nodes = {node.name: node for node in graph.graph}
    twins = {one.node: float_nodes[one.stored] for one in found if one.stored in float_nodes}
    for one in found:
        if one.kind != "activation" or one.operator in CLIPS:
            continue
        kept = nodes[one.stored]
        source = kept.inputs[0]
        producer = source.producer() if source is not None else None
        if source is None or producer is None or producer.op_type in CLIPS:
            continue
        if any(use.node.op_type in CLIPS for use in kept.outputs[0].uses()):
            continue
        name = names.get(one.tensor, one.tensor)
        plain = name.removesuffix("_float").removesuffix("_quantized")
        keys = (name, plain, f"node {twins.get(one.node, names.get(one.node, one.node))}")
        span = next((spans[key] for key in keys if key in spans), None)
        if span is None or one.grid is None or one.grid.low < span[0] - float(one.grid.scale.max()):
            continue
        limits = [_scalar(graph, f"{one.stored}_{i}", end) for i, end in enumerate(span)]
        clip = ir.node("Clip", [source, *limits], name=f"{one.stored}_activation")
        clip.outputs[0].name = f"{one.stored}_activation"
        clip.outputs[0].type, clip.outputs[0].shape = source.type, source.shape
        graph.graph.insert_before(kept, [clip])
        kept.replace_input_with(0, clip.outputs[0])


def _scalar(graph: ir.Model, name: str, end: float) -> ir.Value | None:
    if not np.isfinite(end):
        return None
    return constant(graph.graph, name, np.asarray(end, np.float32))


def _set(graph: ir.Model, name: str, array: np.ndarray) -> None:
    value = graph.graph.initializers[name]
    value.const_value = ir.tensor(np.ascontiguousarray(array, np.float32), name=name)


def _quantizer(
    proto: onnx.ModelProto, one: Found, node: onnx.NodeProto, setting: Setting
) -> list[onnx.NodeProto]:
    """What stands in a placeholder's place: QuantizeLinear and DequantizeLinear, or, for channels
    and rare types, the same in float."""
    name, source, result = one.stored, node.input[0], node.output[0]
    helper = onnx.helper
    grid = one.grid if isinstance(setting, str) else setting
    if grid is None:
        parts = [f"{name}_{part}" for part in ("codes", "scale", "zero")]
        return [
            helper.make_node("DynamicQuantizeLinear", [source], parts, name=f"{name}_q"),
            helper.make_node("DequantizeLinear", parts, [result], name=f"{name}_dq"),
        ]
    assert isinstance(grid, Grid)

    def initializer(part: str, array: np.ndarray) -> str:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, f"{name}_{part}"))
        return f"{name}_{part}"

    limits = {(0, 255): np.uint8, (-128, 127): np.int8}
    if grid.axis is None and (grid.least, grid.most) in limits:
        scale = initializer("scale", np.asarray(grid.scale, np.float32))
        zero = initializer("zero", grid.zero.astype(limits[grid.least, grid.most]))
        return [
            helper.make_node("QuantizeLinear", [source, scale, zero], [f"{name}_c"], f"{name}_q"),
            helper.make_node(
                "DequantizeLinear", [f"{name}_c", scale, zero], [result], f"{name}_dq"
            ),
        ]
    behind = 0
    if grid.axis is not None:
        behind = -1 - grid.axis if grid.axis < 0 else RANK_4 - 1 - grid.axis
    shape = () if grid.axis is None else (-1, *[1] * behind)
    scale = initializer("scale", np.asarray(grid.scale, np.float32).reshape(shape))
    low = initializer("low", (grid.least - grid.zero).astype(np.float32).reshape(shape))
    high = initializer("high", (grid.most - grid.zero).astype(np.float32).reshape(shape))
    steps = [("Div", [source, scale]), ("Round", []), ("Max", [low]), ("Min", [high])]
    made, last = [], ""
    for step, operands in [*steps, ("Mul", [scale])]:
        output = result if step == "Mul" else f"{name}_{step}"
        inputs = operands if step == "Div" else [last, *operands]
        made.append(helper.make_node(step, inputs, [output], f"{name}_{step}"))
        last = output
    return made


RANK_4 = 4


def _twin(proto: onnx.ModelProto, one: Found, switch: int, board: Switchboard) -> None:
    node = next(n for n in proto.graph.node if n.name == one.node)
    twin = proto.graph.node.add()
    twin.CopyFrom(node)
    twin.name = f"edgedl_twin_{switch}"
    del twin.output[:]
    twin.output.append(twin.name)
    for i, name in enumerate(twin.input):
        if name == one.stored:
            twin.input[i] = f"{name}_twin"
    place = board._places[one.stored]
    tensor = proto.graph.initializer.add(
        name=f"{one.stored}_twin", data_type=onnx.TensorProto.FLOAT, dims=list(place.shape)
    )
    board._refer(tensor, place)
