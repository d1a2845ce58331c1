"""Train a small CNN on Fashion-MNIST, export it to ONNX, and score the exported file.

The network mixes what edge models are made of: a convolution stem, residual blocks and depthwise-
separable blocks, all with batch normalisation, then global average pooling and one fully connected
layer. It has 234,000 parameters, so the float32 file stays under 1 MB. Pixels enter scaled to
[0, 1]; there is no other preprocessing.

The last step's weights are exported, whatever the test images say of earlier ones. On one machine,
with one number of threads, two runs give the same file, byte for byte.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

PACKAGE = "dataset-fashion-mnist"
INSIDE_PACKAGE = Path("usr/share/datasets/fashion-mnist")
SHA256 = {
    "train-images-idx3": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
CLASSES = 10
CALIBRATION_IMAGES = 512
TEST_IMAGES = 2500
BATCH = 128
PEAK_LEARNING_RATE = 0.1
LARGEST_SHIFT = 2


class RecipeError(Exception):
    """What went wrong, and what the reader can do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def sha256(content: bytes) -> str:
    """The digest in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def find_data(folder: Path) -> Path:
    """Where the four IDX files are: `folder`, or the Debian package in it, fetched if need be."""
    for candidate in (folder, folder / INSIDE_PACKAGE):
        if all((candidate / f"{name}-ubyte.gz").is_file() for name in SHA256):
            return candidate
    print(f"data: fetching the Debian package {PACKAGE} into {folder}", flush=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True)
        package = max(folder.glob(f"{PACKAGE}_*.deb"))
        subprocess.run(["dpkg", "-x", package.name, "."], cwd=folder, check=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise RecipeError(
            f"cannot fetch the Debian package {PACKAGE}: {error}",
            "put Fashion-MNIST's four *-ubyte.gz files into a folder and pass it as --data DIR",
        ) from error
    return folder / INSIDE_PACKAGE


def read_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """The u8 array of a gzipped IDX file, whose SHA-256 must be the pinned one."""
    path = folder / f"{name}-ubyte.gz"
    packed = path.read_bytes()
    if sha256(packed) != SHA256[name]:
        raise RecipeError(
            f"{path} is not the file this recipe was written for: its SHA-256 differs",
            "delete it and run again to fetch it, or pass another folder as --data DIR",
        )
    raw = gzip.decompress(packed)
    rank = raw[3]
    shape = np.frombuffer(raw, ">u4", count=rank, offset=4).astype(int)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def read_split(folder: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images u8 [n, 1, 28, 28] and labels int64 [n] of `train` (60,000) or `t10k` (10,000)."""
    images = read_idx(folder, f"{split}-images-idx3")[:, None]
    return images, read_idx(folder, f"{split}-labels-idx1").astype(np.int64)


