"""A network to an ONNX file, and the proof that both give the same answers."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from edgedl.core.errors import BadValue, EdgeError, Unsupported, WrongAnswers, first_line, nearest
from edgedl.core.store import check_writable
from edgedl.runtime import any_engine

BATCH = "batch"
# Bytes of weights from which they lie beside the ONNX file.
MOST_INSIDE = 1 << 30
TOLERANCE = 1e-4
TINY = 1e-12
Feed = Mapping[str, np.ndarray]
Axes = Mapping[str, Mapping[int, str]]
FRAME = re.compile(r'^ *File "(.+)", line (\d+), in ', re.MULTILINE)
# Loggers of the exporter.
LOUD = ("torch.onnx", "onnxscript", "torch.export", "torch.fx", "onnx_ir")


@dataclass(frozen=True)
class Exported:
    """An ONNX file whose answers are the network's.

    Attributes:
        outputs: names, in the order in which the network gives them.
        difference: the largest by which an answer missed the network's, over that answer's largest
            magnitude.
        samples: on how many it was seen.
        doubts: what a user should know of it, a sentence each.
    """

    path: Path
    outputs: tuple[str, ...]
    difference: float
    samples: int
    doubts: tuple[str, ...] = ()


def export(
    network: torch.nn.Module,
    feeds: Sequence[Feed],
    path: Path,
    *,
    outputs: Sequence[str] = (),
    axes: Axes | None = None,
    opset: int | None = None,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write a network as ONNX, its first axis free, and compare both on real samples.

    The network is traced by `torch.export` in evaluation mode, on the processor, in float32; it is
    left as it is.

    Args:
        feeds: samples by input name, in the order of the network's arguments, each with a leading
            axis of 1.
        outputs: names for what it gives, in order; its own names where it gives a dict, else
            `output`, or `output_0`, `output_1` and so on.
        axes: further axes that are free, by input and position, and their names.
        opset: the ONNX opset, from 18 on; the exporter's own choice where None.
        tolerance: the largest difference over an answer's largest magnitude.

    Raises:
        Unsupported: the network cannot be traced or written; the message says where.
        WrongAnswers: the file answers otherwise, and the first operator that does.
        BadValue: the names do not fit what the network takes or gives.
    """
    if not feeds:
        raise BadValue("no samples to prove an export on", hint="give one at least")
    plain = copy.deepcopy(network).cpu().float().eval()
    names = names_of(plain, feeds[0], outputs)
    for name, free in (axes or {}).items():
        for axis in free:
            check_axis({n: array.ndim for n, array in feeds[0].items()}, name, axis)
    program, doubts = _traced(plain, feeds, names, axes or {}, opset)
    weights = sum(one.nbytes for one in (*plain.parameters(), *plain.buffers()))
    with _aside(path) as there:
        with _silent():
            program.save(there, external_data=weights > MOST_INSIDE)
        try:
            worst = prove(plain, program, there, feeds, tolerance)
        except WrongAnswers as error:
            raise WrongAnswers(error.message, where=str(path), hint=error.hint) from error
    return Exported(path, tuple(names), worst, len(feeds), tuple(doubts))


def prove(
    network: torch.nn.Module,
    program: torch.onnx.ONNXProgram,
    path: Path,
    feeds: Sequence[Feed],
    tolerance: float = TOLERANCE,
) -> float:
    """The largest difference between a network's answers and its file's, over each answer's largest
    magnitude.

    Raises:
        WrongAnswers: it is larger than the tolerance; the message names the first operator whose
            result differs, or says that tracing changed the network.
    """
    worst = 0.0
    with any_engine().open_model(path, settings={}, threads=1) as session:
        for i, feed in enumerate(feeds):
            wanted = _answers(network, feed)
            made = session.run(dict(feed))
            for name, answer in zip(made, wanted, strict=True):
                difference = _difference(made[name], answer)
                if not difference <= tolerance:
                    raise WrongAnswers(
                        f"output `{name}` of the exported file misses the network's by"
                        f" {difference:.2g} of its largest value on sample {i}, more than"
                        f" {tolerance:g}: {_blame(program, path, feed, wanted, tolerance)}",
                        where=str(path),
                        hint="write that operator otherwise, or raise `tolerance` under `export`",
                    )
                worst = max(worst, difference)
    return worst


