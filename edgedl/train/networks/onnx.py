"""An ONNX file as a network: the user's own model, to be shrunk without its training code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgedl.core.errors import BadValue, EdgeError, Unsupported, nearest
from edgedl.core.model import Model
from edgedl.core.program import Program
from edgedl.core.registry import load
from edgedl.runtime import any_engine
from edgedl.train.graphs.bring import bring, tried
from edgedl.train.graphs.brought import Brought, first_difference
from edgedl.train.operators import functions_of
from edgedl.train.shapes import TensorShape

PURPOSE = "network `onnx`"
BATCH = 3
TOLERANCE = 1e-4
TINY = 1e-12
# How many ids an input may hold that no table is for: marks of what counts, or bytes.
IDS = (2, 256)
# How names of operators begin that compute with codes.
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantize", "QLinear", "QGemm")
Feed = Mapping[str, Tensor]


def onnx(inputs: Mapping[str, TensorShape], outputs: int | None, *, file: str) -> nn.Module:
    """The network in a float ONNX file, with its weights.

    Convolutions, dense layers, norms, recurrent layers and embeddings become those of torch, named
    after their nodes; factors and offsets by channel become `Scale` and `Shift`; all else is
    carried out as the file says. The file may have been written for one sample: the batch is free.
    Batch norms that the file still has are trained as such.

    Its inputs have the file's names, and so have the outputs of what is exported of it.

    Args:
        inputs: those of the file, of its shapes.
        outputs: not looked at: the file says what it gives.
        file: an ONNX file.

    Raises:
        BadValue: there is no such file, or the data is not what it takes.
        Unsupported: an operator cannot be brought back, or not for a batch; its name and its node's
            are said.
    """
    del outputs
    model = opened(file)
    program = program_of(model)
    _check_float(program)
    functions_of(program)
    _check_inputs(model, inputs)
    feeds = [_example(program, inputs, most) for most in IDS]
    feed = feeds[0]
    try:
        network = bring(program, inputs, feed)
    except Unsupported:
        if next(iter(feed.values())).shape[0] == 1:
            raise
        feeds = [{name: value[:1] for name, value in one.items()} for one in feeds]
        network = bring(program, inputs, feeds[0])
    _prove(network, model, feeds)
    several = _example(program, inputs, IDS[-1], BATCH)
    try:
        _prove_batch(network, several)
    except Unsupported:
        one = next(iter(feeds[0].values())).shape[0] == 1
        found = _by_places(program, inputs, model, feeds, several) if one else None
        if found is None:
            raise
        network = found
    return network.train()


def _by_places(
    program: Program,
    inputs: Mapping[str, TensorShape],
    model: Model,
    feeds: Sequence[Feed],
    several: Feed,
) -> Brought | None:
    """The network of a file for one sample whose batch does not stand first everywhere; None where
    its samples mix even so."""
    network = bring(program, inputs, feeds[0], placed=True)
    try:
        _prove(network, model, feeds)
        _prove_batch(network, several)
    except (EdgeError, RuntimeError):
        return None
    return network


def opened(file: str) -> Model:
    """The model in a file, checked for soundness.

    Raises:
        BadValue: there is none, or it is no sound ONNX file; `keys` says `file`.
    """
    open_model: Callable[[Path], Model] = load("edgedl.passes.graph:open_model", PURPOSE)
    try:
        return open_model(Path(file))
    except EdgeError as error:
        where = f" (`{error.where}`)" if error.where else ""
        message = f"`file` is no model: {error.message}{where}"
        raise BadValue(message, keys=("file",), hint=error.hint) from error


def program_of(model: Model) -> Program:
    """A model's graph, its constants computed, its batch norms left as they are."""
    rewrite: Callable[..., Model] = load("edgedl.passes.graph:rewrite", PURPOSE)
    clean = load("edgedl.passes.clean:Clean", PURPOSE)
    fold = load("edgedl.passes.fold:Fold", PURPOSE)
    plain: Callable[[Model], Program] = load("edgedl.passes.program:program_of", PURPOSE)
    return plain(rewrite(model, clean(), fold(norms=False)))


def _check_float(program: Program) -> None:
    """Check that the file is not quantized already.

    Raises:
        Unsupported: it is; the operator and its node are named.
    """
    for operation in program.operations:
        if operation.kind.startswith(QUANTIZED) or operation.kind.endswith("Integer"):
            raise Unsupported(
                f"the model is quantized already, by operator `{operation.kind}` of node"
                f" `{operation.name}`",
                hint="bring the float model that it was made of",
            )


