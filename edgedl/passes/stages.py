"""A graph computed in stages, with what a cut's operators made changed before others read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgedl.runtime import engine
from edgedl.runtime.session import Session

Arrays = dict[str, np.ndarray]


@dataclass(eq=False)
class Stage:
    """Operators that no cut lies between, what they read of others, and what they make for others.

    `session` is opened when it first runs, as the types of what it reads are known then.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    makes: list[str] = field(default_factory=list)
    session: Session | None = None


class Staged:
    """A model that is computed stage by stage."""

    def __init__(
        self,
        path: Path,
        cuts: Mapping[str, Iterable[str]],
        engine_name: str,
        settings: Mapping[str, Any],
        threads: int,
    ) -> None:
        """Cut an ONNX file whose operators all have names and stand in an order that runs.

        Args:
            path: its large weights lie beside it; stages are written there, too.
            cuts: operators behind which it is cut, and the tensors that are looked at there.
            engine_name, settings, threads: what computes the stages, and how.
        """
        self._path, self._engine, self._settings = path, engine_name, settings
        self._cuts, self._threads = cuts, threads
        self._proto = onnx.load(path, load_external_data=False)
        self._initializers = {tensor.name: tensor for tensor in self._proto.graph.initializer}
        self._outputs = [value.name for value in self._proto.graph.output]
        self._constants: dict[str, onnx.NodeProto] = {}
        self.stages = self._cut()
        self._last = dict.fromkeys(self._outputs, len(self.stages))
        for number, stage in reversed(list(enumerate(self.stages))):
            for name in stage.reads:
                self._last.setdefault(name, number)

    def run(
        self, inputs: Mapping[str, np.ndarray], behind: Callable[[str, Arrays], None]
    ) -> Arrays:
        """Outputs by name.

        Args:
            behind: is given each operator that was cut at, and the tensors so far, to change them.

        Raises:
            WrongInput: the inputs do not fit. EngineFailed: a stage does not run.
        """
        values: Arrays = dict(inputs)
        for number, stage in enumerate(self.stages):
            if stage.session is None:
                stage.session = self._open(stage, values)
            values |= stage.session.run({name: values[name] for name in stage.reads})
            for node in stage.nodes:
                if node.name in self._cuts:
                    behind(node.name, values)
            for name in [n for n in values if self._last.get(n, -1) <= number]:
                del values[name]
        return {name: values[name] for name in self._outputs}

    def close(self) -> None:
        """Give the stages' memory back."""
        for stage in self.stages:
            if stage.session is not None:
                stage.session.close()
                stage.session = None

    def _cut(self) -> list[Stage]:
        graph = self._proto.graph
        depth = {value.name: 0 for value in graph.input if value.name not in self._initializers}
        stages: list[Stage] = [Stage()]
        for node in graph.node:
            levels = [depth[name] for name in _reads(node) if name in depth]
            if not levels and not node.op_type.startswith("Random"):
                self._constants.update(dict.fromkeys(filter(None, node.output), node))
                continue
            level = max(levels, default=0)
            behind = level + 1 if node.name in self._cuts else level
            stages += [Stage() for _ in range(behind + 1 - len(stages))]
            stages[level].nodes.append(node)
            depth.update(dict.fromkeys(filter(None, node.output), behind))
        told = [self._constants[name] for name in self._outputs if name in self._constants]
        stages[0].nodes[:0] = {id(node): node for node in told}.values()
        read_in = [{n for node in stage.nodes for n in _reads(node)} for stage in stages]
        for level, stage in enumerate(stages):
            made = [n for node in stage.nodes for n in filter(None, node.output)]
            wanted = set(self._outputs).union(*read_in[level + 1 :])
            wanted |= {n for node in stage.nodes for n in self._cuts.get(node.name, ())}
            stage.makes = list(dict.fromkeys(n for n in made if n in wanted))
            stage.reads = sorted((read_in[level] & {*depth}) - {*made})
        return [stage for stage in stages if stage.nodes]

    def _open(self, stage: Stage, values: Mapping[str, np.ndarray]) -> Session:
        proto = onnx.ModelProto(ir_version=self._proto.ir_version)
        proto.opset_import.extend(self._proto.opset_import)
        proto.functions.extend(self._proto.functions)
        proto.graph.name = "stage"
        nodes = [*_makers(stage.nodes, self._constants), *stage.nodes]
        proto.graph.node.extend(nodes)
        used = {name for node in nodes for name in _reads(node)}
        kept = (t for name, t in self._initializers.items() if name in used)
        proto.graph.initializer.extend(kept)
        for name in stage.reads:
            kind = onnx.helper.np_dtype_to_tensor_dtype(values[name].dtype)
            shape = [f"{name}_{i}" for i in range(values[name].ndim)]
            proto.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, shape))
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in stage.makes)
        path = self._path.with_name("stage.onnx")
        path.write_bytes(proto.SerializeToString())
        return engine(self._engine).open_model(path, settings=self._settings, threads=self._threads)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The tensors that a node reads, those that its bodies take from around it among them."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            own = {value.name for value in body.input} | {t.name for t in body.initializer}
            own |= {name for inner in body.node for name in inner.output}
            yield from (n for inner in body.node for n in _reads(inner) if n not in own)
            yield from (value.name for value in body.output if value.name not in own)


def _makers(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, onnx.NodeProto]
) -> list[onnx.NodeProto]:
    """The nodes that make the constants which these read, in an order that runs."""
    mine = {id(node) for node in nodes}
    found: dict[int, onnx.NodeProto] = {}

    def visit(node: onnx.NodeProto) -> None:
        for name in _reads(node):
            maker = constants.get(name)
            if maker is not None and id(maker) not in found and id(maker) not in mine:
                visit(maker)
                found[id(maker)] = maker

    for node in nodes:
        visit(node)
    return list(found.values())
