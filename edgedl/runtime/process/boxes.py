"""Boxes out of a detector's outputs: decoded, above a score, the overlapping ones left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgedl.core.errors import BadValue, WrongInput
from edgedl.runtime.process.activations import sigmoid, softmax

MOST_CANDIDATES = 30_000


@dataclass(frozen=True)
class Detections:
    """What was found in one sample, the most certain first.

    Attributes:
        boxes: left, top, right and bottom, float32 of shape [found, 4].
        scores: float32 of shape [found].
        classes: int64 of shape [found].
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Boxes:
    """How a network's outputs hold boxes. All are in pixels of the input, but where a network that
    decodes by itself gives other units.

    Attributes:
        format: how boxes are written.
            `final`: rows of left, top, right, bottom, score and class in one output, or boxes,
            scores and classes in three.
            `yolo`: one output of rows or columns of centre x, centre y, width, height and a score
            for each class, as YOLOv8 and its like, with an objectness before them where
            `objectness`, as YOLOv5 and v7.
            `yolox`: the same as offsets from a grid without anchors (Ge et al., 2021).
            `yolo-anchors`: an output for each level, anchors x (5 + classes) channels on its grid,
            as YOLOv3 (Redmon and Farhadi, 2018) and, where `squared`, v5; sigmoids come here.
            `ssd`: offsets from anchors, and scores, in two outputs (Liu et al., 2016).
            `distances`: distances from grid points to the four sides, and scores, in two outputs,
            as FCOS (Tian et al., 2019), or as distributions over `bins` (Li et al., Generalized
            Focal Loss, 2020).
        outputs: the outputs that are taken, in the order that the format names; all where empty.
        size: the input's height and width, which grids need.
        strides: the input's pixels to a grid cell, a level each.
        anchors: widths and heights of the anchors of each level, `w, h, w, h ...`.
        variances: what `ssd` multiplies offsets of centres, and of sizes, by.
        linear: whether sizes of `ssd` are factors of an anchor's, and not their logarithms.
        squared: whether `yolo-anchors` squares sizes, as YOLOv5, and not raises e to them.
        bins: values that each distance is a distribution over; 1 where it is a number.
        objectness: whether a score of any object stands before those of the classes, as in
            `yolox` and `yolo-anchors` it always does.
        activation: what makes scores of the output's values.
        background: the class that is none, left out, while others keep their places; None where
            there is none.
        threshold: the least score.
        overlap: boxes of one class that overlap a more certain one by more, as intersection over
            union, are left out (greedy non-maximum suppression); 1 keeps all.
        most: the most boxes in a sample.
    """

    format: Literal["final", "yolo", "yolox", "yolo-anchors", "ssd", "distances"] = "final"
    outputs: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    strides: tuple[int, ...] = ()
    anchors: tuple[tuple[float, ...], ...] = ()
    variances: tuple[float, float] = (0.1, 0.2)
    linear: bool = False
    squared: bool = False
    bins: int = 1
    objectness: bool = False
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    background: int | None = None
    threshold: float = 0.25
    overlap: float = 0.65
    most: int = 100

    def __post_init__(self) -> None:
        grids = self.format in ("yolox", "yolo-anchors", "ssd", "distances")
        if grids and (self.size is None or not self.strides):
            raise BadValue(
                f"boxes in the format `{self.format}` need the input's size and the strides",
                keys=("strides" if self.size else "size",),
                hint="size: [640, 640] and strides: [8, 16, 32], as the network has them",
            )
        if self.format == "yolo-anchors" and self.activation != "none":
            message = "`yolo-anchors` makes its scores by itself"
            raise BadValue(message, keys=("activation",), hint="leave `activation` out")
        if any(value < 1 for value in (*self.strides, *(self.size or ()), self.bins, self.most)):
            raise BadValue("sizes, strides and counts are 1 or more", keys=("strides",), hint="8")
        if self.format in ("ssd", "yolo-anchors"):
            if len(self.anchors) != len(self.strides):
                raise BadValue(
                    f"{len(self.anchors)} levels of anchors for {len(self.strides)} strides",
                    keys=("anchors",),
                    hint="anchors: [[w, h, w, h], [w, h]], a list for each stride",
                )
            if any(not level or len(level) % 2 for level in self.anchors):
                message = "an anchor is a width and a height"
                raise BadValue(message, keys=("anchors",), hint="[w, h, w, h]")

    def decode(self, outputs: Mapping[str, np.ndarray]) -> Detections:
        """What one sample's outputs say; a box whose corners, score or class are not finite is
        none.

        Raises:
            WrongInput: they are not of the format's shapes.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            return self._decoded(self._taken(outputs))

    def _decoded(self, arrays: Sequence[np.ndarray]) -> Detections:
        if self.format == "final":
            boxes, scores, classes = _final(arrays)
            return self._chosen(boxes, scores, classes)
        boxes, table = DECODERS[self.format](self, arrays)
        if len(boxes) != len(table):
            raise WrongInput(
                f"{len(boxes)} boxes and {len(table)} rows of scores",
                hint="`outputs`, `size`, `strides` and `anchors` must be the network's",
            )
        return self._found(boxes, table)

    def _taken(self, outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        names = self.outputs or tuple(outputs)
        gone = [name for name in names if name not in outputs]
        if gone:
            raise WrongInput(f"`{gone[0]}` is not an output", hint=f"known: {', '.join(outputs)}")
        return [np.asarray(outputs[name], np.float32) for name in names]

    def _found(self, boxes: np.ndarray, table: np.ndarray) -> Detections:
        """Of boxes and a table of scores, a column each class, and an objectness before them."""
        scores = table
        if self.activation != "none":
            scores = sigmoid(table) if self.activation == "sigmoid" else softmax(table)
        if self.objectness or self.format in ("yolox", "yolo-anchors"):
            scores = scores[:, 1:] * scores[:, :1]
        if self.background is not None and -scores.shape[1] <= self.background < scores.shape[1]:
            scores = np.array(scores)
            scores[:, self.background] = -np.inf
        rows, classes = np.nonzero(scores >= self.threshold)
        return self._chosen(boxes[rows], scores[rows, classes], classes)

    def _chosen(self, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> Detections:
        sound = np.isfinite(boxes).all(axis=1) & np.isfinite(scores) & np.isfinite(classes)
        above = np.flatnonzero((scores >= self.threshold) & sound)
        order = above[np.argsort(-scores[above], kind="stable")][:MOST_CANDIDATES]
        boxes, scores, classes = boxes[order], scores[order], classes[order].astype(np.int64)
        kept = suppress(boxes, classes, self.overlap)[: self.most]
        return Detections(boxes[kept], scores[kept], classes[kept])


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [m, 4] with boxes [n, 4], float32 of shape [m, n]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(np.clip(x[:, 2:] - x[:, :2], 0, None), axis=1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def suppress(boxes: np.ndarray, classes: np.ndarray, overlap: float) -> np.ndarray:
    """Positions of boxes that no earlier one of their class overlaps by more, in order: int64.

    Args:
        boxes: [count, 4], left, upper, right and lower edges, the best first.
        classes: [count].
        overlap: intersection over union; from 1 on, all are kept.
    """
    if overlap >= 1:
        return np.arange(len(boxes))
    kept: list[int] = []
    waiting = np.arange(len(boxes))
    while len(waiting):
        best, rest = waiting[0], waiting[1:]
        kept.append(int(best))
        over = overlaps(boxes[best : best + 1], boxes[rest])[0] > overlap
        waiting = rest[~(over & (classes[rest] == classes[best]))]
    return np.asarray(kept, np.int64)


def _final(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if len(arrays) == 1 and arrays[0].ndim and arrays[0].shape[-1] == 6:
        rows = arrays[0].reshape(-1, 6)
        return rows[:, :4], rows[:, 4], rows[:, 5]
    if len(arrays) == 3 and arrays[0].size == 4 * arrays[1].size == 4 * arrays[2].size:
        return arrays[0].reshape(-1, 4), arrays[1].reshape(-1), arrays[2].reshape(-1)
    raise _misfit(arrays, "rows of 6 in one output, or boxes, scores and classes in three")


def _yolo(said: Boxes, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    rows = _rows(arrays)
    return _corners(rows[:, :2], rows[:, 2:4]), rows[:, 4:]


def _yolox(said: Boxes, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    rows = _rows(arrays)
    points, stride = _grid(said, 0.0)
    if len(rows) != len(points):
        raise _misfit(arrays, f"{len(points)} rows, which `size` and `strides` make")
    sizes = np.exp(rows[:, 2:4]) * stride
    return _corners((rows[:, :2]) * stride + points, sizes), rows[:, 4:]


def _anchored(said: Boxes, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Each level [1, anchors x (5 + classes), height, width], or [1, anchors, height, width, 5 +
    classes]."""
    boxes, tables = [], []
    if len(arrays) != len(said.strides):
        raise _misfit(arrays, f"{len(said.strides)} outputs, one for each stride")
    for level, array in enumerate(arrays):
        anchors = np.asarray(said.anchors[level], np.float32).reshape(-1, 2)
        height, width = _cells(said, level)
        count, cells = len(anchors), height * width
        if array.size % (count * cells) or array.size < 6 * count * cells:
            raise _misfit(arrays, f"{count} anchors on {height} x {width} cells at level {level}")
        if array.ndim == 5:
            table = array.reshape(count, cells, -1)
        else:
            table = array.reshape(count, -1, cells).transpose(0, 2, 1)
        stride = said.strides[level]
        cell = _points(height, width)
        near = sigmoid(table[..., :2])
        if said.squared:
            centres = (2 * near - 0.5 + cell) * stride
            sizes = (2 * sigmoid(table[..., 2:4])) ** 2 * anchors[:, None]
        else:
            centres = (near + cell) * stride
            sizes = np.exp(table[..., 2:4]) * anchors[:, None]
        boxes.append(_corners(centres, sizes).reshape(-1, 4))
        tables.append(sigmoid(table[..., 4:]).reshape(-1, table.shape[-1] - 4))
    return np.concatenate(boxes), np.concatenate(tables)


