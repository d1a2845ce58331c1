"""One forward pass in which every operator's results get the labels of their channels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from edgedl.core.errors import Unsupported
from edgedl.core.own import reason_of
from edgedl.train.shrink.labels import Atoms, Labels
from edgedl.train.shrink.rules import RULES, is_pointwise
from edgedl.train.shrink.rules_shapes import ADAPTS
from edgedl.train.shrink.weights import CELLS, CONVOLUTIONS, RECURRENT

# Attributes that `forward` shapes tensors by, which follow the widths.
WIDTHS = re.compile(
    r"\w*heads|n_?head|all_head_size|hidden\w*|width|wide|dim|inner_dim|embed_dim|channels|units"
)
# Modules whose operators are not those that training carries out, so that nothing is known.
OPAQUE = (nn.MultiheadAttention, nn.RNN)
# Whether there are any, and `_unsafe_view` behind one, hangs on how values lie in memory.
COPIES = ("clone", "contiguous")
WEIGHTED = (*CONVOLUTIONS, nn.Linear, *RECURRENT, *CELLS)


@dataclass(frozen=True)
class Call:
    """A layer as it was called: its name and module, and its first input's shape."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Result:
    """What an operator gave: its name, the module in which it was called, and its axes' atoms."""

    operator: str
    module: str
    labels: Labels

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(map(len, self.labels))


