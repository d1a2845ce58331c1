"""The four models of the GPU benchmark: torch networks with random weights, and their ONNX files.

Weights are random: latency does not depend on them, accuracy would mean nothing, and agreement is
that of each precision with the same network in float32. Batch norms are set up on the inputs, and
logits scaled, so that answers depend on the input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from edgedl.train.networks.mobilenetv2 import mobilenetv2
from edgedl.train.networks.resnet import resnet50
from edgedl.train.networks.text_encoder import text_encoder
from edgedl.train.networks.vit import vit
from edgedl.train.shapes import TensorShape

IMAGE = {"input": TensorShape((3, 224, 224))}
VOCABULARY, TOKENS = 30522, 128
TEXT = {"input": TensorShape((TOKENS,), "int64", VOCABULARY)}
PRECISIONS = ("float32", "float16", "int8", "fp8")
CALIBRATED, COMPARED = 16, 16


@dataclass(frozen=True)
class Subject:
    """One model: its inputs' shapes, and what builds the network."""

    inputs: Mapping[str, TensorShape]
    build: Callable[[], nn.Module]


SUBJECTS = {
    "resnet50": Subject(IMAGE, lambda: resnet50(IMAGE, 1000)),
    "mobilenetv2": Subject(IMAGE, lambda: mobilenetv2(IMAGE, 1000)),
    "vit-tiny": Subject(IMAGE, lambda: vit(IMAGE, 1000, patch=16, depth=12, pool="class")),
    # MiniLM-L6's sizes: 6 blocks of 384 values, 12 heads
    "minilm": Subject(TEXT, lambda: text_encoder(TEXT, 384, width=384, depth=6, heads=12)),
}


def arrays(name: str, count: int, seed: int) -> dict[str, np.ndarray]:
    """Random inputs, `count` of them: normal pixels, or ids without padding."""
    rng = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for key, shape in SUBJECTS[name].inputs.items():
        whole = (count, *shape.shape)
        drawn = rng.integers(1, VOCABULARY, whole) if shape.count else rng.standard_normal(whole)
        found[key] = drawn.astype(shape.dtype)
    return found


def network(name: str) -> nn.Module:
    """The seeded network in evaluation mode, on the processor."""
    torch.manual_seed(0)
    made = SUBJECTS[name].build()
    batch = torch.from_numpy(arrays(name, 16, seed=1)["input"])
    norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        if norms:
            made.eval()
            for module in norms:
                module.momentum = None
                module.reset_running_stats()
                module.train()
            made(batch)
        made.eval()
        head = [module for module in made.modules() if isinstance(module, nn.Linear)][-1]
        logits = made(batch)
        deviation = logits.std(0).clamp(min=1e-6)
        head.weight /= deviation[:, None]
        head.bias.copy_((head.bias - logits.mean(0)) / deviation)
    return made


def onnx_path(folder: Path, name: str, precision: str) -> Path:
    """Where the ONNX file of a model in a precision lies."""
    return folder / "onnx" / f"{name}-{precision}.onnx"


def write(name: str, folder: Path) -> dict[str, Any]:
    """Write the model's ONNX files of all precisions, batch 1: what of them there is, and why not
    the others."""
    from fp8 import to_fp8

    from edgedl.core.samples import from_arrays
    from edgedl.export import export
    from edgedl.passes.clean import Clean
    from edgedl.passes.graph import open_model
    from edgedl.passes.half import Half
    from edgedl.passes.quantize import Quantize
    from edgedl.passes.shapes import Shapes

    place = onnx_path(folder, name, "exported")
    place.parent.mkdir(parents=True, exist_ok=True)
    given = arrays(name, 2, seed=2)
    feeds = [{key: array[i : i + 1] for key, array in given.items()} for i in range(2)]
    export(network(name), feeds, place, outputs=["logits"], tolerance=1e-2)
    shapes = {key: (1, *shape.shape) for key, shape in SUBJECTS[name].inputs.items()}
    model = Clean(min_opset=19)(Shapes(shapes)(open_model(place)))
    samples = from_arrays(arrays(name, CALIBRATED, seed=3)).bind(model.signature)
    found: dict[str, Any] = {}

    def keep(precision: str, make: Callable[[], Path]) -> None:
        path = onnx_path(folder, name, precision)
        try:
            onnx.save(onnx.load(make()), path)
            found[precision] = {"bytes": path.stat().st_size}
        except Exception as error:
            found[precision] = {"failed": f"{type(error).__name__}: {error}"[:300]}

    def int8() -> Path:
        return Quantize(samples, scheme="tensorrt")(model).path

    def fp8() -> Path:
        path = onnx_path(folder, name, "fp8-float")
        to_fp8(int8(), path)
        return Half()(open_model(path)).path

    keep("float32", lambda: model.path)
    keep("float16", lambda: Half()(model).path)
    keep("int8", lambda: Half()(open_model(int8())).path)
    keep("fp8", fp8)
    return found