def check_axis(ranks: Mapping[str, int], name: str, axis: int) -> None:
    """Check that an input has an axis that may be free.

    Args:
        ranks: by input, the batch axis counted.

    Raises:
        BadValue: there is no such input, or axis.
    """
    if name not in ranks:
        hint = nearest(name, ranks)
        raise BadValue(f"no input `{name}` to free axes of", keys=("input",), hint=hint)
    if axis >= ranks[name]:
        known = ", ".join(map(str, range(1, ranks[name]))) or "none"
        raise BadValue(
            f"input `{name}` has no axis {axis}",
            keys=("axis",),
            hint=f"behind the batch, which is 0 and free, it has: {known}",
        )


def names_of(network: torch.nn.Module, feed: Feed, outputs: Sequence[str] = ()) -> list[str]:
    """The names of what a network gives: those wanted, else its own.

    Raises:
        BadValue: more or fewer are wanted than it gives. Unsupported: it does not take the feed.
    """
    try:
        with torch.no_grad():
            given = network(*_tensors(feed))
    except Exception as error:
        raise Unsupported(
            f"the network does not take its samples: {first_line(error)}",
            hint=f"they are {', '.join(f'`{n}` {list(a.shape)}' for n, a in feed.items())}",
        ) from error
    if isinstance(given, Mapping):
        own = [str(name) for name in given]
    else:
        count = len(given) if isinstance(given, (tuple, list)) else 1
        own = ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
    if outputs and len(outputs) != len(own):
        raise BadValue(
            f"{len(outputs)} names for {len(own)} outputs",
            keys=("outputs",),
            hint=f"name each, or none of them; its own: {', '.join(own)}",
        )
    return list(outputs) or own


def _traced(
    network: torch.nn.Module,
    feeds: Sequence[Feed],
    names: Sequence[str],
    axes: Axes,
    opset: int | None,
) -> tuple[torch.onnx.ONNXProgram, list[str]]:
    """The program with a free first axis, or with that fixed to 1 where it cannot be traced so."""
    try:
        return _program(network, _pair(feeds), names, {n: {0: BATCH} for n in feeds[0]}, axes,
                        opset), []  # fmt: skip
    except Unsupported as free:
        program = _program(network, feeds[0], names, {}, axes, opset)
        return program, [f"the batch axis is fixed to 1: {free.message}"]


def _program(
    network: torch.nn.Module,
    feed: Feed,
    names: Sequence[str],
    batch: Axes,
    axes: Axes,
    opset: int | None,
) -> torch.onnx.ONNXProgram:
    free = [{**batch.get(name, {}), **axes.get(name, {})} for name in feed]
    shapes = tuple({i: torch.export.Dim(word) for i, word in one.items()} for one in free)
    kinds = [one.kind for one in inspect.signature(network.forward).parameters.values()]
    # What `*inputs` takes is one argument, a tuple.
    whole: Any = (shapes,) if kinds[:1] == [inspect.Parameter.VAR_POSITIONAL] else shapes
    with _silent():
        try:
            program = torch.onnx.export(
                network,
                _tensors(feed),
                dynamo=True,
                input_names=list(feed),
                output_names=list(names),
                dynamic_shapes=whole if any(shapes) else None,
                opset_version=opset,
                verbose=False,
            )
        except Exception as error:
            raise Unsupported(
                f"the network cannot be exported: {_cause(error)}",
                hint="branches on values of tensors, and operators without a counterpart in ONNX,"
                " have to be written otherwise",
            ) from error
    assert program is not None
    return program


def _pair(feeds: Sequence[Feed]) -> dict[str, np.ndarray]:
    """Two samples in one, so that nothing is taken for a constant 1."""
    return {
        name: np.concatenate([array, feeds[-1][name]])
        if array.shape[1:] == feeds[-1][name].shape[1:]
        else np.concatenate([array, array])
        for name, array in feeds[0].items()
    }


def _tensors(feed: Feed) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.array(array)) for array in feed.values())


