"""Checkpoints: one safetensors file each, which appears whole or not at all."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgedl.core.errors import BadCheckpoint, EdgeError
from edgedl.core.store import atomic_write
from edgedl.train.sharded import divided_like

KEY = "edgedl"
ADDRESS = re.compile(r"0x[0-9a-f]+")


def write(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Write tensors and a JSON document; what stood there before stays until that is done.

    Raises:
        EdgeError: it cannot be written; the disk may be full.
    """
    seen: set[int] = set()
    ours: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        # the format holds no tensor twice: weights that layers share are written as often
        ours[name] = plain.clone() if plain.numel() and plain.data_ptr() in seen else plain
        seen.add(ours[name].data_ptr())
    try:
        with atomic_write(path) as work:
            work.touch()
            mode = work.stat().st_mode
            try:
                save_file(ours, work, {KEY: json.dumps(document)})
            except SafetensorError as error:
                raise OSError(0, str(error)) from error
            work.chmod(mode)  # the library lets nobody else read what it writes
            with work.open("rb") as file:
                os.fsync(file.fileno())
    except EdgeError as error:
        hint = "make room and start again: it goes on from the last checkpoint"
        raise EdgeError(error.message, where=error.where, hint=hint) from error


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the document of a file that `write` made.

    Raises:
        BadCheckpoint: it is not there, damaged, or something else.
    """
    try:
        with safe_open(path, "pt") as file:
            document = json.loads((file.metadata() or {}).get(KEY, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, document  # noqa: SIM118
    except FileNotFoundError as error:
        raise BadCheckpoint("no such file", where=str(path), hint="is its name right?") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise BadCheckpoint(
            f"not a sound safetensors file ({error})",
            where=str(path),
            hint="take another file, or remove it and train again",
        ) from error


def load_weights(network: nn.Module, path: Path) -> None:
    """Give a network the weights of a file that `fit` wrote, where they lie.

    Raises:
        BadCheckpoint: the file is not there or damaged, or its weights are another network's.
    """
    tensors, _ = read(path)
    check_weights(network, tensors, str(path))
    network.load_state_dict(tensors)


def check_weights(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Check that a network has these weights, by name, type and shape.

    Raises:
        BadCheckpoint: it has others; the first is named.
    """
    theirs = {name: _shown(tensor) for name, tensor in tensors.items()}
    if said := differing(theirs, tensors_of(network)):
        hint = "build the network with the settings that it was trained with"
        if any(name.startswith("network.") for name in tensors):
            hint = "this is a whole checkpoint: the weights are in `best.safetensors` beside it"
        raise BadCheckpoint(f"the weights are another network's: {said}", where=where, hint=hint)


def tensors_of(network: nn.Module) -> dict[str, str]:
    """Type and shape of each tensor of a network, by name."""
    return {name: _shown(tensor) for name, tensor in network.state_dict().items()}


def modules_of(network: nn.Module) -> str:
    """A digest of what a network's layers say of themselves."""
    return sha256(ADDRESS.sub("", repr(network)).encode()).hexdigest()


def differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """The first difference between two documents, as in "`optimizer.lr` is 0.1 there, 0.2 here"."""
    for key in [*there, *(key for key in here if key not in there)]:
        was, now = (_keyed(one.get(key)) for one in (there, here))
        if isinstance(was, dict) and isinstance(now, dict):
            if said := differing(was, now):
                return said.replace("`", f"`{key}.", 1)
        elif was != now or (key in there) != (key in here):
            left, right = (_told(d, key) for d in (there, here))
            return f"`{key}` is {left} there, {right} here"
    return None


def _keyed(value: Any) -> Any:
    """A list by the places of its entries, from 1."""
    return {str(i + 1): one for i, one in enumerate(value)} if isinstance(value, list) else value


def _told(document: Mapping[str, Any], key: str) -> str:
    if key not in document:
        return "missing"
    value = document[key]
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _shown(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Any]:
    """What an optimizer remembers of each weight: tensors by `weight.name`, and the rest."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, dict[str, Any]] = {}
    for weight, state in optimizer.state_dict()["state"].items():
        rest[str(weight)] = {}
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{weight}.{name}"] = value
            else:
                rest[str(weight)][name] = value
    return tensors, rest


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
) -> None:
    """Give an optimizer what another one of the same settings remembered; of divided weights, what
    belongs to this process's part."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Any]] = {int(weight): dict(one) for weight, one in rest.items()}
    for key, tensor in tensors.items():
        weight, _, name = key.partition(".")
        state[int(weight)][name] = divided_like(tensor, weights[int(weight)])
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for weight in weights:
        remembered = optimizer.state.get(weight, {})
        for name, value in remembered.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                # in the weight's own order of axes, as it would be had it been made for it
                remembered[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def random_states(device: torch.device) -> Tensor:
    """The states of Python's, numpy's and torch's generators as bytes, always as many a device."""
    version, words, gauss = random.getstate()
    python = np.array([version, *words], np.int64)
    kind, keys, place, has_gauss, cached = np.random.get_state()
    assert kind == "MT19937"
    numpy = np.array([place, has_gauss, *keys], np.int64)
    reals = np.array([np.nan if gauss is None else gauss, cached], np.float64)
    parts = [torch.from_numpy(one.view(np.uint8)) for one in (python, numpy, reals)]
    parts.append(torch.get_rng_state())
    if device.type == "cuda":
        parts.append(torch.cuda.get_rng_state(device))
    return torch.cat(parts)


def restore_random_states(states: Tensor, device: torch.device) -> bool:
    """Set the generators as `random_states` found them; False where that was another device."""
    rest = states.cpu().contiguous()

    def next_bytes(count: int) -> Tensor:
        nonlocal rest
        taken, rest = rest[:count].clone(), rest[count:]
        return taken

    if states.numel() != random_states(device).numel():
        return False
    python = next_bytes(8 * 626).numpy().view(np.int64).tolist()
    numpy = next_bytes(8 * 626).numpy().view(np.int64)
    gauss, cached = next_bytes(16).numpy().view(np.float64).tolist()
    random.setstate((python[0], tuple(python[1:]), None if np.isnan(gauss) else gauss))
    np.random.set_state(
        ("MT19937", numpy[2:].astype(np.uint32), int(numpy[0]), int(numpy[1]), cached)
    )
    torch.set_rng_state(next_bytes(torch.get_rng_state().numel()))
    if device.type == "cuda":
        torch.cuda.set_rng_state(rest, device)
    return True
