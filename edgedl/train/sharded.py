"""Networks whose weights are divided among the processes that train together (FSDP).

Zhao et al., PyTorch FSDP, VLDB 2023. Each process holds its rows of every weight, of its gradient
and of what the optimizer remembers. A block's weights are gathered when it runs, forward and
backward, and let go of behind it. Precision is autocast's, as without: what is gathered is float32,
and copies of half the size stay from a block's forward to its backward pass.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn

from edgedl.core.errors import Unsupported, first_line
from edgedl.train.processes import Processes
from edgedl.train.settings import Fit

# Weights of the smallest block that is gathered by itself; what is smaller goes with the rest.
LEAST = 10_000
WAY_OUT = "divide: samples"


def divides(settings: Fit, processes: Processes) -> bool:
    """Whether weights are to be divided, and there is somebody to divide them with."""
    return settings.divide == "weights" and processes.count > 1


def divided(network: nn.Module, processes: Processes) -> nn.Module:
    """A copy of a network with the first process's weights, of which each process has its part.

    The network itself stays whole, where it is. One block at a time is whole on the device. Its
    state has the same names and shapes as the network's; its weights lie contiguous, since no other
    order of axes can be divided.

    Raises:
        Unsupported: this torch cannot divide weights, or not those of this network.
    """
    fully_shard = _fully_shard()
    from torch.distributed.device_mesh import init_device_mesh

    made = copy.deepcopy(network)
    with torch.no_grad():
        for weight in made.parameters():
            weight.data = _of_first(weight.data.contiguous(), processes)
        for buffer in made.buffers():
            buffer.data = _of_first(buffer.data, processes)
    mesh = init_device_mesh(processes.device.type, (processes.count,))
    try:
        for block in (*blocks_of(made), made):
            # the outermost, too: an average learns nothing, and must not keep what it gathered
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    except (ValueError, NotImplementedError) as error:
        raise Unsupported(
            f"torch cannot divide the network's weights ({first_line(error, 200)})", hint=WAY_OUT
        ) from error
    return made


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """What is gathered by itself: entries of `ModuleList`s and `Sequential`s that hold `LEAST`
    weights or more and share none with others; of one within another, the outer."""
    owners = Counter(id(one) for one in _registered(network))
    found: list[nn.Module] = []

    def look(module: nn.Module) -> None:
        listed = isinstance(module, (nn.ModuleList, nn.Sequential))
        for child in module.children():
            ours = Counter(id(one) for one in _registered(child))
            own = all(owners[one] == count for one, count in ours.items())
            large = sum(one.numel() for one in child.parameters()) >= LEAST
            # lists of lists are stages: their entries are blocks
            if listed and own and large and not isinstance(child, (nn.ModuleList, nn.Sequential)):
                found.append(child)
            else:
                look(child)

    look(network)
    return found


@torch.no_grad()
def follow_first(network: nn.Module, processes: Processes) -> None:
    """Give a divided network the first process's buffers, as DDP does before each step."""
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for buffer in network.buffers():
        kinds.setdefault(buffer.dtype, []).append(buffer)
    for buffers in kinds.values():
        whole = _of_first(torch.cat([one.reshape(-1) for one in buffers]), processes)
        for buffer in buffers:
            part, whole = whole[: buffer.numel()], whole[buffer.numel() :]
            buffer.copy_(part.view_as(buffer))


def is_divided(tensor: Tensor) -> bool:
    """Whether it is one of which each process has a part."""
    return hasattr(tensor, "device_mesh")


@torch.no_grad()
def part_of(tensor: Tensor) -> Tensor:
    """This process's rows of a divided tensor, in place; any other as it is."""
    ours: Any = tensor
    found: Tensor = ours.to_local() if is_divided(tensor) else tensor
    return found


@torch.no_grad()
def gathered(tensors: Mapping[str, Tensor], processes: Processes) -> dict[str, Tensor]:
    """The same tensors whole: divided ones in the first process's main memory, one after another,
    so that no device holds them all. All processes take part; others than the first get none."""
    found = {}
    for name, tensor in tensors.items():
        ours: Any = tensor
        whole = ours.full_tensor() if is_divided(tensor) else tensor
        if processes.is_first:
            found[name] = whole.cpu() if is_divided(tensor) else whole
    return found


@torch.no_grad()
def divided_like(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor divided as another of its shape is; unchanged where that one is not."""
    if not is_divided(like) or whole.shape != like.shape:
        return whole
    made = torch.zeros_like(like, dtype=whole.dtype)
    _take(made, whole)
    return made


@torch.no_grad()
def load_state(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a network, divided or not, the whole tensors of its state."""
    state = network.state_dict()
    if not any(map(is_divided, state.values())):
        network.load_state_dict(tensors)
        return
    for name, ours in state.items():
        _take(ours, tensors[name])


def explained(error: Exception) -> Unsupported | None:
    """What the user did, if an error of torch's says that a weight was used while it was divided.

    Blocks are gathered when they are called; who reads a weight past that finds only a part.
    """
    if isinstance(error, RuntimeError) and "DTensor" in str(error):
        said = "it reads a block's weights without calling the block"
        return Unsupported(f"the network's weights cannot be divided: {said}", hint=WAY_OUT)
    return None


def _take(ours: Tensor, whole: Tensor) -> None:
    """This process's rows of a whole tensor, put where they lie."""
    if not is_divided(ours):
        ours.copy_(whole)
        return
    mesh: Any = ours.device_mesh  # type: ignore[attr-defined]
    rows = whole.chunk(mesh.size(), 0)
    if mesh.get_local_rank() < len(rows):
        part_of(ours).copy_(rows[mesh.get_local_rank()])


def _of_first(tensor: Tensor, processes: Processes) -> Tensor:
    """The first process's tensor, which has this one's shape, type and place."""
    there = tensor.to(processes.device).contiguous()
    there = there.clone() if there.data_ptr() == tensor.data_ptr() else there
    # not every library of collectives knows truth values
    distributed.broadcast(there.view(torch.uint8) if there.dtype is torch.bool else there, 0)
    return there.to(tensor.device)


def _registered(network: nn.Module) -> list[nn.Parameter]:
    """Its weights, as often as they stand in it."""
    return [one for _, one in network.named_parameters(remove_duplicate=False)]


def _fully_shard() -> Any:
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError as error:
        raise Unsupported(
            f"torch {torch.__version__} cannot divide weights",
            hint=f"a torch of 2.6 or later that has `torch.distributed`, or `{WAY_OUT}`",
        ) from error
    return fully_shard
