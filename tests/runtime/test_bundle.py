"""The bundle: what is written is read, and no altered byte goes unnoticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgedl
from edgedl.core.errors import BadBundle, BadOption, WrongInput
from edgedl.core.model import Model, Step
from edgedl.passes.graph import to_ship
from edgedl.runtime import any_engine
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.check import check
from edgedl.runtime.golden import Answer, Golden, coarse
from edgedl.runtime.layout import HEADER, MAGIC, SIGNED
from edgedl.runtime.payload import Payload
from edgedl.runtime.sign.keys import PublicKey
from edgedl.runtime.writing import Contents, write_bundle
from tests.models import answers, conv_net, feeds, saved


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small, whole bundle."""
    return written(tmp_path_factory.mktemp("bundle") / "net.edl")


def written(path: Path, wrong: float = 0.0, model: Model | None = None) -> Path:
    model = model or saved(conv_net(), path.parent)
    data, names = to_ship(model)
    engine = any_engine().name
    feed = coarse(feeds(model.signature, 1)[0])
    answer = {k: Answer.of(v + wrong) for k, v in answers(data, [feed], engine)[0].items()}
    write_bundle(
        path,
        Contents(
            signature=model.signature,
            payloads=[(Payload(engine, "onnx", "models/net.onnx", "float32", {}), data)],
            golden=Golden((feed,), (answer,), 0.01),
            history=[Step("clean", {"a": 1}, "0" * 64, {"edgedl": "0"})],
            notes={"threads": 1},
            names=names,
        ),
    )
    return path


def test_what_is_written_is_read(bundle: Path) -> None:
    found = open_bundle(bundle)
    assert found.signature.inputs[0].name == "x"
    assert found.history()[0].settings == {"a": 1}
    assert found.notes == {"threads": 1}
    assert found.size_bytes == bundle.stat().st_size
    assert found.names()["w0"]
    golden = found.golden()
    assert golden.inputs[0]["x"].dtype == np.float32
    assert golden.error(0, edgedl.open(bundle).run(golden.inputs[0])) < 1e-5


def test_it_runs_and_checks(bundle: Path) -> None:
    with edgedl.open(bundle, threads=1) as session:
        assert session.run({"x": np.ones((1, 3, 8, 8), np.float32)})["logits"].shape == (1, 5)
        with pytest.raises(WrongInput):
            session.run({"x": np.ones((1, 3, 8, 9), np.float32)})
    result = check(bundle)
    assert result.ok
    assert result.golden_samples == 1


def test_a_folder_with_one_bundle_is_a_bundle(tmp_path: Path) -> None:
    written(tmp_path / "only.edl")
    assert open_bundle(tmp_path).path.name == "only.edl"
    (tmp_path / "other.edl").write_bytes((tmp_path / "only.edl").read_bytes())
    with pytest.raises(BadBundle, match="2 bundles"):
        open_bundle(tmp_path)


def test_an_engine_that_it_has_not_is_refused(bundle: Path) -> None:
    with pytest.raises(BadOption, match="no payload"):
        edgedl.open(bundle, engine_name="tensorrt")


def test_every_altered_byte_is_noticed(bundle: Path, tmp_path: Path) -> None:
    whole = bundle.read_bytes()
    altered = tmp_path / "altered.edl"
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 8)
        altered.write_bytes(changed)
        with pytest.raises(BadBundle) as caught:
            open_bundle(altered)
        assert caught.value.hint


