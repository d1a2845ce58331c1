"""What a bundle's engines compile is made before it is opened, and told payload by payload."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import edgedl
from edgedl.core.errors import BadOption, EngineFailed, NoPayload, Unsupported
from edgedl.core.progress import Progress
from edgedl.runtime import ENGINES, Standing
from edgedl.runtime import opening as opening_module
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.compiling import Compiled
from edgedl.runtime.payload import Needs
from edgedl.runtime.sign.encrypt import encrypt
from tests.bundles import SECRET, pair, signed
from tests.runtime.engines import BUILDING, TABLE, Plain, Wrong
from tests.runtime.shipped import answered, payload, written


class Keeping(Plain):
    """Builds apart and keeps by itself, as TensorRT does."""

    def __init__(self) -> None:
        self.kept: set[bytes] = set()

    def stand(
        self,
        model: bytes,
        *,
        settings: Mapping[str, Any],
        progress: Progress,
        notice: Callable[[str], None],
    ) -> Standing:
        if settings.get("no GPU"):
            raise Unsupported("there is no NVIDIA driver", hint="install the driver")
        fresh = model not in self.kept
        if fresh:
            notice("the engine is built: it is the first time on this machine; about 7 s")
            progress("building", 1, 1)
        self.kept.add(model)
        return Standing(fresh, 7.5, len(model), Path("/kept/here"))


class KeepingWrong(Wrong):
    stand = Keeping.stand
    kept: set[bytes] = set()  # noqa: RUF012


KEEPING, KEEPING_WRONG = Keeping(), KeepingWrong()


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines with faults, one that is cached and one that keeps by itself, and no cache named."""
    more = {"keeping": f"{__name__}:KEEPING", "keeping_wrong": f"{__name__}:KEEPING_WRONG"}
    for name, place in {**TABLE, **more}.items():
        monkeypatch.setitem(ENGINES, name, place)
    monkeypatch.delenv("EDGEDL_CACHE", raising=False)
    monkeypatch.delenv("EDGEDL_TRUST", raising=False)
    KEEPING.kept.clear()
    BUILDING.events.clear()
    opening_module._said.clear()


def states(found: Compiled) -> list[tuple[str, str]]:
    return [(row.engine, row.state) for row in found.rows]


def test_what_is_compiled_is_what_the_next_opening_takes(tmp_path: Path) -> None:
    path = written(tmp_path / "a.edl", [payload("building"), payload("keeping", "build")])
    told: list[str] = []
    cache = tmp_path / "cache"
    found = edgedl.compile(path, threads=1, cache=cache, notice=told.append)
    assert states(found) == [("building", "made"), ("keeping", "made")]
    cached, kept = found.rows
    assert cached.where is not None
    assert Path(cached.where).parent == cache
    assert cached.bytes is not None
    assert 0 < cached.bytes < Path(cached.where).stat().st_size
    assert cached.seconds is not None
    assert (kept.seconds, kept.where, kept.reason) == (7.5, "/kept/here", told[0])
    assert "first time" in told[0]
    assert len(told) == 1
    with edgedl.open(path, threads=1, cache=cache) as session:
        assert session.opened.cached
        assert session.opened.proven
    again = edgedl.compile(path, threads=1, cache=cache, notice=told.append)
    assert states(again) == [("building", "kept already"), ("keeping", "kept already")]
    assert len(told) == 1
    assert json.loads(json.dumps(again.to_json()))["payloads"][0]["where"] == cached.where


def test_the_environment_names_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.edl", [payload("building")])
    monkeypatch.setenv("EDGEDL_CACHE", str(tmp_path / "named"))
    assert states(edgedl.compile(path)) == [("building", "made")]
    assert list((tmp_path / "named").iterdir())


def test_a_target_takes_its_payloads_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "a.edl", [payload("building"), payload("keeping", "build")])
    assert states(edgedl.compile(path, target="keeping")) == [("keeping", "made")]
    for target in ("keping", "openvino", "cortex-a76"):
        with pytest.raises(BadOption, match="no payload for") as caught:
            edgedl.compile(path, target=target)
        assert "building" in str(caught.value.hint)


def test_what_cannot_be_made_is_told_beside_what_was(tmp_path: Path) -> None:
    payloads = [
        payload("keeping", "build"),
        payload("keeping", "build", settings={"no GPU": True}),
        payload("plain"),
        payload("refusing"),
        payload("building"),
        payload("building", needs=Needs(least="99")),
        payload("nowhere"),
    ]
    path = written(tmp_path / "a.edl", payloads)
    found = edgedl.compile(path)
    assert [row.state for row in found.rows] == ["made", *["not made"] * 6]
    reasons = [row.reason for row in found.rows[1:]]
    for reason, words in zip(
        reasons,
        ["no NVIDIA driver", "no compiled form", "no compiled form", "no cache", "99", "not known"],
        strict=True,
    ):
        assert words in reason
    assert found.rows[1].hint == "install the driver"


