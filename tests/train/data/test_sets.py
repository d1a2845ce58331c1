"""Known sets: tiny archives in the format of each, and slices of the real ones where cached."""

from __future__ import annotations

import gzip
import importlib
import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import BadOption, BadSamples, BadValue, EdgeError
from edgedl.core.registry import resolve
from edgedl.core.store import default_root
from edgedl.train.data import SETS, Data, load
from edgedl.train.data.dataset import Dataset
from edgedl.train.data.sets import (
    archive_series,
    fashion_mnist,
    har,
    mnist,
    movielens,
    reuters,
    sentiment,
    shuttle,
    spoken_digits,
    tree_boxes,
)
from edgedl.train.data.sets.fashion_mnist import read_idx
from edgedl.train.data.sets.ts import read_ts
from tests.train.data import pickled
from tests.train.data.archives import digest, tarball

RANDOM = np.random.default_rng(0)


def idx(values: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return gzip.compress(head + values.astype(np.uint8).tobytes())


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def csv_gz(*lines: str) -> bytes:
    return gzip.compress("\n".join(lines).encode())


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts files into a folder, and their digests where a set pins its own."""

    def pin(module: Any, files: dict[str, bytes]) -> str:
        for name, content in files.items():
            (tmp_path / Path(name).name).write_bytes(content)
        digests = {name: digest(content) for name, content in files.items()}
        monkeypatch.setattr(module, "PACKAGE", replace(module.PACKAGE, files=digests))
        return str(tmp_path)

    return pin


def opened(folder: str, name: str, **settings: Any) -> Dataset:
    return load(Data(set=name, folder=folder, **settings), seed=0, cache=Path(folder) / "cache")


def test_fashion_mnist(pinned: Any) -> None:
    inside = fashion_mnist.INSIDE
    images = RANDOM.integers(0, 256, (60, 28, 28), np.uint8)
    labels = np.arange(60) % 10
    folder = pinned(fashion_mnist, {
        f"{inside}train-images-idx3-ubyte.gz": idx(images[:50]),
        f"{inside}train-labels-idx1-ubyte.gz": idx(labels[:50]),
        f"{inside}t10k-images-idx3-ubyte.gz": idx(images[50:]),
        f"{inside}t10k-labels-idx1-ubyte.gz": idx(labels[50:]),
    })  # fmt: skip
    found = opened(folder, "fashion_mnist")
    assert (len(found.train), len(found.validation), len(found.test)) == (45, 5, 10)
    assert found.inputs["image"].shape == (1, 28, 28)
    assert found.train.classes[9] == "Ankle boot"
    assert found.processing is not None
    wanted = found.processing.before(images[55])["image"]
    assert np.array_equal(found.test.feed(5)["image"], wanted)
    with pytest.raises(BadValue, match="has no variants"):
        opened(folder, "fashion_mnist", variant="letters")


@pytest.mark.parametrize(
    "raw", [b"", b"\0\0\x08", b"\0\0\x0d\x01" + bytes(8), b"\0\0\x08\x01\0\0\0\x05abc"]
)
def test_idx_that_is_none(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(raw))
    with pytest.raises(BadSamples, match="no IDX file"):
        read_idx(tmp_path / "a.gz")


def test_mnist(pinned: Any) -> None:
    files = {}
    for digit in range(10):
        values = np.round(RANDOM.random(10 * 784), 3)
        files[f"{mnist.INSIDE}{digit}.json"] = json.dumps({"data": values.tolist()}).encode()
    found = opened(pinned(mnist, files), "mnist")
    assert (len(found.train), len(found.validation), len(found.test)) == (70, 10, 20)
    bad = files | {f"{mnist.INSIDE}3.json": b'{"data": [2]}'}
    with pytest.raises(BadSamples, match="no file of digits"):
        opened(pinned(mnist, bad), "mnist")


def test_spoken_digits(pinned: Any) -> None:
    lengths = np.arange(60) % 50 + 1
    values = RANDOM.random((lengths.sum(), 13), np.float32)
    labels = np.arange(60) % 10
    folder = pinned(spoken_digits, {spoken_digits.INSIDE: npz(X=values, y=labels, lengths=lengths)})
    found = opened(folder, "spoken_digits")
    assert found.inputs["frames"].shape == (13, 40)
    assert "a random split may have a speaker on both sides" in found.doubts[0]
    assert found.processing is not None
    row = int(found.test.rows[0])
    start = lengths[:row].sum()
    raw = values[start : start + lengths[row]]
    fed = found.test.feed(0)["frames"]
    assert np.array_equal(found.processing.before(raw)["frames"], fed)
    assert not fed[0, :, lengths[row] :].any()
    assert opened(folder, "spoken_digits", length=9).inputs["frames"].shape == (13, 9)
    bad = {spoken_digits.INSIDE: npz(X=values, y=labels, lengths=lengths + 1)}
    with pytest.raises(BadSamples, match="do not fit together"):
        opened(pinned(spoken_digits, bad), "spoken_digits")


def person(seed: int, activities: int) -> bytes:
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(1, activities + 1), 200)
    channels = {name: random.random(len(labels)) for name in har.CHANNELS}
    return pickled.frame({**channels, "sequence": np.arange(len(labels)), "label": labels})


def test_har(pinned: Any) -> None:
    content = pickled.document({key: [person(key, 7)] for key in range(1, 9)})
    folder = pinned(har, {har.INSIDE: gzip.compress(content)})
    found = opened(folder, "har")
    assert found.inputs["series"].shape == (6, 128)
    assert found.train.classes == har.ACTIVITIES[:6]
    # 1,400 frames make 20 windows a person, of which those of one of six activities stay
    assert "96 of 160 windows" not in found.doubts[0]
    whole = [s for s in range(0, 1400 - 127, 64) if s // 200 == (s + 127) // 200 and s < 1200]
    per_person = len(whole)
    assert sum(map(len, (found.train, found.validation, found.test))) == 8 * per_person
    sides = [set(p.rows // per_person) for p in (found.train, found.validation, found.test)]
    assert sum(map(len, sides)) == 8
    assert opened(folder, "har", variant="transitions").outputs == 12
    with pytest.raises(BadValue, match="no variant `transition`"):
        opened(folder, "har", variant="transition")


def test_reuters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    head = "Category\tText\nd\tstring\nclass\t\n\n"
    files = {}
    for part, count in (("train", 30), ("test", 10)):
        rows = [f"{['earn', 'acq'][i % 2]}\tnews {part} {i} of the day" for i in range(count)]
        files[f"{reuters.INSIDE}r8-{part}.tab"] = (head + "\n".join(rows) + "\n").encode()
        (tmp_path / f"reuters-r8-{part}.tab").write_bytes(files[f"{reuters.INSIDE}r8-{part}.tab"])
    digests = {name: digest(content) for name, content in files.items()}
    monkeypatch.setattr(reuters, "DIGESTS", {"r8": digests})
    found = opened(str(tmp_path), "reuters_r8", length=8)
    assert (len(found.train), len(found.validation), len(found.test)) == (27, 3, 10)
    assert found.train.classes == ("acq", "earn")
    (tmp_path / "a.tab").write_text(head + "earn\n")
    with pytest.raises(BadSamples, match="line 5 is no topic and text"):
        reuters.read_tab(tmp_path / "a.tab")


def scores(*lines: str) -> bytes:
    return "\r\n".join(lines).encode()


def test_sentiment(pinned: Any, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    movies = [f"{i}\t{(i % 9 - 4) / 2}\tsentence {i} of it" for i in range(90)]
    nyt = [f"{i // 5}_{i % 5}\t{1 if i % 2 else -1}\tline {i}" for i in range(100)]
    inner = tarball(tmp_path / "inner.tar.gz", {
        "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": scores(*movies),
        "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt": scores(*nyt),
    })  # fmt: skip
    folder = pinned(sentiment, {sentiment.INSIDE: inner.read_bytes()})
    found = opened(folder, "sentiment")
    assert "10 sentences of score 0 were left out" in found.doubts
    assert sum(map(len, (found.train, found.validation, found.test))) == 80
    assert found.train.classes == ("negative", "positive")
    editorial = opened(folder, "sentiment", variant="nyt")
    sides = [set(p.rows // 5) for p in (editorial.train, editorial.validation, editorial.test)]
    assert sum(map(len, sides)) == 20
    assert opened(folder, "sentiment", task="regression").task == "regression"
    with pytest.raises(BadSamples, match="line 2 is no key, score and sentence"):
        sentiment.read_scores(scores("1\t2\tgood", "2\tx\tbad"), "a")


def test_shuttle(pinned: Any) -> None:
    rows = [f"{i},{i % 7},{int(i % 10 == 0)}" for i in range(200)]
    folder = pinned(shuttle, {shuttle.INSIDE: csv_gz("f1,f2,anomaly", *rows)})
    found = opened(folder, "shuttle")
    assert (found.task, found.outputs) == ("reconstruction", 0)
    for part in (found.train, found.validation):
        assert part.chosen_labels is not None
        assert not part.chosen_labels.any()
    assert found.test.chosen_labels is not None
    assert found.test.chosen_labels.sum() == 4
    assert opened(folder, "shuttle", task="classification").outputs == 2
    with pytest.raises(BadSamples, match="no table with a column `anomaly`"):
        opened(pinned(shuttle, {shuttle.INSIDE: csv_gz("f1,f2", "1,2")}), "shuttle")


def test_movielens(pinned: Any) -> None:
    rows = [f"{i % 5 + 100}\t{i}\t{i % 5 + 1}\t{1000 - i}" for i in range(50)]
    content = "\n".join([movielens.HEAD, *rows]).encode()
    folder = pinned(movielens, {movielens.INSIDE: content})
    found = opened(folder, "movielens")
    # of ten ratings a person, the last two in time are the test: those of the smallest rows
    assert found.test.rows.tolist() == list(range(10))
    assert (len(found.train), len(found.validation)) == (36, 4)
    assert {n: (s.shape, s.dtype) for n, s in found.inputs.items()} == {
        "user": ((1,), "int64"), "item": ((1,), "int64"),
    }  # fmt: skip
    assert found.test.feed(7) == {"user": np.array([[2]]), "item": np.array([[7]])}
    assert opened(folder, "movielens", variant="liked").outputs == 2
    bad = pinned(movielens, {movielens.INSIDE: content.replace(b"\t5\t", b"\t9\t")})
    with pytest.raises(BadSamples, match="ratings from 1 to 5"):
        opened(bad, "movielens")


def ts(series: list[list[list[float]]], labels: list[str], classes: str = "true a b") -> bytes:
    lines = ["#a remark", "@timeStamps false", f"@classLabel {classes}", "@data"]
    for one, label in zip(series, labels, strict=True):
        lines.append(":".join([*(",".join(map(str, channel)) for channel in one), label]))
    return "\n".join(lines).encode()


def archive(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, *parts: bytes) -> str:
    for kind, content in zip(("TRAIN", "TEST"), parts, strict=True):
        (folder / f"{name}_{kind}.ts").write_bytes(content)
    digests = {name: tuple(map(digest, parts))}
    monkeypatch.setattr(archive_series, "DIGESTS", digests)
    return str(folder)


def test_archive_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series = [[[i, 1.5, i], [2, 3, 4]] if i % 2 else [[i, 2], [i, 4]] for i in range(30)]
    labels = ["ab"[i % 2] for i in range(30)]
    parts = ts(series[:20], labels[:20]), ts(series[20:], labels[20:])
    folder = archive(tmp_path, monkeypatch, "BasicMotions", *parts)
    found = opened(folder, "archive_series")
    assert (len(found.train), len(found.validation), len(found.test)) == (18, 2, 10)
    assert found.inputs["series"].shape == (2, 3)
    assert read_ts(tmp_path / "BasicMotions_TRAIN.ts")[0][1].tolist() == [[1, 2], [1.5, 3], [1, 4]]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"@data\n1,2:a",
        b"@classlabel true\n@data\na",
        ts([[[1.0]]], ["a"], "false"),
        ts([[[1.0]], [[1.0], [2.0]]], ["a", "b"]),
        ts([[[1.0, 2.0], [1.0]]], ["a"]),
        ts([[[float("nan")]]], ["a"]),
    ],
)
def test_series_that_are_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.ts").write_bytes(content)
    with pytest.raises(BadSamples):
        read_ts(tmp_path / "a.ts")


def test_power_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days = [[[100 * i + hour for hour in range(24)]] for i in range(40)]
    parts = ts(days[:10], ["a"] * 10), ts(days[10:], ["b"] * 30)
    folder = archive(tmp_path, monkeypatch, "ItalyPowerDemand", *parts)
    found = opened(folder, "power_demand", standardize=False)
    assert found.inputs["hours"].shape == (1, 18)
    row = int(found.test.rows[0])
    assert found.test.chosen_labels is not None
    assert found.test.chosen_labels[0].tolist() == [100 * row + hour for hour in range(18, 24)]
    short = opened(folder, "power_demand", horizon=2, length=4)
    assert (short.inputs["hours"].shape, short.outputs) == ((1, 4), 2)
    with pytest.raises(BadValue, match="20 hours seen and 5 to forecast"):
        opened(folder, "power_demand", horizon=5, length=20)


def voc(*boxes: tuple[int, int, int, int]) -> bytes:
    names = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        "<object><name>Tree</name><bndbox>"
        + "".join(f"<{n}>{v}</{n}>" for n, v in zip(names, box, strict=True))
        + "</bndbox></object>"
        for box in boxes
    )
    return f"<annotation>{objects}</annotation>".encode()


def test_boxes_are_cut_by_hand() -> None:
    pixels = np.full((400, 900, 3), 9, np.uint8)
    # wholly in the first tile; half in the first and half in the second; 1 of 10 in the second
    boxes = np.array([[10, 20, 30, 40], [390, 0, 410, 10], [310, 50, 410, 60]], float)
    (first, inside), (second, beside) = tree_boxes.cut(pixels, boxes)
    assert inside.tolist() == [[10, 20, 30, 40], [390, 0, 400, 10], [310, 50, 400, 60]]
    assert beside.tolist() == [[0, 0, 10, 10]]
    assert first.shape == second.shape == (400, 400, 3)
    edge = tree_boxes.cut(pixels, np.array([[810.0, 0, 820, 10]]))[0][0]
    assert (edge[:, :100] == 9).all()
    assert not edge[:, 100:].any()
    assert tree_boxes.padded([inside, beside]).tolist() == [
        [[10, 20, 30, 40, 0], [390, 0, 400, 10, 0], [310, 50, 400, 60, 0]],
        [[0, 0, 10, 10, 0], [-1] * 5, [-1] * 5],
    ]


def test_tree_boxes(pinned: Any) -> None:
    images = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    files = {}
    for i, name in enumerate(tree_boxes.PHOTOS):
        png = io.BytesIO()
        pixels = np.random.default_rng(i).integers(0, 256, (800, 1200, 3), np.uint8)
        images.fromarray(pixels).save(png, "png")
        boxes = [(x, y, x + 50, y + 50) for x in (20, 420, 820) for y in (20, 420)]
        files[f"{tree_boxes.INSIDE}{name}.png"] = png.getvalue()
        files[f"{tree_boxes.INSIDE}{name}.xml"] = voc(*boxes)
    found = opened(pinned(tree_boxes, files), "tree_boxes")
    assert sum(map(len, (found.train, found.validation, found.test))) == 24
    assert found.test.chosen_labels is not None
    assert found.test.chosen_labels[0].tolist() == [[20, 20, 70, 70, 0]]


@pytest.mark.parametrize(
    "content",
    [b"", b"<a>", voc((3, 3, 3, 4)), b"<!DOCTYPE a [<!ENTITY b 'c'>]><a/>",
     b"<a><object><bndbox/></object></a>"],
)  # fmt: skip
def test_boxes_that_are_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(content)
    with pytest.raises(BadSamples, match="no file of boxes"):
        tree_boxes.read_boxes(tmp_path / "a.xml")


def test_a_set_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="unknown data set `fashion_mnits`") as caught:
        load(Data(set="fashion_mnits"), seed=0, cache=tmp_path)
    assert "did you mean `fashion_mnist`" in (caught.value.hint or "")


@pytest.mark.parametrize("name", SETS)
def test_every_set_has_its_sentence_and_its_digests(name: str) -> None:
    resolve(SETS, name, kind="data set")
    module = importlib.import_module(SETS[name].partition(":")[0])
    assert module.__doc__
    package = getattr(module, "PACKAGE", None)
    if package is not None:
        assert all(len(sha) == 64 for sha in package.files.values())


ROWS = {
    "fashion_mnist": 70_000, "mnist": 10_000, "spoken_digits": 3_000, "reuters_r8": 7_674,
    "movielens": 100_000, "power_demand": 1_096,
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_the_real_set_where_it_is_cached(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Path(os.environ.get("EDGEDL_DATA", default_root() / "data"))
    if name == "reuters_r8":
        pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    # no client is found, so that nothing is fetched
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    try:
        found = load(Data(set=name, check=False), seed=0, cache=cache)
    except EdgeError as error:
        if "cannot fetch" not in error.message:
            raise
        pytest.skip(f"{name} is not in {cache}; EDGEDL_DATA names another cache")
    assert sum(map(len, (found.train, found.validation, found.test))) == ROWS[name]