def test_every_truncation_and_every_extension_is_noticed(bundle: Path, tmp_path: Path) -> None:
    whole = bundle.read_bytes()
    cut = tmp_path / "cut.edl"
    for length in [*range(0, len(whole), 37), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(BadBundle):
            open_bundle(cut)
    cut.write_bytes(whole + bytes(64))
    with pytest.raises(BadBundle):
        open_bundle(cut)


def forged(path: Path, parts: list[dict[str, Any]], **more: Any) -> Path:
    """A bundle with a right header and manifest digest around whatever parts it claims."""
    text = json.dumps({"parts": parts, **more}).encode()
    start = -(-(HEADER.size + len(text)) // 64) * 64
    body = bytes(64)
    header = HEADER.pack(MAGIC, 1, 0, start + 64, len(text), hashlib.sha256(text).digest())
    path.write_bytes((header + text).ljust(start, b"\0") + body)
    return path


EMPTY = hashlib.sha256(b"").hexdigest()
FORGED = {
    "a name that climbs out": {"name": "../../etc/passwd", "bytes": 0},
    "an absolute name": {"name": "/etc/passwd", "bytes": 0},
    "a name with a zero": {"name": "a\0b", "bytes": 0},
    "a part of 10 GB": {"name": "model", "bytes": 10**10},
    "a negative size": {"name": "model", "bytes": -1},
    "a size that is text": {"name": "model", "bytes": "12"},
    "a place that is no number": {"name": "model", "bytes": 0, "offset": True},
    "a place before the parts": {"name": "model", "bytes": 0, "offset": 0},
    "no digest": {"name": "model", "bytes": 0, "sha256": None},
}


@pytest.mark.parametrize("claim", FORGED.values(), ids=FORGED)
def test_forged_parts_are_refused(claim: dict[str, Any], tmp_path: Path) -> None:
    part = {"offset": 256, "sha256": EMPTY, **claim}
    with pytest.raises(BadBundle):
        open_bundle(forged(tmp_path / "forged.edl", [part]))


def test_forged_manifests_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "forged.edl"
    with pytest.raises(BadBundle):
        open_bundle(forged(path, []))
    text = b"[" * 100_000
    header = HEADER.pack(
        MAGIC, 1, 0, HEADER.size + len(text), len(text), hashlib.sha256(text).digest()
    )
    path.write_bytes(header + text)
    with pytest.raises(BadBundle):
        open_bundle(path)


# A public key: the group's base point.
SOUND = bytes.fromhex("58" + "66" * 31)


def test_a_later_format_says_upgrade(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "later.edl"
    for version in (0, SIGNED + 1, 255):
        later = bytearray(bundle.read_bytes())
        later[8] = version
        # All behind the header may lie otherwise there: nothing of it is looked at.
        path.write_bytes(later[:64])
        words = f"format version {version} is not known here, only 1 to {SIGNED}"
        for trust in (None, edgedl.trust(PublicKey(SOUND, "anybody"))):
            with pytest.raises(BadBundle, match=words) as caught:
                open_bundle(path, trust=trust)
            assert "upgrade" in str(caught.value.hint)


def test_what_is_no_bundle_says_so(tmp_path: Path) -> None:
    other = tmp_path / "other.edl"
    other.write_bytes(b"PK\x03\x04" * 100)
    with pytest.raises(BadBundle, match="not an edgedl bundle"):
        open_bundle(other)
    with pytest.raises(BadBundle, match="no such file"):
        open_bundle(tmp_path / "none.edl")


def test_other_answers_fail_the_check(tmp_path: Path) -> None:
    result = check(written(tmp_path / "wrong.edl", wrong=5.0))
    assert not result.ok
    assert "away from the golden ones" in str(result.payloads[0].problem)


def test_nothing_is_left_where_writing_fails(tmp_path: Path) -> None:
    with pytest.raises(edgedl.EdgeError):
        written_into = tmp_path / "none" / "net.edl"
        saved(conv_net(), tmp_path)
        write_bundle(
            written_into,
            Contents(
                signature=open_bundle(written(tmp_path / "a.edl")).signature,
                payloads=[],
                golden=Golden((), (), 0.0),
                history=(),
                notes={},
            ),
        )
    assert not (tmp_path / "none").exists()


def test_golden_answers_are_every_so_many_elements() -> None:
    output = np.arange(10_000, dtype=np.float32).reshape(100, 100)
    answer = Answer.of(output)
    assert answer.stride == 10
    assert len(answer.values) == 1000
    assert answer.error(output) == 0
    assert answer.error(output * 1.1) == pytest.approx(0.1, rel=1e-3)
    assert answer.error(output.T.copy()) > 0.1
    assert answer.error(output[:50]) == np.inf
    assert answer.error(None) == np.inf
