"""Opening tries the payloads in order, says why it skipped, and takes none that answers wrongly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgedl
from edgedl.core.errors import (
    BadBundle,
    BadOption,
    EngineFailed,
    Missing,
    NoPayload,
    Unsupported,
    WrongAnswers,
)
from edgedl.runtime import ENGINES, any_engine, installed_engines
from edgedl.runtime.artifact import find_artifact
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.check import check
from edgedl.runtime.layout import ALIGN
from edgedl.runtime.machine import this_processor
from edgedl.runtime.payload import Needs, Payload
from tests.golden.bundles.make_bundles import HERE
from tests.runtime.engines import TABLE
from tests.runtime.shipped import PART, answered, payload, written

FEED = {"x": np.ones((1, 3, 8, 8), np.float32)}


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engines of a third party, and no cache."""
    for name, place in TABLE.items():
        monkeypatch.setitem(ENGINES, name, place)
    monkeypatch.delenv("EDGEDL_CACHE", raising=False)


def compiled(needs: Needs, data: bytes = b"none", engine: str = "building") -> Payload:
    return payload(engine, "compiled", part="models/net.compiled", needs=needs)


THIS = Needs("3.1", "3.1", this_processor().fingerprint, "this one")
SKIPPED = {
    "not known": (payload("later"), "the engine `later` is not known here"),
    "refused": (payload("refusing"), "refusing refuses the model"),
    "raised": (payload("raising"), r"raising cannot open it \(ZeroDivisionError: division by zero"),
    "wrong": (payload("wrong"), "its answers are 1 away from the golden ones, 0.01 allowed"),
    "too new": (payload("plain", needs=Needs(least="3.2")), "it needs plain 3.2 or later, this is"),
    "too old": (payload("plain", needs=Needs(most="3.0.9")), "it needs plain 3.0.9 or earlier"),
    "flags": (payload("plain", needs=Needs(flags=("fma3000",))), "it needs fma3000, which this"),
    "another machine": (
        compiled(Needs("3.1", "3.1", "0" * 64, "Cortex-A72")),
        r"compiled for a processor that this is not \(Cortex-A72, here ",
    ),
    "another version": (
        compiled(Needs("3.0", "3.0", this_processor().fingerprint)), "it needs building 3.0 or",
    ),
    "damaged inside": (compiled(THIS), "building refuses what it built"),
    "compiles nothing": (compiled(THIS, engine="plain"), "plain opens nothing that is compiled"),
    "later format": (payload(None, "onnx+other"), "format 'onnx.other' is not known here"),
}  # fmt: skip


@pytest.mark.parametrize("case", SKIPPED)
def test_what_does_not_open_is_skipped_with_its_reason(case: str, tmp_path: Path) -> None:
    first, reason = SKIPPED[case]
    path = written(tmp_path / "net.edl", [first, payload()])
    with edgedl.open(path, threads=1) as session:
        assert session.run(FEED)["logits"].shape == (1, 5)
        opened = session.opened
    assert (opened.payload, opened.engine, opened.precision) == (1, any_engine().name, "float32")
    assert (opened.golden_samples, opened.proven, opened.cached) == (1, True, False)
    [skipped] = opened.skipped
    assert (skipped.engine, skipped.format) == (first.engine, first.format)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(skipped.reason)
    assert skipped.reason in str(skipped)


def test_the_first_that_opens_is_taken(tmp_path: Path) -> None:
    path = written(tmp_path / "net.edl", [payload("refusing"), payload("plain"), payload()])
    opened = edgedl.open(path, threads=1).opened
    assert (opened.engine, opened.payload, opened.version) == ("plain", 1, "3.1")
    assert [one.engine for one in opened.skipped] == ["refusing"]
    assert edgedl.open(path, engine_name=any_engine().name).opened.payload == 2