def _answers(network: torch.nn.Module, feed: Feed) -> list[np.ndarray]:
    with torch.no_grad():
        given = network(*_tensors(feed))
    if isinstance(given, Mapping):
        given = list(given.values())
    every = given if isinstance(given, (tuple, list)) else [given]
    return [one.detach().numpy() for one in every]


def _difference(made: np.ndarray, wanted: np.ndarray) -> float:
    if made.shape != wanted.shape:
        return float("inf")
    if not wanted.size:
        return 0.0
    wide = wanted.astype(np.float64)
    largest = float(np.abs(made.astype(np.float64) - wide).max())
    return largest / max(float(np.abs(wide).max()), TINY)


def _blame(
    program: torch.onnx.ONNXProgram,
    path: Path,
    feed: Feed,
    wanted: Sequence[np.ndarray],
    tolerance: float,
) -> str:
    """Which operator's result is the first that differs from what was traced."""
    exported = program.exported_program
    if exported is None:
        return "what was traced is not known"
    recorder = _Recorder(exported.module())
    try:
        with torch.no_grad():
            recorder.run(*_tensors(feed))
        net = onnx.load(path)
        seen = recorder.seen | {
            value.name: recorder.seen[name]
            for value, name in zip(net.graph.output, recorder.outputs, strict=False)
            if name in recorder.seen
        }
        made = _every_value(net, feed, seen)
    except (EdgeError, RuntimeError, ValueError) as error:
        return f"which operator is the first could not be found out ({first_line(error)})"
    for node in net.graph.node:
        for name in node.output:
            if name in made and not _difference(made[name], seen[name]) <= tolerance:
                scope = {p.key: p.value for p in node.metadata_props}.get("namespace", "")
                return f"{node.op_type} `{node.name}` is the first that differs{_module(scope)}"
    traced = [recorder.seen.get(name) for name in recorder.outputs]
    for answer, own in zip(wanted, traced, strict=False):
        if own is not None and not _difference(own, answer) <= tolerance:
            return "tracing changed the network: it computes otherwise while it is traced"
    return "no operator inside differs by that much"


class _Recorder(torch.fx.Interpreter):
    """Carries a traced program out, and keeps every real tensor by its node's name."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.seen: dict[str, np.ndarray] = {}
        self.outputs: list[str] = []

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.dtype == torch.float32:
            self.seen[n.name] = result.detach().numpy().copy()
        if n.op == "output":
            self.outputs = [one.name for one in n.all_input_nodes]
        return result


def _every_value(
    net: onnx.ModelProto, feed: Feed, wanted: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What the file's own values of these names are; they become its outputs."""
    known = {value.name for value in net.graph.output}
    inside = [name for node in net.graph.node for name in node.output]
    names = [name for name in inside if name in wanted and name not in known]
    for name in names:
        net.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    with any_engine().open_model(net.SerializeToString(), settings={}, threads=1) as session:
        return {n: a for n, a in session.run(dict(feed)).items() if n in wanted}


def _module(scope: str) -> str:
    """Where in the network an operator comes from, by the exporter's account."""
    parts = [part.partition(":") for part in scope.split("/")]
    inner = [(name.strip(), kind.strip()) for name, _, kind in parts if name.strip()][:-1]
    if not inner:
        return ""
    name, kind = inner[-1]
    return f", in `{name}` ({kind.rpartition('.')[2]})"


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A path of the same name in a private folder beside it; what is written there takes its place
    when the block ends well, data before the file that names them."""
    check_writable(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        there = Path(folder) / path.name
        yield there
        for file in sorted(Path(folder).iterdir(), key=lambda one: one == there):
            file.replace(path.with_name(file.name))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the exporter's own words: what matters of them is in the errors."""
    loggers = [logging.getLogger(name) for name in LOUD]
    levels = [logger.level for logger in loggers]
    # where tracing fails, torch prints whole graphs on stderr
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _cause(error: BaseException) -> str:
    """The first line of what was the matter in the first place, and of the network's code, where
    torch says which."""
    while error.__cause__ is not None:
        error = error.__cause__
    at = FRAME.search(str(error))
    return first_line(error) + (f" ({Path(at[1]).name}:{at[2]})" if at else "")