def _ssd(said: Boxes, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes by cell, and by anchor within a cell; an anchor's centre is its cell's."""
    offsets, table = _pair(arrays)
    points, _ = _grid(said, 0.5)
    sizes = []
    for level, flat in enumerate(said.anchors):
        height, width = _cells(said, level)
        sizes.append(np.tile(np.asarray(flat, np.float32).reshape(-1, 2), (height * width, 1)))
    counts = [len(flat) // 2 for flat in said.anchors]
    cells = [int(np.prod(_cells(said, level))) for level in range(len(counts))]
    centres = np.repeat(points, np.repeat(counts, cells), axis=0)
    anchors = np.concatenate(sizes)
    if len(offsets) != len(anchors):
        raise _misfit(arrays, f"{len(anchors)} anchors, which `size`, `strides`, `anchors` make")
    moved, grown = said.variances
    factors = offsets[:, 2:] * grown
    return _corners(
        centres + offsets[:, :2] * moved * anchors,
        anchors * (factors if said.linear else np.exp(factors)),
    ), table


def _distances(said: Boxes, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    sides, table = _pair(arrays, 4 * said.bins)
    points, stride = _grid(said, 0.5)
    if len(sides) != len(points):
        raise _misfit(arrays, f"{len(points)} rows, which `size` and `strides` make")
    if said.bins > 1:
        shares = softmax(sides.reshape(len(sides), 4, said.bins))
        sides = shares @ np.arange(said.bins, dtype=np.float32)
    sides = sides * stride
    return np.concatenate([points - sides[:, :2], points + sides[:, 2:]], axis=1), table


DECODERS = {
    "yolo": _yolo,
    "yolox": _yolox,
    "yolo-anchors": _anchored,
    "ssd": _ssd,
    "distances": _distances,
}


def _rows(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """One output as [boxes, values]: of its two axes, the longer one counts the boxes."""
    shape: Sequence[int] = arrays[0].shape
    if len(arrays) != 1 or len(shape) < 2 or arrays[0].size != math.prod(shape[-2:]):
        raise _misfit(arrays, "one output of boxes by 4 + classes values, of one sample")
    height, width = shape[-2:]
    table = arrays[0].reshape(height, width)
    return table.T if height < width else table


def _pair(arrays: Sequence[np.ndarray], wide: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Two outputs as [boxes, wide] and [boxes, classes]; what else stands behind a box, as
    landmarks do, is left out."""
    if len(arrays) != 2 or arrays[0].ndim < 1 or arrays[0].shape[-1] < wide:
        raise _misfit(arrays, f"two outputs, the first of rows of {wide}, then scores")
    boxes = arrays[0].reshape(-1, arrays[0].shape[-1])[:, :wide]
    if not len(boxes) or arrays[1].size % len(boxes):
        raise _misfit(arrays, "as many rows of scores as of boxes")
    return boxes, arrays[1].reshape(len(boxes), -1)


def _cells(said: Boxes, level: int) -> tuple[int, int]:
    assert said.size is not None
    height, width = (-(-pixels // said.strides[level]) for pixels in said.size)
    return height, width


def _points(height: int, width: int) -> np.ndarray:
    """x and y of grid cells, row by row, float32 of shape [cells, 2]."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def _grid(said: Boxes, within: float) -> tuple[np.ndarray, np.ndarray]:
    """Points in pixels of all levels' cells, and each one's stride, [cells, 2] and [cells, 1]."""
    points, strides = [], []
    for level, stride in enumerate(said.strides):
        cells = _points(*_cells(said, level))
        points.append((cells + within) * stride)
        strides.append(np.full((len(cells), 1), stride, np.float32))
    return np.concatenate(points).astype(np.float32), np.concatenate(strides)


def _corners(centres: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=-1).astype(np.float32)


def _misfit(arrays: Sequence[np.ndarray], wanted: str) -> WrongInput:
    shapes = ", ".join("x".join(map(str, array.shape)) for array in arrays)
    return WrongInput(f"outputs of shape {shapes} where boxes want {wanted}", hint="set `format`")
