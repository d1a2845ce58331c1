"""Networks without trained weights: seeded, and set up so that answers depend on the input."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from zoo_export import export
from zoo_photos import photos

# The number goes up with the views in zoo_photos, like the revision of a recipe.
_SHARED = "photos-1.npz"


def untrained(build: Callable[[], nn.Module], folder: Path, downloads: Path) -> None:
    """Writes the network of `build` and the photos without labels, one file for all such models.

    The network takes float32 [n, 3, 224, 224] and gives logits [n, classes].
    """
    shared = downloads.parent / _SHARED
    values, _ = photos(downloads)
    if not shared.exists():
        partial = folder / "photos.npz"
        np.savez(partial, allow_pickle=False, input=values)
        os.replace(partial, shared)
    try:
        os.link(shared, folder / "samples.npz")
    except OSError:
        shutil.copyfile(shared, folder / "samples.npz")
    # One view each of 20 photos and another of 12: train mode sees what the samples hold.
    network = _set_up(build, values[:32])
    export(network, {"input": values[:1]}, "logits", folder / "model.onnx")


def _set_up(build: Callable[[], nn.Module], pictures: NDArray[np.float32]) -> nn.Module:
    """A seeded network set up on `pictures`, float32 [n, 3, 224, 224].

    The running statistics of its batch norms become those of the pictures. Its classifier is
    shifted and scaled so that each logit has mean 0 and deviation 1 over them: a random network's
    answer would else hardly depend on the picture.
    """
    torch.manual_seed(0)
    network = build()
    batch = torch.from_numpy(pictures)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        network.train()
        network(batch)
        network.eval()
        head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        logits = network(batch)
        deviation = logits.std(0).clamp(min=1e-9)
        head.weight /= deviation[:, None]
        head.bias.copy_((head.bias - logits.mean(0)) / deviation)
    return network
