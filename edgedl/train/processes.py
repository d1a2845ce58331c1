"""The processes that train together, as `torchrun` started them; one alone as a rule."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed

from edgedl.core.errors import BadOption, Unsupported


@dataclass(frozen=True, eq=False)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: its number; the first, 0, writes all files.
        count: how many there are.
        device: what this one computes on.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and tells of progress."""
        return self.rank == 0

    def part(self, rows: np.ndarray) -> np.ndarray:
        """This process's part of rows that all share: neighbours, as many each, within one."""
        if self.count == 1:
            return rows
        ends = np.linspace(0, len(rows), self.count + 1).round().astype(int)
        return rows[ends[self.rank] : ends[self.rank + 1]]

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the processes; NaN where one has it."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return total.tolist()

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Everybody's tensor of this shape and type, by rank."""
        if self.count == 1:
            return [tensor]
        ours = tensor.to(self.device).contiguous()
        found = [torch.empty_like(ours) for _ in range(self.count)]
        distributed.all_gather(found, ours)
        return found

    def wait(self) -> None:
        """Until all are here."""
        self.sums([0.0])


def joined(device: str = "auto") -> Processes:
    """This process in the group that is there, or that the environment tells of.

    A group that is made here stays until the process ends: the next training joins it again.

    Args:
        device: `auto` is the first GPU (under `torchrun`, the one of this process's number on its
            machine), or the processor where there is none; else a name of torch's, as `cuda:1`.

    Raises:
        BadOption: torch knows no such device.
        Unsupported: this machine has no such device.
    """
    found = _device(device)
    if not (distributed.is_available() and distributed.is_initialized()):
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Processes(0, 1, found)
        distributed.init_process_group("nccl" if found.type == "cuda" else "gloo")
        atexit.register(_leave)
    return Processes(distributed.get_rank(), distributed.get_world_size(), found)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadOption(f"unknown device `{name}`", hint="auto, cpu, cuda or cuda:1") from None
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count()
    index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
    if index >= count:
        raise Unsupported(f"there is no GPU {index}, torch sees {count}", hint="--device cpu")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