def _check_inputs(model: Model, inputs: Mapping[str, TensorShape]) -> None:
    wanted = {tensor.name: tensor for tensor in model.signature.inputs}
    said = ", ".join(f"`{tensor}`" for tensor in wanted.values())
    for name in inputs:
        if name not in wanted:
            message = f"the data has `{name}`, and the file takes {said}"
            raise BadValue(message, keys=("file",), hint=nearest(name, wanted))
    for name, tensor in wanted.items():
        if name not in inputs:
            message = f"the file takes {said}, and the data has no `{name}`"
            raise BadValue(message, keys=("file",), hint="give an array of that name")
        shape = inputs[name]
        if not tensor.has_batch_axis or tensor.shape is None:
            message = f"input `{tensor}` has no batch axis in front"
            raise BadValue(message, keys=("file",), hint="export it with one")
        fits = len(tensor.shape) == len(shape.shape) + 1 and all(
            not isinstance(own, int) or own == given
            for own, given in zip(tensor.shape[1:], shape.shape, strict=False)
        )
        if not fits or shape.whole != np.issubdtype(np.dtype(tensor.dtype), np.integer):
            message = f"the file takes `{tensor}`, and the data has `{name}` ({shape})"
            raise BadValue(message, keys=("file",), hint="prepare the data in that shape")


def _example(
    program: Program,
    inputs: Mapping[str, TensorShape],
    most: int,
    batch: int | None = None,
) -> dict[str, Tensor]:
    """Noise between 0 and 1, and ids that lie in the file's tables; one sample where the file takes
    one.

    Args:
        most: how many ids there are where no table says it.
    """
    random = torch.Generator().manual_seed(0)
    wanted = {tensor.name: tensor for tensor in program.signature.inputs}
    fixed = any(tensor.shape is not None and tensor.shape[0] == 1 for tensor in wanted.values())
    batch = batch or (1 if fixed else BATCH)
    made = {}
    for name, shape in inputs.items():
        size = (batch, *shape.shape)
        if shape.whole:
            ids = torch.randint(shape.count or _ids(program, name, most), size, generator=random)
            made[name] = ids.to(getattr(torch, wanted[name].dtype))
        else:
            made[name] = torch.rand(size, generator=random)
    return made


def _ids(program: Program, name: str, default: int) -> int:
    """How many ids an input may hold: as many as the smallest table has that is looked up."""
    rows = [
        program.constants[one.inputs[0]].shape[0]
        for one in program.operations
        if one.kind == "Gather" and one.inputs[1] == name and one.inputs[0] in program.constants
    ]
    return min(rows, default=default)


def _prove(network: Brought, model: Model, feeds: Sequence[Feed]) -> None:
    """Check that the network answers as the file does, on one of the feeds: ids that mean nothing
    to a file may have it divide by next to nothing.

    Raises:
        Unsupported: an answer differs on all.
    """
    with any_engine().open_model(model.path, settings={}, threads=1) as session:
        for feed in feeds:
            wanted = session.run({name: one.numpy() for name, one in feed.items()})
            found = tried(network, feed)
            unlike = [n for n, answer in wanted.items() if not _alike(found[n].numpy(), answer)]
            if not unlike:
                return
    raise Unsupported(
        f"output `{unlike[0]}` in torch is not what the file gives",
        where=str(model.path),
        hint="please report it with the file; compressing without training still works",
    )


def _alike(made: np.ndarray, answer: np.ndarray) -> bool:
    if made.shape != answer.shape:
        return False
    size = max(TINY, float(np.abs(answer).max(initial=0)))
    difference = np.abs(made.astype(np.float64) - answer).max(initial=0)
    return bool(difference <= TOLERANCE * size)


def _prove_batch(network: Brought, feed: Feed) -> None:
    """Check that samples of a batch do not mix.

    Raises:
        Unsupported: they do, from an operator on that is named.
    """
    several = [feed[name] for name in network.inputs]
    one = [value[:1] for value in several]
    try:
        with torch.no_grad():
            alone, together = (
                tried(network, dict(zip(network.inputs, one, strict=True))),
                tried(network, feed),
            )
        same = all(
            together[name].shape[:1] == (BATCH,)
            and torch.allclose(together[name][:1].double(), alone[name].double(), rtol=1e-3,
                               atol=1e-4 * max(TINY, float(alone[name].abs().max())))
            for name in network.outputs
        )  # fmt: skip
        reason = "its answers mix the samples of a batch"
    except (RuntimeError, ValueError, IndexError) as error:
        same, reason = False, str(error).strip().split("\n")[0]
    if not same:
        place = first_difference(network, one, several, 1e-2)
        at = "" if place is None else f" at {place.kind} node `{place.name}`"
        raise Unsupported(
            f"the model is made for one sample at a time{at}: {reason}",
            hint="export it with a free batch axis",
        )