def test_where_none_opens_every_reason_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "net.edl", [payload(n) for n in ("refusing", "later", "wrong")])
    with pytest.raises(NoPayload) as caught:
        edgedl.open(path, threads=1)
    text = str(caught.value)
    assert text.startswith(f"{path}: none of its 3 payloads opens: ")
    for words in ("refusing refuses", "`later` is not known here", "away from the golden ones"):
        assert words in text
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "kind"),
    [("refusing", EngineFailed), ("raising", EngineFailed), ("wrong", WrongAnswers)],
)
def test_one_engine_that_was_asked_for_fails_as_itself(
    name: str, kind: type[edgedl.EdgeError], tmp_path: Path
) -> None:
    path = written(tmp_path / "net.edl", [payload(), payload(name)])
    with pytest.raises(kind) as caught:
        edgedl.open(path, engine_name=name)
    assert caught.value.where == str(path)
    with pytest.raises(BadOption, match="no payload for `refusin`"):
        edgedl.open(path, engine_name="refusin")


def test_no_engine_on_the_machine(tmp_path: Path) -> None:
    """In a process that finds neither engine."""
    both = [payload(name) for name in ("onnxruntime", "openvino")]
    path = written(tmp_path / "net.edl", both)
    code = (
        "import sys, edgedl\n"
        "sys.modules['onnxruntime'] = sys.modules['openvino'] = None\n"
        "try:\n    edgedl.open(sys.argv[1])\n"
        "except edgedl.EdgeError as error:\n"
        "    print(type(error).__name__, error, error.hint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Missing ")
    assert done.stdout.count("is not installed") == 2
    assert "pip install 'edgedl[onnxruntime]'" in done.stdout


def test_how_many_golden_answers_are_compared(tmp_path: Path) -> None:
    path = written(tmp_path / "net.edl", [payload()], later=5.0)
    assert edgedl.open(path).opened.golden_samples == 1
    with pytest.raises(WrongAnswers, match="away from the golden ones"):
        edgedl.open(path, golden="all")
    wrong = written(tmp_path / "wrong.edl", [payload()], wrong=5.0)
    with pytest.raises(WrongAnswers) as caught:
        edgedl.open(wrong)
    assert "golden='none'" in str(caught.value.hint)
    opened = edgedl.open(wrong, golden="none").opened
    assert (opened.golden_samples, opened.proven) == (0, False)
    with pytest.raises(BadOption, match="no golden check `some`"):
        edgedl.open(path, golden="some")  # type: ignore[arg-type]


def test_payloads_of_one_part_cost_no_bytes(tmp_path: Path) -> None:
    one = written(tmp_path / "one.edl", [payload()])
    many = written(tmp_path / "many.edl", [payload(), payload("plain"), payload("refusing")])
    assert many.stat().st_size - one.stat().st_size <= 2 * 192
    assert one.read_bytes()[8] == many.read_bytes()[8] == 1
    assert len(open_bundle(many).parts) == len(open_bundle(one).parts)


