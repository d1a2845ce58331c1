"""Bundles and folders that somebody made to do harm, and files that change while they are read."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

import edgedl
from edgedl.core.errors import BadBundle, EdgeError, NoPayload, Unsupported, Untrusted
from edgedl.inputs import load_model
from edgedl.runtime import installed_engines
from edgedl.runtime.artifact import find_artifact
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.cache import Cache
from edgedl.runtime.check import check
from edgedl.runtime.contained import refuse_outward
from edgedl.runtime.layout import HEADER
from edgedl.runtime.settings import KNOWN, refuse_unknown
from edgedl.runtime.sign import private
from edgedl.runtime.window import opened, window_of
from tests.bundles import pair, signed, small_bundle
from tests.runtime.shipped import payload, written

SECRET = b"nobody else's..."
SIZE = len(SECRET)


def reaching(location: str, where: str = "initializer") -> onnx.ModelProto:
    """A model that answers with what lies at a place outside of it."""
    tensor = TensorProto(
        name="w", data_type=TensorProto.UINT8, dims=[SIZE], data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", location), ("offset", "0"), ("length", str(SIZE))):
        tensor.external_data.add(key=key, value=value)
    nodes, kept = [helper.make_node("Identity", ["w"], ["y"])], []
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    if where == "initializer":
        kept = [tensor]
    elif where == "node":
        nodes = [constant, *nodes]
    elif where == "body":
        body = helper.make_graph(
            [constant, *nodes], "b", [], [helper.make_tensor_value_info("y", 2, [SIZE])]
        )
        yes = helper.make_tensor("c", TensorProto.BOOL, [], [True])
        kept, nodes = [yes], [helper.make_node("If", ["c"], ["y"])]
        for branch in ("then_branch", "else_branch"):
            nodes[0].attribute.append(helper.make_attribute(branch, body))
    ends = [helper.make_tensor_value_info("y", TensorProto.UINT8, [SIZE])]
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    if where == "function":
        nodes = [helper.make_node("Own", [], ["y"], domain="own")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [], ends, kept), opset_imports=opset, ir_version=8
    )
    if where == "function":
        inside = [constant, helper.make_node("Identity", ["w"], ["y"])]
        model.functions.append(helper.make_function("own", "Own", [], ["y"], inside, opset[:1]))
    if where == "sparse":
        model.graph.sparse_initializer.add(values=tensor, indices=tensor, dims=[SIZE])
    return model


WHERE = ("initializer", "node", "body", "function", "sparse")
PLACES = ("secret.bin", "../secret.bin", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", "secret.bin\0", "")


@pytest.mark.parametrize("where", WHERE)
def test_data_outside_of_a_model_is_found_wherever_it_is_named(where: str) -> None:
    for place in PLACES:
        with pytest.raises(ValueError, match="names data outside"):
            refuse_outward(reaching(place, where).SerializeToString())
    # A tensor that is split over two messages, which readers put together again.
    model = reaching("secret.bin").SerializeToString()
    with pytest.raises(ValueError, match="names data outside"):
        refuse_outward(
            helper.make_model(helper.make_graph([], "", [], [])).SerializeToString() + model
        )


def test_what_only_speaks_of_a_location_is_passed() -> None:
    node = helper.make_node("Identity", ["mbox_location"], ["location"], doc_string="location")
    tensor = helper.make_tensor("mbox_location", TensorProto.FLOAT, [2], [1.0, 2.0])
    graph = helper.make_graph([node], "location", [], [], [tensor])
    refuse_outward(helper.make_model(graph, doc_string="location").SerializeToString())


@pytest.mark.parametrize(
    "data",
    [
        b'<?xml version="1.0"?><net name="a" version="11"></net>',
        b"\x08\x08\x0a\x00ORTM" + bytes(100),
        b"\x1c\x00\x00\x00TFL3" + bytes(100),
        b"\x0a\x7fshort",
        b"\x0b" * 20,
        b"\xff" * 20,
        b"\x00\x00",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ],
)
def test_files_of_other_kinds_are_no_onnx(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"no ONNX file|another kind"):
        refuse_outward(data)


@pytest.mark.parametrize("where", ["graph", "function", "body"])
def test_what_an_engine_compiled_is_no_model(where: str) -> None:
    """onnxruntime's providers would read it, from a file that the node names."""
    node = helper.make_node(
        "EPContext", [], ["y"], domain="com.microsoft", ep_cache_context="/tmp/x", embed_mode=0
    )
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    if where == "function":
        opset = [helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(helper.make_graph([], "g", [], []))
        model.functions.append(helper.make_function("own", "Own", [], ["y"], [node], opset))
    elif where == "body":
        body = helper.make_graph([node], "b", [], [])
        inner = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
        model = helper.make_model(helper.make_graph([inner], "g", [], []))
    with pytest.raises(ValueError, match="what an engine compiled"):
        refuse_outward(model.SerializeToString())
    refuse_outward(
        helper.make_model(
            helper.make_graph([helper.make_node("Relu", ["x"], ["EPContext"])], "g", [], [])
        ).SerializeToString()
    )


def test_fields_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgedl.runtime.contained.MOST_FIELDS", 100)
    with pytest.raises(ValueError, match="more than 100 fields"):
        refuse_outward(b"\x08\x01" * 200)


@pytest.mark.parametrize("name", installed_engines())
@pytest.mark.parametrize("format_", ["onnx", "build"])
def test_no_engine_reads_files_for_a_bundle(
    name: str, format_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime and OpenVINO would: both open a name beside the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("secret.bin").write_bytes(SECRET)
    data = reaching("secret.bin").SerializeToString()
    path = written(
        tmp_path / "net.edl", [payload(name, format_, part="models/a")], **{"models/a": data}
    )
    ways: list[Callable[[], Any]] = [
        lambda: edgedl.open(path),
        lambda: edgedl.open(path, golden="none", cache=tmp_path / "cache"),
        lambda: find_artifact(path).open(),
        lambda: load_model(path),
    ]
    for way in ways:
        with pytest.raises(BadBundle, match="names data outside of it"):
            way()
    assert "names data outside" in str(check(path).payloads[0].problem)


SETTINGS: dict[str, Any] = {
    "a library": {"session.register_custom_ops": "/tmp/evil.so"},
    "a profile": {"enable_profiling": True, "profile_file_prefix": "/etc/cron.d/x"},
    "a model that is written": {"optimized_model_filepath": "/root/.bashrc"},
    "OpenVINO's cache": {"CACHE_DIR": "/etc"},
    "OpenVINO's configuration": {"CONFIG_FILE": "/tmp/x", "LOG_LEVEL": "LOG_TRACE"},
    "a plugin": {"plugins": ["/tmp/evil.so"]},
    "a thousand million requests": {"at_once": 10**9},
    "a precision that is a document": {"precision": {"CACHE_DIR": "/etc"}},
    "another precision": {"precision": "f64"},
    "a switch that is text": {"memory_pattern": "no"},
    "names that are one": {"unfused": "all", "other_kernels": "all"},
    "names without end": {"unfused": ["a"] * 5000, "other_kernels": ["a"] * 5000},
    "graphs without end": {"graphs": 10**9},
    "a device that is text": {"device": "0"},
}


@pytest.mark.parametrize("engine", KNOWN)
@pytest.mark.parametrize("case", SETTINGS)
def test_settings_are_a_closed_list(case: str, engine: str) -> None:
    with pytest.raises(Unsupported, match="not known here") as caught:
        refuse_unknown(engine, SETTINGS[case])
    assert caught.value.hint


@pytest.mark.parametrize("case", SETTINGS)
def test_a_payload_with_other_settings_is_skipped(case: str, tmp_path: Path) -> None:
    name = installed_engines()[0]
    path = written(tmp_path / "net.edl", [payload(name, settings=SETTINGS[case]), payload(name)])
    with edgedl.open(path, threads=1) as session:
        [skipped] = session.opened.skipped
        assert "not known here" in skipped.reason
    alone = written(tmp_path / "alone.edl", [payload(name, settings=SETTINGS[case])])
    for way in (edgedl.open, find_artifact):
        with pytest.raises(Unsupported, match="not known here"):
            way(alone)
    assert check(path, threads=1).ok


def test_settings_that_are_written_are_known() -> None:
    refuse_unknown("openvino", {"precision": "bf16", "other_kernels": ["conv"]})
    refuse_unknown("onnxruntime", {"memory_pattern": False, "reuse_outputs": True, "unfused": []})
    refuse_unknown("tensorrt", {"build": {}, "graphs": 4, "device": 0, "streamed_bytes": None})
    refuse_unknown("a third party's", {"anything": 1})


def test_a_file_that_is_cut_off_is_told(tmp_path: Path) -> None:
    """Of a mapped one, the kernel would end the process (SIGBUS)."""
    path = small_bundle(tmp_path / "net.edl", os.urandom(1 << 19))
    found = open_bundle(path, sparing=True)
    with path.open("r+b") as file:
        file.truncate(found.parts["models/a.onnx"].offset + 4096)
    with pytest.raises(BadBundle, match="cut off while it was read"):
        found.read("models/a.onnx")
    with pytest.raises(BadBundle):
        found.golden()


class Changing:
    """A file of which the header and the manifest are others from their second reading on."""

    def __init__(self, data: bytes, later: bytes) -> None:
        self.data, self.later, self.seen = data, later, 0

    def read(self, at: int, size: int) -> bytes:
        inside = at < HEADER.size + HEADER.unpack_from(self.data)[4]
        self.seen += inside and at > 0
        return (self.later if self.seen > 1 else self.data)[at : at + size]


def test_what_was_proven_is_what_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, _ = pair(tmp_path)
    path, other = small_bundle(tmp_path / "net.edl"), small_bundle(tmp_path / "other.edl", b"model")
    signed(path, key)
    file = Changing(path.read_bytes(), other.read_bytes())
    held = window_of(b"", str(path))
    window = type(held)(file, len(file.data), str(path))  # type: ignore[arg-type]
    monkeypatch.setattr("edgedl.runtime.bundle.opened", lambda _: window)
    found = open_bundle(path, trust=key.with_suffix(".pub"))
    assert file.seen == 1
    assert found.head == file.data[: len(found.head)]


def test_a_replaced_file_is_not_used(tmp_path: Path) -> None:
    key, _ = pair(tmp_path)
    path = small_bundle(tmp_path / "net.edl", b"model")
    signed(path, key)
    found = open_bundle(path, trust=key.with_suffix(".pub"))
    small_bundle(tmp_path / "other.edl", b"worse").replace(path)
    assert found.payload_bytes(found.payloads[0]) == b"model"
    with pytest.raises(Untrusted):
        open_bundle(path, trust=key.with_suffix(".pub"))


def test_what_is_signed_is_what_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = pair(tmp_path)
    path = small_bundle(tmp_path / "net.edl")
    other = small_bundle(tmp_path / "other.edl", b"worse").read_bytes()

    def replaced(bundle: Any) -> Any:
        path.write_bytes(other)
        return found

    found = open_bundle(path)
    monkeypatch.setattr(private, "read_bundle", replaced)
    with pytest.raises(BadBundle, match="replaced while it was signed"):
        signed(path, key)


def test_links_and_names(tmp_path: Path) -> None:
    """A link to a bundle is followed, as by any program; to what is no file, it is refused."""
    path = small_bundle(tmp_path / "net.edl")
    (tmp_path / "link.edl").symlink_to(path)
    assert open_bundle(tmp_path / "link.edl").parts
    for name, target in (("null.edl", "/dev/null"), ("self.edl", "self.edl"), ("up.edl", "..")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(EdgeError):
            open_bundle(tmp_path / name)
    with pytest.raises(BadBundle):
        open_bundle("net\0.edl")


NAMES = (
    "../a",
    "/a",
    "a//b",
    "a/../b",
    "./a",
    "a/",
    "a\\b",
    "a\0",
    "\uff41",
    "a\u202eb",
    "a b",
    "é",
    "-\n",
)


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leaves_the_bundle(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "net.edl", [payload(part=name)])
    with pytest.raises(BadBundle, match="a part has the name"):
        open_bundle(path)


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Cache, Path]:
    """A cache with one file."""
    cache = Cache(tmp_path / "cache")
    assert cache.keep({"a": 1}, b"ours", {}) is None
    [place] = cache.root.glob("*.edlc")
    return cache, place


def test_a_cache_is_its_users_alone(kept: tuple[Cache, Path]) -> None:
    cache, place = kept
    assert stat.S_IMODE(cache.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert cache.find({"a": 1}) is not None


POISON: dict[str, Callable[[Path], Any]] = {
    "others may write it": lambda place: place.chmod(0o666),
    "its group may write it": lambda place: place.chmod(0o660),
    "it has a second name": lambda place: os.link(place, place.with_name("second")),
    "a symbolic link": lambda place: place.with_name("x").symlink_to(
        place.rename(place.parent / "y")
    ),
    "a link in its place": lambda place: place.symlink_to(place.rename(place.with_name("real"))),
    "a folder": lambda place: (place.unlink(), place.mkdir()),
    "another key's": lambda place: shutil.copy(
        Path(str(Cache(place.parent).keep({"a": 2}, b"theirs", {}) or other(place))), place
    ),
}


def other(place: Path) -> Path:
    """The file of the cache that is not this one."""
    return next(one for one in place.parent.glob("*.edlc") if one != place)


@pytest.mark.parametrize("case", POISON)
def test_a_poisoned_cache_is_passed_over(case: str, kept: tuple[Cache, Path]) -> None:
    cache, place = kept
    POISON[case](place)
    assert cache.find({"a": 1}) is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give")
def test_another_users_file_is_passed_over(kept: tuple[Cache, Path]) -> None:
    cache, place = kept
    os.chown(place, 12345, -1)
    assert cache.find({"a": 1}) is None


def test_a_process_of_its_own_imports_nothing_from_where_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "net.edl", [payload()])
    (tmp_path / "zlib.py").write_text("raise SystemExit(7)")
    (tmp_path / "numpy.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    with edgedl.open(path, threads=1, apart=True) as session:
        assert session.opened.skipped == ()


def test_a_bundle_of_nothing_but_refusals_names_each(tmp_path: Path) -> None:
    name = installed_engines()[0]
    data = reaching("secret.bin").SerializeToString()
    bad = [payload(name, part="models/a"), payload(name, settings={"CACHE_DIR": "/"})]
    with pytest.raises(NoPayload, match=r"names data outside of it.*CACHE_DIR"):
        edgedl.open(written(tmp_path / "net.edl", bad, **{"models/a": data}))


def test_reading_a_bundle_leaves_no_file_open(tmp_path: Path) -> None:
    path = small_bundle(tmp_path / "net.edl")
    window = opened(path)
    handle = window.source.handle  # type: ignore[union-attr]
    os.fstat(handle)
    del window
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(handle)
