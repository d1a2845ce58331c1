"""Folders of raw files as samples: order, labels, laziness, and what is refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import BadSamples
from edgedl.core.model import Signature, Tensor
from edgedl.core.samples import open_npz
from edgedl.runtime.process import Processing
from edgedl.runtime.process.files import open_files, reopen
from edgedl.runtime.process.image import Image, Resize
from edgedl.runtime.process.scores import Softmax, TopK
from edgedl.runtime.process.sound import Sound
from tests.photos import photo
from tests.sounds import wav

PROCESSING = Processing(Image(resize=Resize(exactly=(4, 6))))
SIGNATURE = Signature((Tensor("x", "float32", (1, 3, 4, 6)),), ())
SMALL = [[[0, 0, 0]]]


def classes(folder: Path, **counts: int) -> Path:
    """A folder per class, each with so many images, all of one shade."""
    shade = 0
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            shade += 1
            photo(folder / name, np.full((8, 12, 3), shade), f"{i}.png")
    return folder


def test_a_folder_per_class_gives_labels(tmp_path: Path) -> None:
    found = open_files(classes(tmp_path, dog=2, cat=2, ant=2), PROCESSING).bind(SIGNATURE)
    assert found.classes == ("ant", "cat", "dog")
    assert len(found) == 6
    assert found.chosen_labels is not None
    assert found.chosen_labels.tolist() == [0, 1, 2, 0, 1, 2]
    shades = [int(feed["x"][0, 0, 0, 0]) for feed in found]
    # written dog, cat, ant: shades 1 and 2, 3 and 4, 5 and 6
    assert shades == [5, 3, 1, 6, 4, 2]
    assert found.feed(0)["x"].shape == (1, 3, 4, 6)


def test_every_beginning_holds_the_classes_in_their_proportions(tmp_path: Path) -> None:
    found = open_files(classes(tmp_path, a=20, b=10, c=2), PROCESSING)
    assert found.chosen_labels is not None
    for count in (8, 16, 32):
        counts = Counter(found.chosen_labels[:count].tolist())
        for label, size in enumerate((20, 10, 2)):
            assert abs(counts[label] - size * count / 32) <= 1


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.png"):
        photo(tmp_path, SMALL, name)
    (tmp_path / "notes.txt").write_text("not a photo")
    (tmp_path / ".hidden.png").write_text("not a photo")
    (tmp_path / "empty").mkdir()
    found = open_files(tmp_path, PROCESSING)
    assert list(found.source.names) == ["a.jpg", "b.PNG", "c.png"]  # type: ignore[attr-defined]
    assert found.labels is None
    assert found.classes == ()


def test_one_class_and_an_empty_class(tmp_path: Path) -> None:
    one = open_files(classes(tmp_path / "one", only=2), PROCESSING)
    assert one.chosen_labels is not None
    assert one.chosen_labels.tolist() == [0, 0]
    two = open_files(classes(tmp_path / "two", a=0, b=2), PROCESSING)
    assert two.chosen_labels is not None
    assert two.chosen_labels.tolist() == [1, 1]


def test_labels_of_the_post_processing_number_the_folders(tmp_path: Path) -> None:
    folder = classes(tmp_path, cat=1, dog=1)
    after = TopK(labels=("dog", "bird", "cat"))
    found = open_files(folder, Processing(PROCESSING.preprocess, after))
    assert found.chosen_labels is not None
    assert found.chosen_labels.tolist() == [2, 0]
    assert found.classes == ("dog", "bird", "cat")
    with pytest.raises(BadSamples, match="`cat` is none of the 2 labels") as caught:
        after = TopK(labels=("dog", "cats"))
        open_files(folder, Processing(PROCESSING.preprocess, after))
    assert "did you mean `cats`?" in (caught.value.hint or "")


def test_one_file_is_one_sample(tmp_path: Path) -> None:
    found = open_files(photo(tmp_path, SMALL), PROCESSING).bind(SIGNATURE)
    assert len(found) == 1
    assert found.feed(0)["x"].shape == (1, 3, 4, 6)


def test_recordings(tmp_path: Path) -> None:
    for name in ("no", "yes"):
        (tmp_path / name).mkdir()
        wav(tmp_path / name, bytes(200), name="a.wav", rate=8_000)
    signature = Signature((Tensor("sound", "float32", (1, 50)),), ())
    found = open_files(tmp_path, Processing(Sound(rate=8_000, length=50))).bind(signature)
    assert len(found) == 2
    assert found.feed(1)["sound"].tolist() == [[0.0] * 50]


def mixed(folder: Path) -> None:
    classes(folder, a=1)
    photo(folder, SMALL, "loose.png")


def empty_file(folder: Path) -> None:
    classes(folder, a=1)
    (folder / "a" / "1.png").touch()


def dangling(folder: Path) -> None:
    (folder / "gone.png").symlink_to(folder / "nowhere.png")


FOLDERS: dict[str, tuple[Any, str, str]] = {
    "nothing": (lambda folder: None, "no files for pre-processing of kind `image`", ""),
    "other files": (lambda folder: wav(folder, bytes(2)), "kind `image`", ""),
    "empty classes": (lambda folder: classes(folder, a=0, b=0), "kind `image`", ""),
    "loose files": (mixed, "`loose.png` lies beside the folders", ""),
    "an empty file": (empty_file, "empty", "a/1.png"),
    "a link to nowhere": (dangling, "cannot be read", "gone.png"),
}


@pytest.mark.parametrize(("make", "says", "where"), FOLDERS.values(), ids=FOLDERS)
def test_folders_that_are_refused(make: Any, says: str, where: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(BadSamples, match=says) as caught:
        open_files(tmp_path, PROCESSING)
    assert caught.value.where == str(tmp_path / where)
    assert caught.value.hint


def test_a_damaged_file_is_named_when_it_is_used(tmp_path: Path) -> None:
    folder = classes(tmp_path, a=3)
    (folder / "a" / "1.png").write_bytes((folder / "a" / "1.png").read_bytes()[:-30])
    bound = open_files(folder, PROCESSING).bind(SIGNATURE)
    bound.feed(0)
    with pytest.raises(BadSamples) as caught:
        bound.feed(1)
    assert caught.value.where == str(folder / "a" / "1.png")
    assert caught.value.hint


def test_a_file_of_another_size_is_named(tmp_path: Path) -> None:
    photo(tmp_path, np.zeros((4, 7, 3)), "wide.png")
    photo(tmp_path, np.zeros((3, 6, 3)), "small.png")
    bound = open_files(tmp_path, Processing(Image())).bind(SIGNATURE)
    with pytest.raises(BadSamples, match="becomes 1x3x4x7") as caught:
        bound.feed(1)
    assert caught.value.where == str(tmp_path / "wide.png")
    cropped = open_files(tmp_path, Processing(Image(crop=(4, 6)))).bind(SIGNATURE)
    with pytest.raises(BadSamples, match="less than the crop") as caught:
        cropped.feed(0)
    assert caught.value.where == str(tmp_path / "small.png")


OPENED = """
import sys
from pathlib import Path
from edgedl.core.model import Signature, Tensor
from edgedl.runtime.process.files import open_files
from edgedl.runtime.process.image import Image, Resize
from edgedl.runtime.process import Processing
from edgedl.runtime.process.scores import Softmax, TopK
folder, opened = sys.argv[1], []
sys.addaudithook(
    lambda event, values: opened.append(str(values[0]))
    if event == "open" and str(values[0]).endswith(".png") else None
)
found = open_files(folder, Processing(Image(resize=Resize(exactly=(4, 6)))))
bound = found.bind(Signature((Tensor("x", "float32", (1, 3, 4, 6)),), ())).take([3, 1])
print(len(opened))
for feed in bound: pass
print(*(Path(name).name for name in opened))
"""


def test_no_file_is_opened_before_it_is_used(tmp_path: Path) -> None:
    folder = classes(tmp_path, a=6)
    done = subprocess.run(
        [sys.executable, "-c", OPENED, folder], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["0", "3.png 1.png"]


def test_many_files_take_little_memory(tmp_path: Path) -> None:
    content = photo(tmp_path, np.zeros((400, 400, 3)), "one.bmp").read_bytes()
    assert len(content) > 400_000
    for i in range(2_000):
        (tmp_path / f"{i}.bmp").symlink_to(tmp_path / "one.bmp")
    tracemalloc.start()
    bound = open_files(tmp_path, PROCESSING).bind(SIGNATURE)
    for i in range(20):
        bound.feed(100 * i)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(bound) == 2_001
    assert peak < 5_000_000


def test_digest_is_of_the_contents_and_of_what_is_made_of_them(tmp_path: Path) -> None:
    here = open_files(classes(tmp_path / "here", a=2, b=2), PROCESSING)
    there = open_files(classes(tmp_path / "there", a=2, b=2), PROCESSING)
    assert here.digest == there.digest == here.bind(SIGNATURE).digest
    others = [
        here.take([0, 1]),
        open_files(tmp_path / "here", Processing(Image(resize=Resize(exactly=(4, 5))))),
        open_files(tmp_path / "here" / "a", PROCESSING),
    ]
    photo(tmp_path / "there" / "a", SMALL, "0.png")
    others.append(open_files(tmp_path / "there", PROCESSING))
    assert len({here.digest, *(other.digest for other in others)}) == 5
    behind = Processing(PROCESSING.preprocess, Softmax())
    assert open_files(tmp_path / "here", behind).digest == here.digest


def test_another_process_opens_the_same(tmp_path: Path) -> None:
    found = open_files(classes(tmp_path, a=2, b=3), PROCESSING).take([4, 2]).bind(SIGNATURE)
    origin = found.origin(1)
    assert origin is not None
    again = reopen(origin).bind(SIGNATURE)
    assert len(again) == 1
    assert np.array_equal(again.feed(0)["x"], found.feed(0)["x"])


def test_another_process_opens_the_same_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.arange(72 * 3, dtype=np.float32).reshape(3, 3, 4, 6))
    found = open_npz(tmp_path / "s.npz").take([2, 0]).bind(SIGNATURE)
    again = reopen(found.origin(5) or {}).bind(SIGNATURE)
    hashes = [hashlib.sha256(feed["x"].tobytes()).digest() for feed in (*found, *again)]
    assert hashes[:2] == hashes[2:]
