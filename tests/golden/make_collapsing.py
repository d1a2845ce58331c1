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
from torch.nn import functional

from recipes.fashion_mnist import find_data, read_split, sha256

HERE = Path(__file__).parent
CLASSES = 10
BATCH = 128
CANVAS = 96
KINDS = (1, 7, 8, 9)  # trouser, sneaker, bag, ankle boot
STRIDES = (8, 16)
SMALL = 30  # boxes with a longer side than this belong to the coarse level
MOST_ITEMS = 4
TRAINING_SCENES, CALIBRATION_SCENES, TEST_SCENES = 6000, 128, 256
SPREAD = 4.0
UNEVEN = {"mobilenet_v3": 3.0, "efficientnet": 2.0}
DEAD = 2
OUTLIERS, OUTLIER = 3, 64.0

Activation = Callable[[], nn.Module]


def conv_bn(
    given: int,
    made: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    act: Activation | None = None,
) -> nn.Sequential:
    conv = nn.Conv2d(given, made, kernel, stride, kernel // 2, groups=groups, bias=False)
    parts = [conv, nn.BatchNorm2d(made)]
    return nn.Sequential(*parts, *([act()] if act else []))


class SqueezeExcite(nn.Module):
    """Channels weighed by what their means say (Hu et al., 2018)."""

    def __init__(self, channels: int, act: Activation, gate: Activation) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, max(4, channels // 4), 1)
        self.expand = nn.Conv2d(max(4, channels // 4), channels, 1)
        self.act, self.gate = act(), gate()

    def forward(self, x: Tensor) -> Tensor:
        squeezed = functional.adaptive_avg_pool2d(x, 1)
        weighed: Tensor = x * self.gate(self.expand(self.act(self.reduce(squeezed))))
        return weighed


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, perhaps squeeze and excite, linear projection."""

    def __init__(
        self,
        given: int,
        wide: int,
        made: int,
        kernel: int,
        stride: int,
        act: Activation,
        squeeze: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.expand = conv_bn(given, wide, 1, act=act)
        self.depthwise = conv_bn(wide, wide, kernel, stride, groups=wide, act=act)
        self.squeeze = squeeze(wide) if squeeze else nn.Identity()
        self.project = conv_bn(wide, made, 1)
        self.residual = stride == 1 and given == made

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class Classifier(nn.Module):
    """Image float32 [1, 1, 28, 28] in [0, 1] to logits float32 [1, 10]."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(functional.adaptive_avg_pool2d(self.body(image), 1).flatten(1))
        return logits


def mobilenet_v3() -> nn.Module:
    """MobileNetV3-Small (Howard et al., 2019), narrow and shallow."""

    def squeeze(channels: int) -> nn.Module:
        return SqueezeExcite(channels, nn.ReLU, nn.Hardsigmoid)

    body = nn.Sequential(
        conv_bn(1, 16, 3, 2, act=nn.Hardswish),
        InvertedResidual(16, 16, 16, 3, 1, nn.ReLU, squeeze),
        InvertedResidual(16, 48, 24, 3, 2, nn.ReLU),
        InvertedResidual(24, 64, 24, 3, 1, nn.ReLU),
        InvertedResidual(24, 64, 32, 5, 2, nn.Hardswish, squeeze),
        InvertedResidual(32, 80, 32, 5, 1, nn.Hardswish, squeeze),
        conv_bn(32, 96, 1, act=nn.Hardswish),
    )
    head = nn.Sequential(nn.Linear(96, 64), nn.Hardswish(), nn.Linear(64, CLASSES))
    return Classifier(body, head)


def efficientnet() -> nn.Module:
    """EfficientNet-B0 (Tan and Le, 2019), narrow and shallow."""

    def squeeze(channels: int) -> nn.Module:
        return SqueezeExcite(channels, nn.SiLU, nn.Sigmoid)

    body = nn.Sequential(
        conv_bn(1, 16, 3, 2, act=nn.SiLU),
        InvertedResidual(16, 48, 16, 3, 1, nn.SiLU, squeeze),
        InvertedResidual(16, 64, 24, 5, 2, nn.SiLU, squeeze),
        InvertedResidual(24, 72, 24, 5, 1, nn.SiLU, squeeze),
        InvertedResidual(24, 72, 32, 3, 2, nn.SiLU, squeeze),
        InvertedResidual(32, 80, 32, 3, 1, nn.SiLU, squeeze),
        conv_bn(32, 96, 1, act=nn.SiLU),
    )
    return Classifier(body, nn.Linear(96, CLASSES))


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 (Sandler et al., 2018) with ReLU in ReLU6's place, narrow and shallow."""
    body = nn.Sequential(
        conv_bn(1, 16, 3, 2, act=nn.ReLU),
        InvertedResidual(16, 48, 16, 3, 1, nn.ReLU),
        InvertedResidual(16, 64, 24, 3, 2, nn.ReLU),
        InvertedResidual(24, 72, 24, 3, 1, nn.ReLU),
        InvertedResidual(24, 72, 32, 3, 2, nn.ReLU),
        InvertedResidual(32, 96, 32, 3, 1, nn.ReLU),
        conv_bn(32, 96, 1, act=nn.ReLU),
    )
    return Classifier(body, nn.Linear(96, CLASSES))


@torch.no_grad()
def scale_badly(model: nn.Module, seed: int) -> None:
    """Multiply channels by 2^uniform(-4, 4) in batch norms, and divide what reads them by it."""
    random = np.random.default_rng(seed)

    def spread(norm: nn.Module, reader: nn.Module, axis: int) -> None:
        channels = norm.weight.numel()
        factors = torch.from_numpy(2 ** random.uniform(-SPREAD, SPREAD, channels)).float()
        norm.weight.mul_(factors)
        norm.bias.mul_(factors)
        reader.weight.div_(factors.reshape([-1 if i == axis else 1 for i in range(4)]))

    for block in model.modules():
        if isinstance(block, InvertedResidual):
            spread(block.expand[1], block.depthwise[0], 0)
            spread(block.depthwise[1], block.project[0], 1)


@torch.no_grad()
def make_uneven(model: nn.Module, uneven: float, seed: int) -> None:
    """Fix the gains of batch norms around depthwise convolutions, for all else to be trained with.

    They are 2^uniform(-uneven, 0). Two channels of each expansion are dead, as happens in long
    training: their variance behind the depthwise convolution is 0, so that folding its norm divides
    their weights by the root of epsilon (Sheng et al., A Quantization-Friendly Separable
    Convolution for MobileNets, 2018).
    """
    random = np.random.default_rng(seed)
    for block in model.modules():
        if not isinstance(block, InvertedResidual):
            continue
        first, second = block.expand[1], block.depthwise[1]
        channels = first.weight.numel()
        alive = torch.ones(channels)
        alive[random.choice(channels, DEAD, replace=False)] = 0
        gains = torch.from_numpy(2 ** random.uniform(-uneven, 0, (2, channels))).float()
        first.weight.copy_(gains[0] * alive)
        second.weight.copy_(torch.where(alive > 0, gains[1], 1.0))
        first.weight.requires_grad_(False)
        second.weight.requires_grad_(False)
        first.bias.register_hook(alive.mul)  # it starts at 0, and stays there


class Attention(nn.Module):
    """Self-attention of several heads."""

    def __init__(self, wide: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(wide, wide) for _ in range(3))
        self.out = nn.Linear(wide, wide)

    def forward(self, x: Tensor) -> Tensor:
        count, tokens, wide = x.shape

        def split(y: Tensor) -> Tensor:
            return y.reshape(count, tokens, self.heads, wide // self.heads).transpose(1, 2)

        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        weights = (query @ key.transpose(2, 3) * (wide // self.heads) ** -0.5).softmax(-1)
        mixed: Tensor = self.out((weights @ value).transpose(1, 2).reshape(count, tokens, wide))
        return mixed


class Encoder(nn.Module):
    """Attention and a perceptron, each behind a layer norm and added to what they read."""

    def __init__(self, wide: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(wide), nn.LayerNorm(wide)
        self.attention = Attention(wide, heads)
        self.up, self.down = nn.Linear(wide, 2 * wide), nn.Linear(2 * wide, wide)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.down(functional.gelu(self.up(self.second(x))))


@torch.no_grad()
def add_outliers(model: nn.Module, seed: int) -> None:
    """Multiply three channels of each layer norm by 64, and divide the weights that read them by
    it: such channels grow in large transformers by themselves (Bondarenko et al., 2023)."""
    random = np.random.default_rng(seed)
    for layer in model.modules():
        if isinstance(layer, Encoder):
            attention = layer.attention
            for norm, readers in (
                (layer.first, (attention.query, attention.key, attention.value)),
                (layer.second, (layer.up,)),
            ):
                picked = random.choice(norm.weight.numel(), OUTLIERS, replace=False)
                norm.weight[picked] *= OUTLIER
                norm.bias[picked] *= OUTLIER
                for reader in readers:
                    reader.weight[:, picked] /= OUTLIER


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al., 2021) over 49 patches of 4x4."""

    def __init__(self, wide: int = 40, heads: int = 4, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, wide, 4, 4)
        self.place = nn.Parameter(0.02 * torch.randn(1, 50, wide))
        self.token = nn.Parameter(torch.zeros(1, 1, wide))
        self.layers = nn.Sequential(*(Encoder(wide, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(wide), nn.Linear(wide, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.embed(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(image), -1, -1), patches], 1) + self.place
        logits: Tensor = self.head(self.norm(self.layers(tokens)[:, 0]))
        return logits


class Detector(nn.Module):
    """A YOLO-like detector: image float32 [1, 1, 96, 96] in [0, 1] to one output of boxes in pixels
    (centre and size) and a score for each class, float32 [1, 4 + 4, 180], as YOLOv8's export."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv_bn(1, 12, 3, 2, act=nn.SiLU),
            conv_bn(12, 24, 3, 2, act=nn.SiLU),
            conv_bn(24, 32, 3, 2, act=nn.SiLU),
        )
        self.fine = nn.Sequential(*(InvertedResidual(32, 64, 32, 3, 1, nn.SiLU) for _ in range(2)))
        self.coarse = nn.Sequential(
            InvertedResidual(32, 64, 48, 3, 2, nn.SiLU), InvertedResidual(48, 96, 48, 3, 1, nn.SiLU)
        )
        self.boxes = nn.ModuleList(self.branch(wide, 4) for wide in (32, 48))
        self.scores = nn.ModuleList(self.branch(wide, len(KINDS)) for wide in (32, 48))
        for branch in self.scores:
            nn.init.constant_(branch[-1].bias, -4.0)
        points, strides = cells()
        self.register_buffer("points", points.T[None])
        self.register_buffer("strides", strides.T[None])

    @staticmethod
    def branch(wide: int, made: int) -> nn.Sequential:
        depthwise = conv_bn(wide, wide, 3, groups=wide, act=nn.SiLU)
        return nn.Sequential(depthwise, conv_bn(wide, 32, 1, act=nn.SiLU), nn.Conv2d(32, made, 1))

    def raw(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Distances to a box's sides in strides [n, 4, cells], and logits [n, classes, cells]."""
        fine = self.fine(self.stem(image))
        levels = [
            torch.cat([boxes(x), scores(x)], 1).flatten(2)
            for x, boxes, scores in zip(
                (fine, self.coarse(fine)), self.boxes, self.scores, strict=True
            )
        ]
        sides, logits = torch.cat(levels, 2).split((4, len(KINDS)), 1)
        return sides, logits

    def forward(self, image: Tensor) -> Tensor:
        sides, logits = self.raw(image)
        near, far = sides.chunk(2, 1)
        low, high = self.points - near * self.strides, self.points + far * self.strides
        return torch.cat([(low + high) / 2, high - low, logits.sigmoid()], 1)


def cells() -> tuple[Tensor, Tensor]:
    """Centres of all levels' cells in pixels [cells, 2], and their strides [cells, 1]."""
    points, strides = [], []
    for stride in STRIDES:
        side = (torch.arange(CANVAS // stride) + 0.5) * stride
        y, x = torch.meshgrid(side, side, indexing="ij")
        points.append(torch.stack([x, y], -1).reshape(-1, 2))
        strides.append(torch.full((side.numel() ** 2, 1), float(stride)))
    return torch.cat(points), torch.cat(strides)


def scenes(
    images: NDArray[np.uint8], labels: NDArray[np.int64], count: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Items at random places and sizes: u8 [n, 1, 96, 96], and left, top, right, bottom and class
    float32 [n, 4, 5], with rows of class -1 where there are fewer than four."""
    random = np.random.default_rng(seed)
    able = [np.flatnonzero(labels == kind) for kind in KINDS]
    canvases = np.zeros((count, 1, CANVAS, CANVAS), np.uint8)
    boxes = np.full((count, MOST_ITEMS, 5), -1, np.float32)
    for canvas, rows in zip(canvases[:, 0], boxes, strict=True):
        free = np.ones((CANVAS, CANVAS), bool)
        wanted, placed = random.integers(1, MOST_ITEMS + 1), 0
        for _ in range(3 * wanted):
            kind = int(random.integers(len(KINDS)))
            item = images[random.choice(able[kind]), 0]
            size = int(random.integers(18, 57))
            x, y = random.integers(0, CANVAS - size + 1, 2)
            grown = functional.interpolate(
                torch.from_numpy(item.astype(np.float32))[None, None], (size, size), mode="bilinear"
            )[0, 0]
            seen = grown.numpy() > 24
            place = (slice(y, y + size), slice(x, x + size))
            if placed == wanted or not free[place][seen].all():
                continue
            canvas[place] = np.maximum(canvas[place], grown.numpy().astype(np.uint8))
            down, across = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            left, top, right, bottom = across[0], down[0], across[-1] + 1, down[-1] + 1
            rows[placed] = (x + left, y + top, x + right, y + bottom, kind)
            free[y + top : y + bottom, x + left : x + right] = False
            placed += 1
    return canvases, boxes


def assigned(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """For each cell the box that it is to find, [n, cells, 4], and its class, [n, cells], -1 where
    there is none: cells near a box's centre, on the level of its size, find it."""
    points, strides = cells()
    sizes = boxes[..., 2:4] - boxes[..., :2]
    centres = (boxes[..., :2] + boxes[..., 2:4]) / 2
    level = torch.where(sizes.amax(-1) > SMALL, STRIDES[1], STRIDES[0])
    near = (points[None, :, None] - centres[:, None]).abs().amax(-1) < strides[None]
    mine = near & (strides[None] == level[:, None]) & (boxes[:, None, :, 4] >= 0)
    which = mine.float().argmax(-1)
    found = boxes.gather(1, which[..., None].expand(-1, -1, 5))
    return found[..., :4], torch.where(mine.any(-1), found[..., 4].long(), -1)


def detection_loss(model: Detector, images: Tensor, boxes: Tensor) -> Tensor:
    """Focal cross-entropy of scores, and 1 - IoU of boxes where there are any."""
    sides, logits = model.raw(images)
    wanted, kinds = assigned(boxes)
    positive = kinds >= 0
    truth = functional.one_hot(kinds.clamp(min=0), len(KINDS)) * positive[..., None]
    logits, truth = logits.transpose(1, 2), truth.float()
    each = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    focus = (truth - logits.sigmoid()).abs() ** 1.5
    count = positive.sum().clamp(min=1)
    points, strides = cells()
    sides = sides.transpose(1, 2)
    low, high = points - sides[..., :2] * strides, points + sides[..., 2:] * strides
    shared = (torch.minimum(high, wanted[..., 2:]) - torch.maximum(low, wanted[..., :2])).clamp(0)
    area = (high - low).clamp(0).prod(-1) + (wanted[..., 2:] - wanted[..., :2]).prod(-1)
    overlap = shared.prod(-1) / (area - shared.prod(-1)).clamp(min=1)
    ends = torch.cat([low, high], -1)
    apart = functional.smooth_l1_loss(ends, wanted, reduction="none").mean(-1) / CANVAS
    return (each * focus).sum() / count + ((1 - overlap + 2 * apart) * positive).sum() / count


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
