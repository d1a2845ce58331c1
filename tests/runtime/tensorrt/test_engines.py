"""What is kept of engines, and in what words they are built again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgedl.core.errors import BadModel, EngineFailed
from edgedl.core.store import Store
from edgedl.runtime.tensorrt.engines import (
    ABOUT,
    KERNELS,
    PLAN,
    Engines,
    Fingerprint,
    Key,
    digest_of,
)

HERE = Fingerprint("tensorrt", "10.3.0", "Orin", "8.7", "12.6")
KEY = Key("abc", {"sparse": True}, HERE)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Kept:
    """Engines in a folder, what was told, and how often one was built."""

    def __init__(self, root: Path) -> None:
        self.clock = Clock()
        self.engines = Engines(Store(root), self.clock)
        self.told: list[str] = []
        self.built = 0

    def find(self, key: Key, *, seconds: float = 41, plan: bytes = b"plan") -> bytes:
        def make(folder: Path) -> None:
            self.built += 1
            self.clock.now += seconds
            (folder / PLAN).write_bytes(plan)

        return self.engines.find(key, make, notice=self.told.append).plan


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "store")


def test_an_engine_is_built_once(kept: Kept) -> None:
    assert [kept.find(KEY) for _ in range(3)] == [b"plan"] * 3
    assert kept.built == 1
    assert kept.told == [
        "the engine is built: it is the first time on this machine; from seconds to minutes, "
        "nothing was built here before"
    ]


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (replace(HERE, version="10.13.3"), "version of it 10.3.0 then, 10.13.3 now"),
        (
            replace(HERE, gpu="H200", capability="9.0"),
            "GPU Orin then, H200 now; compute cap",
        ),
        (replace(HERE, driver="13.0"), "driver (CUDA) 12.6 then, 13.0 now"),
        (replace(HERE, library="tensorrt_rtx"), "library tensorrt then, tensorrt_rtx now"),
    ],
)
def test_on_another_ground_it_is_built_again(kept: Kept, now: Fingerprint, words: str) -> None:
    kept.find(KEY)
    kept.find(replace(KEY, fingerprint=now))
    assert kept.built == 2
    assert words in kept.told[1]
    assert kept.told[1].endswith("about 41 s, as it took then")
    kept.find(KEY)
    assert kept.built == 2


def test_another_build_of_the_model_and_another_model(kept: Kept) -> None:
    kept.find(KEY)
    kept.find(replace(KEY, build={}), seconds=600)
    assert "settings of the build are others" in kept.told[1]
    kept.find(replace(KEY, model="def"))
    assert kept.told[2].endswith("first time on this machine; engines took 41 s to 10 min here")
    assert kept.built == 3


def damage(name: str, data: bytes | None) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        if data is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(data)

    return work


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (damage(PLAN, b"plaN"), "damaged, its SHA-256 is another"),
        (damage(PLAN, b""), "damaged, its SHA-256 is another"),
        (damage(PLAN, None), "damaged, files of it are missing"),
        (damage(ABOUT, None), "damaged, files of it are missing"),
        (damage(ABOUT, b"{"), "damaged, files of it are missing"),
        (damage(ABOUT, b"[]"), "damaged, files of it are missing"),
        (damage(ABOUT, b'{"sha256": 3}'), "SHA-256 is another"),
    ],
)
def test_a_damaged_engine_is_built_again(
    kept: Kept, harm: Callable[[Path], None], words: str
) -> None:
    kept.find(KEY)
    harm(kept.engines.store.root / KEY.name[:2] / KEY.name)
    assert kept.find(KEY) == b"plan"
    assert words in kept.told[1]
    assert kept.find(KEY) == b"plan"
    assert kept.built == 2


def test_a_build_that_fails_leaves_nothing(kept: Kept) -> None:
    def make(folder: Path) -> None:
        (folder / PLAN).write_bytes(b"half")
        raise EngineFailed("no")

    with pytest.raises(EngineFailed):
        kept.engines.find(KEY, make, notice=kept.told.append)
    assert not list(kept.engines.store.root.rglob("*plan*"))
    assert kept.find(KEY) == b"plan"


def test_two_that_build_at_once_keep_the_first(kept: Kept) -> None:
    def make(folder: Path) -> None:
        kept.find(KEY, plan=b"first")
        (folder / PLAN).write_bytes(b"second")

    assert kept.engines.find(KEY, make, notice=kept.told.append).plan == b"first"


def test_what_is_forgotten_is_built_again(kept: Kept) -> None:
    kept.find(KEY)
    kept.engines.forget(KEY)
    kept.find(KEY)
    assert kept.built == 2


def test_foreign_files_in_the_store_do_no_harm(kept: Kept) -> None:
    for name, text in (("a", "[1]"), ("b", "{"), ("c", json.dumps({"model": "abc", "seconds": 1}))):
        place = kept.engines.store.root / "aa" / name
        place.mkdir(parents=True)
        (place / ABOUT).write_text(text)
    assert kept.find(KEY) == b"plan"


def test_kernels_lie_beside_the_engine(kept: Kept) -> None:
    def make(folder: Path) -> None:
        (folder / PLAN).write_bytes(b"plan")

    found = kept.engines.find(KEY, make, notice=kept.told.append)
    assert found.kernels.name == KERNELS
    found.kernels.write_bytes(b"k")
    assert kept.engines.find(KEY, make, notice=kept.told.append).kernels.read_bytes() == b"k"


def test_a_models_digest_is_that_of_its_external_data_too(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"nodes, weights in a.data")
    (tmp_path / "other.data").write_bytes(b"1")
    alone = digest_of(path)
    assert alone == digest_of(path.read_bytes())
    (tmp_path / "a.data").write_bytes(b"2")
    whole = digest_of(path)
    (tmp_path / "a.data").write_bytes(b"3")
    assert len({alone, whole, digest_of(path)}) == 3
    with pytest.raises(BadModel, match="cannot be read"):
        digest_of(tmp_path / "none.onnx")
