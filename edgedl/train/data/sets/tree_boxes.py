"""Detection: 951 trees in four aerial photos, cut to tiles of 400x400 (Weinstein et al., 2020).

MIT. A sample's boxes are one row of a padded array: left, top, right, bottom in pixels of the tile
and the class; rows of class -1 fill up to the most boxes of any tile.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from edgedl.core.errors import BadSamples, BadValue
from edgedl.core.progress import Progress, silent
from edgedl.runtime.process.image import Image, Resize
from edgedl.train.data.dataset import Found, Prepared
from edgedl.train.data.fetch import Package, obtain
from edgedl.train.data.pixels import normal_image
from edgedl.train.data.rows import prepared
from edgedl.train.data.sets.variant import no_variants
from edgedl.train.data.settings import Data

INSIDE = "deepforest/data/"
PHOTOS = {
    "2019_YELL_2_528000_4978000_image_crop2": (
        "a9bdb0f4447fdd899d22f567e0e20ba8320c5413b2ad0cd0ac8d9f3b6e0f9767",
        "bd431af6a5086d721eb731b22f5ea28cd8a8eab06883efc1c665391acbc68e11",
    ),
    "2019_YELL_2_541000_4977000_image_crop": (
        "178e58a23cc2642226a364a30f71bd9258ddc1b012c826f12250914a90c7a131",
        "cefe4b96888bacbf8af1674f000082e549aa707aa6590d545effb23e43f26631",
    ),
    "OSBS_029": (
        "d9477c6a00e4902c7bee487d4c5582c3b8b9a2f77f3908a29628b816b291e6ee",
        "1f68c4011d7b351c29ca755072e77f3d16e6fd1f995bd05a9dd4eb952b55373c",
    ),
    "SOAP_061": (
        "256508f1a62149bec4a80879077a865caf50e8cace095e6564c76befa480d424",
        "4833280af75fd9c47965a93e38945282835e9e725cac412bdb9469d63480947c",
    ),
}
PACKAGE = Package(
    "pip",
    "deepforest",
    "2.1.0",
    {
        f"{INSIDE}{name}.{suffix}": digest
        for name, digests in PHOTOS.items()
        for suffix, digest in zip(("png", "xml"), digests, strict=True)
    },
    archive="8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54",
)
SIDE = 400
LEAST_SHARE = 0.3
MOST_XML = 1 << 22
CLASSES = ("tree",)


def find(settings: Data, *, cache: Path, progress: Progress = silent) -> Found:
    """Tiles, and the boxes in each; a photo's tiles do not overlap.

    Raises:
        BadSamples: a file is damaged. BadValue: the pre-processing is of another size. EdgeError:
            the package cannot be fetched. Missing: Pillow is not installed.
    """
    no_variants(settings)
    given = settings.image
    if given is not None and given.shape[1:] not in ((3, SIDE, SIDE), (SIDE, SIDE, 3)):
        message = f"boxes are in pixels of a tile of {SIDE}x{SIDE}, and `image` changes it"
        hint = f"`image: {{resize: {{exactly: {SIDE}}}, scale: 1/255}}`"
        raise BadValue(message, keys=("image",), hint=hint)
    files = obtain(PACKAGE, settings.folder, cache, progress)
    reader = Image()
    tiles: list[np.ndarray] = []
    boxes: list[np.ndarray] = []
    for i, name in enumerate(PHOTOS):
        progress("cutting tiles", i, len(PHOTOS))
        pixels = reader.decode(files[f"{INSIDE}{name}.png"])
        for tile, inside in cut(pixels, read_boxes(files[f"{INSIDE}{name}.xml"])):
            tiles.append(tile)
            boxes.append(inside)
    labels = padded(boxes)
    doubts = (
        f"{labels.shape[1]} rows of boxes a tile; those of class -1 only fill up",
        "tiles of one photo stand in training and in the test: the forest is the same",
    )

    def prepare(train: np.ndarray) -> Prepared:
        before = given
        if before is None:
            found = normal_image((tiles[i] for i in train), "rgb", (SIDE, SIDE))
            before = Image(
                "rgb", Resize(exactly=(SIDE, SIDE)), None, 1 / 255, found.mean, found.std
            )
        return prepared(tiles, "image", before, "tree_boxes")

    return Found(
        count=len(tiles),
        prepare=prepare,
        labels=labels,
        task="detection",
        outputs=len(CLASSES),
        where="tree_boxes",
        classes=CLASSES,
        standardize=False,
        doubts=doubts,
    )


def cut(pixels: np.ndarray, boxes: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tiles of a photo that hold boxes, and their boxes in the tile's pixels.

    Tiles at the right and lower edge are filled up with black. A box belongs to each tile that has
    0.3 of its area or more, cut at the tile's edge.
    """
    found = []
    for top in range(0, pixels.shape[0], SIDE):
        for left in range(0, pixels.shape[1], SIDE):
            part = pixels[top : top + SIDE, left : left + SIDE]
            tile = np.zeros((SIDE, SIDE, 3), np.uint8)
            tile[: part.shape[0], : part.shape[1]] = part
            moved = boxes - np.array([left, top, left, top])
            inner = np.clip(moved, 0, SIDE)
            areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (inner, boxes)]
            kept = areas[0] >= LEAST_SHARE * areas[1]
            if kept.any():
                found.append((tile, inner[kept].astype(np.float32)))
    return found


def padded(boxes: list[np.ndarray]) -> np.ndarray:
    """Float32 of shape [tiles, most, 5]: left, top, right, bottom, class 0; -1 where none is."""
    most = max(map(len, boxes), default=0)
    found = np.full((len(boxes), most, 5), -1, np.float32)
    for row, inside in zip(found, boxes, strict=True):
        row[: len(inside), :4] = inside
        row[: len(inside), 4] = 0
    return found


def read_boxes(path: Path) -> np.ndarray:
    """Boxes float64 of shape [boxes, 4] in pixels, of a file as PASCAL VOC writes it.

    Raises:
        BadSamples: it is none, or a box has no area.
    """
    try:
        content = path.read_bytes()
        if len(content) > MOST_XML or b"<!" in content:
            raise ValueError("too large, or declares entities")
        tree = ET.fromstring(content)  # noqa: S314
        names = ("xmin", "ymin", "xmax", "ymax")
        rows = [
            [float(found.findtext(f"bndbox/{name}", "")) for name in names]
            for found in tree.iter("object")
        ]
        boxes = np.array(rows).reshape(-1, 4)
        if not np.isfinite(boxes).all() or not (boxes[:, :2] < boxes[:, 2:]).all():
            raise ValueError("a box has no area")
    except (OSError, ValueError, ET.ParseError) as error:
        message = f"is no file of boxes ({str(error)[:100]})"
        raise BadSamples(message, where=str(path), hint="fetch the set anew") from error
    return boxes
