"""Train five small nets of the kinds that naive int8 spoils, and export them to ONNX.

Run it from the repository's root as `python -m tests.golden.make_collapsing`. Everything is seeded
and runs on one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recipes.fashion_mnist import find_data, read_split, sha256
from tests.golden.convolutional import (
    efficientnet,
    make_uneven,
    mobilenet_v2,
    mobilenet_v3,
    scale_badly,
)
from tests.golden.detector import CANVAS, Detector, detection_loss, scenes
from tests.golden.transformer import ViT, add_outliers

HERE = Path(__file__).parent
BATCH = 128
TRAINING_SCENES, CALIBRATION_SCENES, TEST_SCENES = 6000, 128, 256
UNEVEN = {"mobilenet_v3": 3.0, "efficientnet": 2.0}


def fit(
    model: nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    images: NDArray[np.uint8],
    labels: NDArray[np.generic],
    *,
    epochs: int,
    rate: float,
    batch: int,
    seed: int,
) -> None:
    """AdamW with a warm-up and a cosine to zero."""
    random = torch.Generator().manual_seed(seed)
    pixels, answers = torch.from_numpy(images.copy()), torch.from_numpy(labels.copy())
    steps = len(answers) // batch
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, epochs * steps, pct_start=0.15, cycle_momentum=False
    )
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(answers), generator=random)
        start, total = time.perf_counter(), 0.0
        for picked in batches(order, steps, batch):
            loss = loss_of(pixels[picked].float() / 255, answers[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - start
        print(
            f"  epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, {seconds:.0f} s", flush=True
        )
    model.eval()


def batches(order: Tensor, steps: int, batch: int) -> Iterator[Tensor]:
    yield from (order[step * batch : (step + 1) * batch] for step in range(steps))


def export(model: nn.Module, name: str, side: int, output: str) -> Path:
    """One ONNX file for one image, opset 18, without what the exporter leaves of this machine."""
    program = torch.onnx.export(
        model, (torch.zeros(1, 1, side, side),), input_names=["image"], output_names=[output],
        opset_version=18, dynamo=True, verbose=False,
    )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    graph = proto.graph
    graph.name = name
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for item in (proto, graph, *graph.node, *values):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    del graph.value_info[:]
    onnx.checker.check_model(proto, full_check=True)
    path = HERE / f"{name}.onnx"
    path.write_bytes(proto.SerializeToString(deterministic=True))
    content = path.read_bytes()
    print(json.dumps({"file": path.name, "bytes": len(content), "sha256": sha256(content)}))
    return path


@torch.inference_mode()
def accuracy(model: nn.Module, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    right = [
        (model(torch.from_numpy(images[i : i + 500].astype(np.float32)) / 255).argmax(1).numpy())
        == labels[i : i + 500]
        for i in range(0, len(labels), 500)
    ]
    return float(np.concatenate(right).mean())


NETS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_v3": mobilenet_v3,
    "efficientnet": efficientnet,
    "mobilenet_v2": mobilenet_v2,
    "vit": ViT,
    "detector": Detector,
}
EPOCHS = {"mobilenet_v3": 3, "efficientnet": 2, "mobilenet_v2": 4, "vit": 4, "detector": 8}


def make(name: str, folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = NETS[name]()
    if name in UNEVEN:
        make_uneven(model, UNEVEN[name], seed)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"{name}: {size:,} parameters", flush=True)
    images, labels = read_split(folder, "train")
    test_images, test_labels = read_split(folder, "t10k")
    if isinstance(model, Detector):
        make_scenes(test_images, test_labels, images, labels, seed)
        canvases, boxes = scenes(images, labels, TRAINING_SCENES, seed + 1)
        fit(
            model, lambda x, y: detection_loss(model, x, y), canvases, boxes,
            epochs=EPOCHS[name], rate=3e-3, batch=32, seed=seed,
        )  # fmt: skip
        export(model, name, CANVAS, "detections")
        return
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    fit(
        model, lambda x, y: loss(model(x), y), images, labels,
        epochs=EPOCHS[name], rate=4e-3, batch=BATCH, seed=seed,
    )  # fmt: skip
    before = accuracy(model, test_images, test_labels)
    if name == "mobilenet_v2":
        scale_badly(model, seed)
    if name == "vit":
        add_outliers(model, seed)
    after = accuracy(model, test_images, test_labels)
    print(f"  {before:.2%} of 10,000 test images right; {after:.2%} as exported")
    export(model, name, 28, "logits")


def make_scenes(
    test_images: NDArray[np.uint8],
    test_labels: NDArray[np.int64],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    seed: int,
) -> None:
    """Scenes for calibration from training items, for testing from test items, in one file."""
    seen, _ = scenes(images, labels, CALIBRATION_SCENES, seed + 2)
    canvases, boxes = scenes(test_images, test_labels, TEST_SCENES, seed + 3)
    path = HERE / "scenes.npz"
    np.savez_compressed(path, calibration=seen, test=canvases, boxes=boxes.astype(np.int16))
    print(f"{path.name}: {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the nets of tests/test_recovery.py.")
    cache = Path.home() / ".cache" / "edgedl" / "fashion-mnist"
    parser.add_argument("names", nargs="*", default=list(NETS), choices=list(NETS))
    parser.add_argument(
        "--data", type=Path, default=cache, metavar="DIR", help="fetched if need be"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    folder = find_data(options.data)
    for name in options.names:
        make(name, folder, options.seed)


if __name__ == "__main__":
    main()