@dataclass(frozen=True)
class Sized:
    """An attribute of a module that is the length of an axis, whose atoms these are."""

    module: str
    attribute: str
    atoms: np.ndarray


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows a network's channels through one forward pass in evaluation mode.

    Attributes:
        atoms: of all axes.
        held: each parameter's and buffer's labels, by name.
        calls: of layers with weights, in order.
        results: of all operators outside recurrent layers, in order.
        sized: attributes that have to follow.
        apart: the reshapings, by their number, one of whose axes is taken apart behind them.
        parted: of each reshaping that splits axes, the labels of those that can be cut.
    """

    def __init__(self, network: nn.Module, apart: Iterable[int] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.network, self.atoms = network, Atoms()
        self.calls: list[Call] = []
        self.results: list[Result] = []
        self.sized: list[Sized] = []
        self.apart, self.parted = set(apart), dict[int, list[np.ndarray]]()
        self.held: dict[str, Labels] = {}
        self._known: dict[int, tuple[Tensor, Labels]] = {}
        self._inside: list[tuple[str, nn.Module]] = [("", network)]
        self._deep = self._views = 0
        for name, tensor in tensors_of(network):
            axes = (
                self.atoms.fresh(n, held=True) if n > 1 else np.zeros(n, np.int64)
                for n in tensor.shape
            )
            self.held[name] = self.put(tensor, tuple(axes))

    def run(self, inputs: Sequence[Tensor]) -> None:
        """Carries the network out, whose answers are then kept whole.

        Raises:
            Unsupported: it fails; the message names the module.
        """
        modes = [(module, module.training) for module in self.network.modules()]
        handles = list(self._hooks())
        self.network.eval()
        # Else layers of transformers are a single operator, with nothing to follow inside.
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad(), self:
                answers = self.network(*inputs)
        except Exception as error:
            where = self._inside[-1]
            raise Unsupported(
                f"the network cannot be followed through {_called(*where)}: {reason_of(error)}",
                hint="it has to take its samples in evaluation mode",
            ) from error
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            for handle in handles:
                handle.remove()
            for module, mode in modes:
                module.training = mode
        for answer in _tensors(answers):
            for axis in self.of(answer):
                self.atoms.freeze(axis, "the network's answers are made of it")

    def views(self) -> int:
        """The number of the reshaping that is being carried out, from 1 on."""
        self._views += 1
        return self._views

    def of(self, tensor: Tensor) -> Labels:
        """A tensor's labels; of one that came from outside, fixed."""
        if id(tensor) not in self._known:
            self.put(tensor, tuple(np.zeros(n, np.int64) for n in tensor.shape))
        return self._known[id(tensor)][1]

    def put(self, tensor: Tensor, labels: Labels) -> Labels:
        """Keeps a tensor's labels."""
        assert tuple(map(len, labels)) == tuple(tensor.shape)
        self._known[id(tensor)] = (tensor, labels)
        return labels

    def size(self, length: int, atoms: np.ndarray) -> bool:
        """Notes that the module that is being carried out may shape an axis by an attribute;
        whether it has one of that value."""
        name, module = self._inside[-1]
        found = [
            key
            for key, value in vars(module).items()
            if type(value) is int and value == length and WIDTHS.fullmatch(key)
        ]
        self.sized.extend(Sized(name, key, atoms) for key in found)
        return bool(found)

    def why(self, operator: str) -> str:
        """How an operator where it stands is called."""
        return f"operator `{operator}` in {_called(*self._inside[-1])}"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carries an operator out and labels what it gives."""
        out = func(*args, **(kwargs or {}))
        if self._deep:
            return out
        operator = func._schema.name.removeprefix("aten::")
        given = _arguments(func, args, kwargs or {})
        plain = operator.removesuffix("_") if operator not in RULES else operator
        rule = RULES.get(plain)
        results = _tensors(out)
        if rule is None and is_pointwise(func, plain):
            rule = RULES["pointwise"]
        made = rule(self, self.why(operator), given, out) if rule else None
        if made is None:
            self.freeze(_tensors(given), self.why(operator))
            return out
        for result, labels in zip(results, made, strict=True):
            self.put(result, labels)
            if operator not in ADAPTS and operator not in COPIES:
                told = operator.removeprefix("_unsafe_")
                self.results.append(Result(told, self._inside[-1][0], labels))
        return out

    def freeze(self, tensors: Iterable[Tensor], why: str) -> None:
        """Keeps these tensors whole."""
        for tensor in tensors:
            for axis in self.of(tensor):
                self.atoms.freeze(axis, why)

    def _hooks(self) -> Iterable[RemovableHandle]:
        for name, module in self.network.named_modules():
            yield module.register_forward_pre_hook(self._enter(name), with_kwargs=True)
            yield module.register_forward_hook(self._leave, with_kwargs=True)

    def _enter(self, name: str) -> Any:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._inside.append((name, module))
            if isinstance(module, WEIGHTED) and not self._deep:
                self.calls.append(Call(name, module, tuple(_tensors((args, kwargs))[0].shape)))
            self._deep += isinstance(module, (*RECURRENT, *OPAQUE))

        return enter

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        if isinstance(module, (*RECURRENT, *OPAQUE)):
            self._deep -= 1
            if not self._deep:
                self._whole(module, _tensors((args, kwargs)), out)
        self._inside.pop()

    def _whole(self, module: nn.Module, given: list[Tensor], out: Any) -> None:
        """Labels what a module gives that was not followed inside."""
        name = self._inside[-1][0]
        plain = isinstance(module, RECURRENT) and not module.proj_size
        if plain and all(tensor.dim() == 3 for tensor in given) and isinstance(out[0], Tensor):
            made = _recurrent(self, name, module, given)
            for result in _tensors(out):
                first = result is out[0]
                labels = [np.zeros(n, np.int64) for n in result.shape]
                labels[-1] = np.tile(made, result.shape[-1] // len(made)) if first else made
                self.put(result, tuple(labels))
                self.results.append(Result(type(module).__name__, name, tuple(labels)))
            return
        why = f"{_called(name, module)} is kept as it is"
        self.freeze([*given, *module.parameters(), *module.buffers()], why)


def _recurrent(trace: Trace, name: str, module: Any, given: list[Tensor]) -> np.ndarray:
    """Ties gates, directions and layers of recurrent weights; gives the hidden units' atoms."""
    atoms, size, why = trace.atoms, module.hidden_size, f"the state of `{name}`"
    units = trace.of(module.weight_hh_l0)[1]
    inputs = trace.of(given[0])[-1]
    for state in given[1:]:
        units = atoms.tie(units, trace.of(state)[-1], why)
    for layer in range(module.num_layers):
        for suffix in ("", "_reverse")[: 1 + module.bidirectional]:
            tag = f"l{layer}{suffix}"
            atoms.tie(
                inputs, trace.of(getattr(module, f"weight_ih_{tag}"))[1], f"input of `{name}`"
            )
            units = atoms.tie(units, trace.of(getattr(module, f"weight_hh_{tag}"))[1], why)
            kinds = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if module.bias else [])]
            for kind in kinds:
                rows = trace.of(getattr(module, f"{kind}_{tag}"))[0]
                for gate in rows.reshape(-1, size):
                    units = atoms.tie(units, gate, why)
        inputs = np.tile(units, 1 + module.bidirectional)
    return units


def tensors_of(network: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers by name, each once."""
    return [*network.named_parameters(), *network.named_buffers()]


def _arguments(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """An operator's arguments by their names in its schema."""
    found = {}
    for place, one in enumerate(func._schema.arguments):
        if place < len(args):
            found[one.name] = args[place]
        else:
            found[one.name] = kwargs.get(one.name, one.default_value)
    return found


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict) or hasattr(value, "values"):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [tensor for one in value for tensor in _tensors(one)]
    return []


def _called(name: str, module: nn.Module) -> str:
    kind = type(module).__name__
    return f"`{name}` ({kind})" if name else f"the network's own forward ({kind})"
