"""Signed and encrypted bundles, by every verb that opens one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgedl
from edgedl.core.errors import BadOption, Untrusted
from edgedl.runtime import any_engine, check, opening, session_of
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.process import Processing
from edgedl.runtime.process.image import Image, Resize
from edgedl.runtime.process.scores import TopK
from edgedl.runtime.sign.encrypt import encrypt
from tests.bundles import SECRET, pair, signed
from tests.models import conv_net
from tests.runtime.test_answering import bundled

PIXELS = np.full((8, 8, 3), 99, np.uint8)
GIVEN = np.random.default_rng(1).random((4, 3, 8, 8), np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `plain.edl`, `safe.edl`, encrypted and signed, a key and samples."""
    folder = tmp_path_factory.mktemp("ways")
    processing = Processing(Image(resize=Resize(exactly=(8, 8))), TopK(k=1))
    bundled(folder, conv_net("batch"), processing, any_engine().name).rename(folder / "plain.edl")
    encrypt(folder / "plain.edl", SECRET, folder / "safe.edl")
    signed(folder / "safe.edl", pair(folder)[0])
    (folder / "secret.aes").write_bytes(SECRET)
    np.savez(folder / "s.npz", x=GIVEN, labels=np.arange(4))
    return folder


def ours(_: str) -> bytes:
    return SECRET


def proof(place: Path) -> dict[str, Any]:
    return {"trust": place / "alice.pub", "key": ours}


def test_raw_things_are_answered(place: Path) -> None:
    with edgedl.answering(place / "plain.edl") as plain:
        wanted = plain.answer(PIXELS)
    with edgedl.answering(place / "safe.edl", finite=True, warm=True, **proof(place)) as safe:
        assert safe.answer(PIXELS) == wanted
    found = edgedl.processing(place / "safe.edl", trust=place / "alice.pub")
    assert found is not None
    for refused in (edgedl.answering, edgedl.processing):
        with pytest.raises(Untrusted):
            refused(place / "plain.edl", trust=place / "alice.pub")


def test_arrays_are_run_though_the_bundle_says_how_pictures_are_taken(place: Path) -> None:
    given, out = place / "s.npz", place / "out.npz"
    assert edgedl.run(place / "safe.edl", given, out, golden="all", **proof(place)) == 4
    with edgedl.open(place / "plain.edl") as session, np.load(out) as found:
        wanted = edgedl.run_batch(session, {"x": GIVEN})["logits"]
        np.testing.assert_allclose(found["logits"], wanted, atol=1e-5)


def test_accuracy_is_told(place: Path) -> None:
    found = edgedl.eval([place / "safe.edl"], place / "s.npz", **proof(place))
    plain = edgedl.eval([place / "plain.edl"], place / "s.npz")
    assert found["rows"][0]["value"] == plain["rows"][0]["value"]
    with pytest.raises(Untrusted):
        edgedl.eval([place / "plain.edl"], place / "s.npz", trust=place / "alice.pub")


def test_answering_reads_a_bundle_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped: list[Path] = []
    read = opening.Bundle.__init__

    def counted(self: Any, path: Path, *rest: Any, **more: Any) -> None:
        mapped.append(path)
        read(self, path, *rest, **more)

    monkeypatch.setattr(opening.Bundle, "__init__", counted)
    edgedl.answering(place / "plain.edl").close()
    assert mapped == [place / "plain.edl"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"threads": 0}, "`threads` is 0"),
        ({"threads": "2"}, "`threads` is '2'"),
        ({"at_once": 0}, "`at_once` is 0"),
        ({"at_once": "2"}, "`at_once` is '2'"),
        ({"key": "secret.aes"}, "`key` is str"),
    ],
)
def test_wrong_options_are_told(wrong: dict[str, Any], said: str, place: Path) -> None:
    with pytest.raises(BadOption, match=said):
        edgedl.open(place / "plain.edl", **wrong)


def test_a_broken_engine_is_a_row_of_a_check(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> Any:
        raise ImportError("libengine.so: cannot open shared object file")

    monkeypatch.setattr(check, "engine_of", broken)
    found = edgedl.check(place / "plain.edl")
    assert not found.ok
    assert "libengine.so" in str(found.payloads[0].problem)


def test_a_session_of_a_bundle_that_was_read_is_that_of_its_path(place: Path) -> None:
    bundle = open_bundle(place / "safe.edl", **proof(place))
    with session_of(bundle, threads=1) as session:
        assert session.opened.payload == 0
