"""From a graph as plain data to a network: which operation becomes which layer or function."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedl.core.errors import Unsupported
from edgedl.core.program import Operation, Program
from edgedl.train.graphs.brought import Brought, Function, Step, used
from edgedl.train.graphs.functions import between, steering
from edgedl.train.graphs.layers import (
    Token,
    group_norm,
    layer_of,
    learned,
    with_bias,
)
from edgedl.train.graphs.node import Made
from edgedl.train.graphs.patterns import (
    Graph,
    Groups,
    behind,
    bias_behind,
    flat_behind,
    group_norm_at,
    is_zero,
    padding_at,
    taken_apart,
)
from edgedl.train.graphs.places import places_of
from edgedl.train.graphs.probe import Seen, seen
from edgedl.train.graphs.recurrent import flat_output
from edgedl.train.graphs.reshapes import Reshaped
from edgedl.train.graphs.sizes import MOST, ON_SIZES, count, shape_sizes
from edgedl.train.graphs.whole import whole_layers
from edgedl.train.operators import function_of
from edgedl.train.operators_base import tensor_of
from edgedl.train.shapes import TensorShape

RESHAPING = ("Reshape", "Flatten")
# What leaves channels where they are, one by one.
PASSING = frozenset({"Add", "Mul", "Div", "Sub", "Identity", "Relu"})
RECURRENT = ("LSTM", "GRU")
JOINING = ("Concat", "Expand")


def bring(
    program: Program,
    inputs: Mapping[str, TensorShape],
    feed: Mapping[str, Tensor],
    *,
    placed: bool = False,
) -> Brought:
    """A graph as a network.

    Args:
        inputs: by the graph's names, in the order in which `forward` is to take them.
        feed: a batch of them, as large as the graph takes: two or more samples where it can.
        placed: whether the batch of a graph for one sample is followed from operation to operation,
            and not taken to be the first axis of what is reshaped.

    Raises:
        Unsupported: an operator cannot be brought back; its name and its node's are said.
    """
    batch = next(iter(feed.values())).shape[0]
    shown = seen(program, feed, batch)
    if batch > 1:
        less = {name: value[:-1] for name, value in feed.items()}
        shown = replace(shown, fewer=seen(program, less, batch - 1).shapes)
    elif placed:
        shown = replace(shown, places=places_of(program, shown.shapes))
    graph = _computed(program, shown)
    return _Bringing(graph).network(inputs)


def _computed(program: Program, shapes: Seen) -> Graph:
    """The graph without operations of constants alone, whose results are constants then."""
    constants, left = dict(program.constants), []
    for operation in program.operations:
        if operation.kind == "Shape" or not all(n in constants for n in operation.inputs if n):
            left.append(operation)
            continue
        given = [tensor_of(constants[name]) if name else None for name in operation.inputs]
        made = function_of(operation)(operation, given, program.opset)
        results = made if isinstance(made, tuple) else (made,)
        constants |= {n: r.numpy() for n, r in zip(operation.outputs, results, strict=False)}
    return Graph(replace(program, operations=tuple(left)), constants, shapes)


class _Bringing:
    """A graph on its way: steps and layers so far."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.steps: list[Step] = []
        self.layers: dict[str, nn.Module] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.sizes: set[str] = set()
        self.shared: dict[tuple[Any, ...], str] = {}
        self.makers: dict[str, str] = {}  # the layers that make values
        self.done: set[int] = set()

    def network(self, inputs: Mapping[str, TensorShape]) -> Brought:
        """All of it.

        Raises:
            Unsupported: an operator cannot be brought back.
        """
        program = self.graph.program
        norms = {
            id(found.parts[0]): found
            for operation in program.operations
            if (found := group_norm_at(self.graph, operation)) is not None
        }
        for operation in program.operations:
            if id(operation) in norms:
                self._group_norm(norms[id(operation)])
            if id(operation) not in self.done:
                self._take(operation)
        outputs = [tensor.name for tensor in program.signature.outputs]
        for name in outputs:
            if name in self.graph.constants or name in self.sizes:
                raise Unsupported(
                    f"output `{name}` does not depend on the inputs' values",
                    hint="take it out of the model's outputs",
                )
        steps = used(self.steps, outputs)
        called = {step.layer for step in steps}
        layers = {name: layer for name, layer in self.layers.items() if name in called}
        read = {name for step in steps for name in step.inputs}
        constants = {name: array for name, array in self.constants.items() if name in read}
        heads = {name: size for name, size in self._heads() if name in called}
        whole = whole_layers(steps, layers, outputs, self.graph)
        return Brought(inputs, outputs, steps, layers, constants, heads, whole)

    def _take(self, operation: Operation) -> None:
        if self._size(operation):
            return
        made = layer_of(operation, self.graph.constants, self.graph.seen, self.graph.program.opset)
        if made is not None:
            self._layer(operation, made)
        elif operation.kind in RESHAPING and (found := self._reshaped(operation)) is not None:
            fed = (self.graph.program.signature.inputs[0].name,) if found.by_batch else ()
            names = (operation.inputs[0], *fed)
            self.steps.append(Step(names, operation.outputs, operation, call=found))
        elif (pads := padding_at(self.graph, operation)) is not None:
            source, amounts = pads
            pad: Any = partial(functional.pad, pad=amounts)
            self.steps.append(Step((source,), operation.outputs, operation, call=pad))
        else:
            self._function(operation)

    def _size(self, operation: Operation) -> bool:
        """Whether an operation computes sizes; it is taken then."""
        kind, names = operation.kind, [name for name in operation.inputs if name]
        if kind in ("Shape", "Size") and names[0] not in self.sizes:
            function: Any = shape_sizes if kind == "Shape" else count
        elif kind in ON_SIZES and self.sizes & set(names) and all(map(self._is_size, names)):
            function = ON_SIZES[kind]
        else:
            return False
        self.sizes |= set(operation.outputs)
        known = {
            i: self.graph.constants[name]
            for i, name in enumerate(operation.inputs)
            if name in self.graph.constants
        }
        call = Function(lambda op, _opset, *given: function(op, *given), operation, 0, known)
        given = tuple("" if i in known else name for i, name in enumerate(operation.inputs))
        every = tuple(range(len(given)))
        self.steps.append(Step(given, operation.outputs, operation, call=call, steered=every))
        return True

    def _is_size(self, name: str) -> bool:
        constant = self.graph.constants.get(name)
        return name in self.sizes or (constant is not None and constant.size <= MOST)

    def _layer(self, operation: Operation, made: Made) -> None:
        outputs = operation.outputs
        if isinstance(made.layer, nn.Linear) and operation.kind == "MatMul":
            found = bias_behind(self.graph, operation)
            if found is not None:
                (addition, bias) = found
                made, outputs = with_bias(made, bias), addition.outputs
                self.done.add(id(addition))
        if operation.kind in RECURRENT:
            states = ("" if n and is_zero(self.graph, n) else n for n in made.tensors[1:])
            made = replace(made, tensors=(made.tensors[0], *states))
            flat = flat_behind(self.graph, operation)
            if flat is not None:
                made, outputs = flat_output(made), (flat[0], *operation.outputs[1:])
                self.done |= {id(one) for one in flat[1]}
        key = made.shared
        name = self.shared.get(key) if key is not None else None
        if name is None:
            name = self._name(operation)
            self._tie(made.layer)
            self.layers[name] = made.layer
            if key is not None:
                self.shared[key] = name
        self._hold(made.tensors)
        self.steps.append(Step(made.tensors, outputs, operation, name, made.call))
        self.makers[outputs[0]] = name

    def _tie(self, layer: nn.Module) -> None:
        """Make one weight of a table and of the dense layer that answers by it, whose copies a file
        has: they were one, and learn as one."""
        if not isinstance(layer, (nn.Embedding, nn.Linear)):
            return
        other = nn.Linear if isinstance(layer, nn.Embedding) else nn.Embedding
        for one in self.layers.values():
            if isinstance(one, other) and torch.equal(one.weight, layer.weight):
                layer.weight = one.weight

    def _group_norm(self, found: Groups) -> None:
        operation = found.parts[1]
        epsilon = operation.attributes.get("epsilon", 1e-5)
        name = self._name(operation)
        self.layers[name] = group_norm(
            found.groups, epsilon, found.scale, found.bias, found.channels
        )
        self.steps.append(Step((found.source,), (found.made,), operation, name))
        self.done |= {id(one) for one in found.parts}

    def _reshaped(self, operation: Operation) -> Reshaped | None:
        """What a reshaping does; of channels whose first part is taken apart behind it, as queries,
        keys and values, the next one is open."""
        source, made = operation.inputs[0], operation.outputs[0]
        found = self.graph.seen.reshaped(source, made)
        first = 0
        for part in found.parts if found is not None else ():
            behind = [i for i, n in enumerate(part.sizes) if n > 1 and i > part.open]
            channels = part.many is None and part.axes[-1:] == (self.graph.seen.rank(source) - 1,)
            parted = channels and part.axes != (0,) and behind
            if found is not None and parted and taken_apart(self.graph, made, first + part.open):
                found = found.opened(part, behind[0])
            first += len(part.sizes)
        return found

    def _function(self, operation: Operation) -> None:
        steered = set(steering(operation))
        inputs, known = list(operation.inputs), {}
        for i, name in enumerate(operation.inputs):
            array = self.graph.constants.get(name)
            if array is None:
                continue
            scalar = operation.kind == "Gather" and i == 1 and array.ndim == 0
            if i in steered or scalar:
                known[i], inputs[i] = array, ""
        if operation.kind == "Gather" and 1 not in known:
            operation = self._not_wrapping(operation, inputs)
        if operation.kind in JOINING:
            self._tokens(operation, inputs)
        call = Function(between(operation), operation, self.graph.program.opset, known)
        self._hold(inputs)
        names = tuple(inputs)
        self.steps.append(
            Step(names, operation.outputs, operation, call=call, steered=tuple(steered))
        )

    def _tokens(self, operation: Operation, inputs: list[str]) -> None:
        """Make parameters of constants that look like weights."""
        for i, name in enumerate(inputs):
            array = self.graph.constants.get(name)
            if array is not None and learned(array):
                inputs[i] = f"{name} of {operation.name}"
                layer = self._name(operation)
                self.layers[layer] = Token(tensor_of(array.astype(np.float32)))
                self.steps.append(Step((), (inputs[i],), operation, layer))

    def _not_wrapping(self, operation: Operation, inputs: list[str]) -> Operation:
        """A `Gather` whose known indices count from the start, which is noted."""
        array = self.graph.constants.get(inputs[1])
        if array is None:
            return operation
        axis = operation.attributes.get("axis", 0)
        length = self.graph.seen.shapes[inputs[0]][axis]
        name = f"{inputs[1]} of {operation.name}"
        self.constants[name] = np.where(array < 0, array + length, array).astype(np.int64)
        inputs[1] = name
        return replace(operation, attributes={**operation.attributes, "wrapped": True})

    def _hold(self, names: Any) -> None:
        for name in names:
            if name in self.graph.constants:
                self.constants[name] = self.graph.constants[name]

    def _name(self, operation: Operation) -> str:
        """A node's name as that of a layer, another for each."""
        plain = re.sub(r"\W+", "_", operation.name.removeprefix("node_")).strip("_")
        plain = plain or operation.kind.lower()
        if plain[0].isdigit() or hasattr(nn.ModuleDict, plain):
            plain = f"{operation.kind.lower()}_{plain}"
        name, number = plain, 2
        while name in self.layers:
            name, number = f"{plain}_{number}", number + 1
        return name

    def _heads(self) -> list[tuple[str, int]]:
        """Layers whose channels a reshaping splits into heads, and the channels of one."""
        found = []
        for made, layer in self.makers.items():
            for operation in behind(self.graph, made, PASSING):
                if operation.kind not in RESHAPING or operation.inputs[0] in self.sizes:
                    continue
                parts = self._reshaped(operation)
                rank = self.graph.seen.rank(operation.inputs[0])
                last = None if parts is None else parts.parts[-1]
                wide = 0 if last is None else sum(size > 1 for size in last.sizes)
                if last is not None and wide == 2 and last.axes == (rank - 1,):
                    found.append((layer, last.sizes[-1]))
        return found


def tried(network: Brought, feed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a network answers, by name, in evaluation mode."""
    network.eval()
    with torch.no_grad():
        given = network(*(feed[name] for name in network.inputs))
    return given if isinstance(given, dict) else {network.outputs[0]: given}