def to_float(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the network is fed: float32 in [0, 1], the shape kept."""
    return images.astype(np.float32) / np.float32(255)


def stratified(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Indices int64 [count] of samples drawn without replacement, round-robin by class.

    Every prefix is balanced to within one sample a class.
    """
    random = np.random.default_rng(seed)
    rounds = -(-count // CLASSES)
    drawn = [random.permutation(np.flatnonzero(labels == k))[:rounds] for k in range(CLASSES)]
    return np.stack(drawn, axis=1).reshape(-1)[:count]


def write_npz(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """Write `image` float32 [n, 1, 28, 28] in [0, 1] and `labels` int64 [n] for `np.load`.

    The zip is written by hand: timestamps are fixed, and bzip2 packs these floats a third smaller
    than deflate, whose output also depends on the zlib that Python was built with.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in (("image", to_float(images)), ("labels", labels)):
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system = 3
            member.external_attr = 0o644 << 16
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            archive.writestr(member, buffer.getvalue(), zipfile.ZIP_BZIP2, compresslevel=9)
    packed = path.read_bytes()
    print(f"{path}: {len(labels)} images, {len(packed):,} bytes, sha256 {sha256(packed)}")


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """Convolution and batch normalisation; the size is kept at stride 1."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """relu(x + f(x)), where f is two 3x3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv_bn(channels, channels, 3)
        self.second = conv_bn(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class Separable(nn.Module):
    """A 3x3 depthwise convolution, which may stride, then a 1x1 convolution across channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = conv_bn(inputs, inputs, 3, stride, groups=inputs)
        self.pointwise = conv_bn(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.pointwise(torch.relu(self.depthwise(x))))


class FashionNet(nn.Module):
    """Image float32 [batch, 1, 28, 28] in [0, 1] to logits float32 [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(1, 32, 3)
        self.blocks = nn.Sequential(
            Separable(32, 48, stride=2),
            Residual(48),
            Separable(48, 96, stride=2),
            Residual(96),
            Separable(96, 160, stride=1),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(160, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.stem(image)))
        logits: Tensor = self.head(self.pool(x).flatten(1))
        return logits


def augment(images: Tensor, random: torch.Generator) -> Tensor:
    """Mirror half of the images, shift each by up to two pixels; u8 [n, 1, 28, 28] in and out."""
    count, _, height, width = images.shape
    mirrored = torch.rand(count, 1, 1, 1, generator=random) < 0.5
    images = torch.where(mirrored, images.flip(-1), images)
    padded = nn.functional.pad(images, (LARGEST_SHIFT,) * 4)
    shift = torch.randint(0, 2 * LARGEST_SHIFT + 1, (2, count, 1), generator=random)
    rows = (shift[0] + torch.arange(height))[:, :, None]
    columns = (shift[1] + torch.arange(width))[:, None, :]
    return padded[torch.arange(count)[:, None, None], 0, rows, columns][:, None]


def train(
    images: NDArray[np.uint8], labels: NDArray[np.int64], epochs: int, seed: int
) -> FashionNet:
    """The trained network in eval mode: SGD with momentum, a short warm-up, a cosine to zero."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    pixels, answers = torch.from_numpy(images.copy()), torch.from_numpy(labels)
    model = FashionNet().train()
    # The faster layout for convolutions on a CPU; torch's stubs do not know the argument.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = len(labels) // BATCH
    optimizer = torch.optim.SGD(
        model.parameters(), PEAK_LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, epochs * steps, pct_start=0.15, cycle_momentum=False
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    start = time.perf_counter()
    for epoch in range(epochs):
        order = torch.randperm(len(labels), generator=random)
        total, right = 0.0, 0
        for step in range(steps):
            picked = order[step * BATCH : (step + 1) * BATCH]
            logits = model(augment(pixels[picked], random).float() / 255)
            loss = loss_of(logits, answers[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
            right += int((logits.argmax(1) == answers[picked]).sum())
        print(
            f"epoch {epoch + 1:2d}/{epochs}: loss {total / steps:.4f}, augmented training "
            f"accuracy {right / (steps * BATCH):.2%}, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return model.eval()


def export(model: FashionNet, path: Path) -> None:
    """Write one ONNX file, opset 18, batch normalisation folded into the convolutions."""
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, 28, 28),),
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=18,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    graph = proto.graph
    graph.name = "fashion_mnist"
    # The exporter leaves stack traces here, and with them paths of the machine it ran on.
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for item in (proto, graph, *graph.node, *values):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    onnx.checker.check_model(proto, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def torch_and_onnx_logits(
    model: FashionNet, path: Path, images: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Answers of the torch network and of the ONNX file in onnxruntime, float32 [n, 10] each."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ours, exported = [], []
    with torch.inference_mode():
        for start in range(0, len(images), 500):
            part = images[start : start + 500]
            ours.append(model(torch.from_numpy(part)).numpy())
            exported.append(session.run(["logits"], {"image": part})[0])
    return np.concatenate(ours), np.concatenate(exported)


def run(options: argparse.Namespace) -> None:
    """Read the data, then write the slices, or train, export and score; last comes JSON."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(options.threads)
    folder = find_data(options.data)
    train_images, train_labels = read_split(folder, "train")
    test_images, test_labels = read_split(folder, "t10k")
    test = stratified(test_labels, TEST_IMAGES, options.seed)
    if options.write_slices:
        picked = stratified(train_labels, CALIBRATION_IMAGES, options.seed)
        to = options.write_slices
        write_npz(to / "calibration.npz", train_images[picked], train_labels[picked])
        write_npz(to / "test.npz", test_images[test], test_labels[test])
        return

    start = time.perf_counter()
    model = train(train_images, train_labels, options.epochs, options.seed)
    seconds = time.perf_counter() - start
    export(model, options.out)
    images = to_float(test_images)
    torch_logits, logits = torch_and_onnx_logits(model, options.out, images)
    difference = float(np.abs(torch_logits - logits).max())
    right = logits.argmax(1) == test_labels
    content = options.out.read_bytes()
    print(
        f"{options.out}: {right.mean():.2%} of {len(right):,} test images right in onnxruntime, "
        f"whose logits differ from torch's by at most {difference:.1e}"
    )
    report = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training_seconds": round(seconds),
        "accuracy_10000": round(float(right.mean()), 4),
        "accuracy_2500": round(float(right[test].mean()), 4),
        "max_abs_difference": difference,
        "bytes": len(content),
        "sha256": sha256(content),
    }
    print(json.dumps(report))


def main() -> None:
    """Parse the command line; say what went wrong and what to do about it."""
    parser = argparse.ArgumentParser(description="Train, export and score a Fashion-MNIST CNN.")
    add = parser.add_argument
    cache = Path.home() / ".cache" / "edgedl" / "fashion-mnist"
    add("--data", type=Path, default=cache, metavar="DIR", help="the data; fetched if not there")
    out = Path(__file__).with_suffix(".onnx")
    add("--out", type=Path, default=out, metavar="FILE", help="the ONNX file to write")
    add("--epochs", type=int, default=24, help="24 unless told")
    add("--seed", type=int, default=0, help="of the weights, batches and slices; 0 unless told")
    add("--threads", type=int, default=2, help="torch's; 2 unless told; other weights for others")
    add("--write-slices", type=Path, metavar="DIR", help="write only calibration and test npz")
    options = parser.parse_args()
    try:
        run(options)
    except RecipeError as error:
        print(f"error: {error}\n\nhint: {error.hint}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