def test_a_damaged_payload_is_skipped_and_others_are_not_read(tmp_path: Path) -> None:
    """Only in a large part: small ones are all checked on opening."""
    large = payload("plain", part="models/large.onnx", precision="int8")
    path = written(tmp_path / "net.edl", [large, payload()], **{large.part: bytes(1 << 19)})
    part = open_bundle(path).parts[large.part]
    altered = bytearray(path.read_bytes())
    altered[part.offset + part.bytes // 2] ^= 1
    path.write_bytes(altered)
    [skipped] = edgedl.open(path).opened.skipped
    assert skipped.reason == "part `models/large.onnx` was altered"
    with pytest.raises(BadBundle, match="was altered"):
        edgedl.open(path, engine_name="plain")
    for reader in (open_bundle, check):
        with pytest.raises(BadBundle, match="was altered"):
            reader(path)
    altered[open_bundle_offset(path, PART)] ^= 1
    path.write_bytes(altered)
    with pytest.raises(BadBundle, match="was altered"):
        edgedl.open(path)


def open_bundle_offset(path: Path, part: str) -> int:
    return open_bundle(path, sparing=True).parts[part].offset + ALIGN


def test_a_check_skips_what_is_for_another_machine(tmp_path: Path) -> None:
    other = compiled(Needs("3.1", "3.1", "0" * 64, "Cortex-A72"))
    path = written(tmp_path / "net.edl", [other, payload("later"), payload()])
    found = check(path, threads=1)
    assert found.ok
    assert [one.skipped for one in found.payloads] == [True, True, False]
    assert "Cortex-A72" in str(found.payloads[0].problem)
    assert found.payloads[2].error == 0.0


CRASHING = """
from tests.runtime.engines import Crashing
ENGINE = Crashing()
"""


def test_an_engine_that_crashes_is_skipped_where_it_is_tried_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by its entry point, in the process that crashes too."""
    (tmp_path / "their_engine.py").write_text(CRASHING)
    info = tmp_path / "their_engine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-engine\nVersion: 1.0\n")
    entry = "[edgedl.engines]\ntheirs = their_engine:ENGINE\n"
    (info / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = written(tmp_path / "net.edl", [payload("theirs"), payload()])
    opened = edgedl.open(path, threads=1, apart=True).opened
    [skipped] = opened.skipped
    assert skipped.reason == "its engine crashed in opening (SIGABRT)"
    assert opened.engine == any_engine().name


def test_a_recipe_is_built_where_it_is_opened(tmp_path: Path) -> None:
    path = written(tmp_path / "net.edl", [payload("building", "build"), payload()])
    assert path.read_bytes()[8] == 3
    with edgedl.open(path, threads=1) as session:
        assert (session.opened.engine, session.opened.format) == ("building", "build")
    elsewhere = written(tmp_path / "other.edl", [payload("later", "build"), payload()])
    assert edgedl.open(elsewhere).opened.payload == 1


@pytest.mark.parametrize("name", installed_engines())
def test_what_an_engine_compiled_answers_alike(name: str, tmp_path: Path) -> None:
    from edgedl.backends.added import add_compiled

    plain = written(tmp_path / "plain.edl", [payload(name)])
    [made] = add_compiled(plain, tmp_path / "compiled.edl", threads=1)
    assert made.needs.machine == this_processor().fingerprint
    assert (tmp_path / "compiled.edl").read_bytes()[8] == 3
    with edgedl.open(tmp_path / "compiled.edl", threads=1, golden="all") as session:
        opened = session.opened
        assert (opened.format, opened.payload, opened.skipped) == ("compiled", 0, ())
        answer = session.run(answered()[0])["logits"]
        names = session.signature
    with edgedl.open(plain, threads=1) as session:
        np.testing.assert_allclose(session.run(answered()[0])["logits"], answer, rtol=1e-5)
        assert session.signature == names
    assert check(tmp_path / "compiled.edl").ok
    again = tmp_path / "again.edl"
    add_compiled(tmp_path / "compiled.edl", again, threads=1)
    assert [one.format for one in open_bundle(again).payloads] == ["compiled", "onnx"]


def test_missing_says_how_to_install(tmp_path: Path) -> None:
    path = written(tmp_path / "net.edl", [payload("later")])
    with pytest.raises(Missing, match="not known here") as caught:
        edgedl.open(path)
    assert caught.value.hint == "pip install --upgrade edgedl"
    only = written(tmp_path / "only.edl", [compiled(Needs("1", "1", "0" * 64))])
    with pytest.raises(Unsupported) as caught:
        edgedl.open(only)
    assert "on this machine" in str(caught.value.hint)
    for reader in (lambda: open_bundle(only).onnx, lambda: find_artifact(only)):
        with pytest.raises(BadBundle, match="no ONNX model"):
            reader()
    later = written(tmp_path / "later.edl", [payload(format_="onnx+other"), payload("plain")])
    assert open_bundle(later).onnx.engine == "plain"


def test_inspect_tells_what_a_payload_needs() -> None:
    from click.testing import CliRunner

    from edgedl.cli.inspect import command

    told = CliRunner().invoke(command, [str(HERE / "version_3.edl")]).output
    assert "openvino float32, compiled for Cortex-A72, from version 2026.4.1, to version" in told
    assert "tensorrt float32, built where it is opened, from version 10.3" in told
    assert "openvino int8, no_such_flag" in told


def test_run_says_what_it_skipped(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from edgedl.cli.run import command

    path = written(tmp_path / "net.edl", [payload("refusing"), payload()])
    np.savez(tmp_path / "x.npz", **FEED)
    done = CliRunner().invoke(
        command,
        [str(path), "--input", str(tmp_path / "x.npz"), "--output", str(tmp_path / "y.npz")],
    )
    assert done.exit_code == 0
    assert done.stderr == "skipped: refusing float32 (onnx): refusing refuses the model\n"
    assert done.stdout.startswith("1 sample -> ")