def test_where_nothing_can_be_made_it_is_an_error_with_every_reason(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.edl",
        [payload("keeping", "build", settings={"no GPU": True}), payload("building")],
    )
    with pytest.raises(NoPayload, match=r"no NVIDIA driver.*no cache is named") as caught:
        edgedl.compile(path)
    assert caught.value.hint == "install the driver"
    assert caught.value.exit_status == 1


def test_an_engine_that_answers_otherwise_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "a.edl", [payload("keeping_wrong", "build")])
    with pytest.raises(NoPayload, match="away from the golden ones"):
        edgedl.compile(path)


def test_a_model_that_has_no_compiled_form_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "a.edl", [payload("building", settings={"no form": True})])
    with pytest.raises(NoPayload, match="no compiled form of this model"):
        edgedl.compile(path, cache=tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "a.edl", [payload("building")])
    (tmp_path / "file").write_text("")
    with pytest.raises(NoPayload, match=r"cannot be kept: .*file"):
        edgedl.compile(path, cache=tmp_path / "file" / "cache")


def test_a_new_bundle_carries_what_was_compiled_and_no_signature(tmp_path: Path) -> None:
    path = written(tmp_path / "a.edl", [payload("building"), payload("keeping", "build")])
    out = tmp_path / "out.edl"
    found = edgedl.compile(path, out, threads=1)
    assert states(found) == [("building", "made"), ("keeping", "not made")]
    assert "no bundle carries it" in found.rows[1].reason
    assert found.notes == ()
    assert [one.format for one in open_bundle(out).payloads] == ["compiled", "onnx", "build"]
    with edgedl.open(out, threads=1) as session:
        assert session.opened.format == "compiled"
        assert session.run(answered()[0])["logits"].shape == (1, 5)
    assert edgedl.compile(out).rows[0].state == "kept already"
    key, public = pair(tmp_path)
    signed(path, key)
    again = edgedl.compile(path, out, trust=public)
    assert "not signed" in again.notes[0]
    with pytest.raises(edgedl.EdgeError, match="not signed"):
        edgedl.open(out, trust=public)


def test_a_cache_and_an_output_exclude_one_another(tmp_path: Path) -> None:
    path = written(tmp_path / "a.edl", [payload("building")])
    with pytest.raises(BadOption, match="exclude"):
        edgedl.compile(path, tmp_path / "out.edl", cache=tmp_path)
    with pytest.raises(NoPayload, match="belongs to one GPU"):
        only = written(tmp_path / "b.edl", [payload("keeping", "build")])
        edgedl.compile(only, tmp_path / "out.edl")
    assert not (tmp_path / "out.edl").exists()


def test_nothing_of_an_encrypted_model_reaches_the_disk(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="pip install 'edgedl[sign]'")
    path = written(tmp_path / "a.edl", [payload("building"), payload("keeping", "build")])
    sealed, out = tmp_path / "sealed.edl", tmp_path / "out.edl"
    encrypt(path, SECRET, sealed)
    for more in ({"cache": tmp_path / "cache"}, {"output": out}):
        with pytest.raises(NoPayload, match="encrypted"):
            edgedl.compile(sealed, key=lambda _: SECRET, **more)  # type: ignore[arg-type]
    assert not (tmp_path / "cache").exists()
    assert not out.exists()
    with pytest.raises(Unsupported, match="keeps what it built"):
        edgedl.open(sealed, engine_name="keeping", key=lambda _: SECRET)
    assert not KEEPING.kept


class Refusing(Keeping):
    def stand(self, model: bytes, **_: Any) -> Standing:
        raise EngineFailed("no kernel for 'n3', Unique `n4` isn't known, `other`", hint="write it")


def test_nodes_are_told_by_the_names_that_the_user_gave_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENGINES, "naming", f"{__name__}:NAMING")
    path = written(tmp_path / "a.edl", [payload("naming", "build")])
    names = open_bundle(path).names()
    own = names["n3"], names["n4"]
    assert own[0] != "n3"
    with pytest.raises(NoPayload, match="no kernel for") as caught:
        edgedl.compile(path)
    assert f"for `{own[0]}`, Unique `{own[1]}` isn't known, `other`" in caught.value.message
    assert caught.value.hint == "write it"


NAMING = Refusing()
