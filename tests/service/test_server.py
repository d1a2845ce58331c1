"""A real server in a process of its own, and a client that others wrote."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="the service's extra: pip install 'edgedl[serve]'")

import edgedl
from edgedl.backends import backend
from edgedl.core.errors import BadBundle, BadOption, Unsupported, WrongInput
from edgedl.passes.graph import to_ship
from edgedl.runtime import installed_engines
from edgedl.runtime.golden import Answer, Golden
from edgedl.runtime.writing import Contents, write_bundle
from edgedl.service import run as service
from edgedl.service import sockets
from edgedl.service.run import named
from tests import models
from tests.service.requests import written

PATIENCE_S = 60
SERVE = [sys.executable, "-m", "edgedl", "serve"]


def bundle(net: Any, path: Path) -> Path:
    """A bundle of a network for an installed engine."""
    path.parent.mkdir(exist_ok=True)
    name = installed_engines()[0]
    model = models.saved(net, path.parent)
    feed = models.feeds(model.signature, 1)[0]
    answer = models.answers(model.path, [feed], name)[0]
    data, names = to_ship(model)
    write_bundle(
        path,
        Contents(
            signature=model.signature,
            payloads=[(backend(name).compile(data, "float32"), data)],
            golden=Golden((feed,), ({k: Answer.of(v) for k, v in answer.items()},), 0.01),
            history=(),
            notes={},
            names=names,
        ),
    )
    return path


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model whose samples share calls, and one of a fixed batch."""
    folder = tmp_path_factory.mktemp("bundles")
    nets = {"many": models.conv_net("batch"), "one": models.gemm_net()}
    return [bundle(net, folder / f"{name}.edl") for name, net in nets.items()]


@dataclass
class Running:
    """A server that listens at `place`; `said` is what it wrote before."""

    process: subprocess.Popen[str]
    place: str
    said: list[str]

    def ended(self) -> int:
        """Its exit status, once it ended by itself."""
        return self.process.wait(PATIENCE_S)


@contextmanager
def running(words: Sequence[object]) -> Iterator[Running]:
    """A server, from when it says that it listens."""
    process = subprocess.Popen(
        [*SERVE, *map(str, words)], stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    assert process.stderr is not None

    def read(stream: Any) -> None:
        for line in stream:
            lines.put(line.rstrip())
        lines.put("")

    reader = threading.Thread(target=read, args=(process.stderr,), daemon=True)
    reader.start()
    said: list[str] = []
    try:
        while not said or not said[-1].startswith("listening on "):
            said.append(lines.get(timeout=PATIENCE_S))
            assert said[-1], said
        yield Running(process, said[-1].removeprefix("listening on "), said)
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()


@pytest.fixture(scope="module")
def server(bundles: list[Path]) -> Iterator[Running]:
    """Both models, the second under another name."""
    with running([bundles[0], f"other={bundles[1]}", "--port", 0, "--max-body", "1MB"]) as found:
        yield found


@pytest.fixture(scope="module")
def triton() -> Any:
    return pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")


@pytest.fixture
def client(server: Running, triton: Any) -> Iterator[Any]:
    found = triton.InferenceServerClient(server.place.removeprefix("http://"), concurrency=4)
    yield found
    found.close()


def given(triton: Any, name: str, array: np.ndarray, *, binary: bool) -> Any:
    made = triton.InferInput(name, list(array.shape), "FP32")
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_it_says_how_it_serves(server: Running) -> None:
    way = f"{installed_engines()[0]} float32"
    assert server.said[0] == f"many: {way}, up to 8 samples a call, waiting 2 ms for them"
    assert server.said[1] == f"other: {way}, one request a call: its first axis is fixed"


def test_triton_reads_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("many")
    assert client.is_model_ready("other", "1")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["name"] == "edgedl"
    metadata = client.get_model_metadata("many")
    assert metadata["platform"] == f"{installed_engines()[0]}_onnx"
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 8, 8]}]
    assert metadata["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 5]}]
    assert [entry["name"] for entry in client.get_model_repository_index()] == ["many", "other"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_triton_gets_the_sessions_answers(
    client: Any, triton: Any, bundles: list[Path], binary_in: bool, binary_out: bool
) -> None:
    for path, name, x in (
        (bundles[0], "many", rows(3, 3, 8, 8)),
        (bundles[1], "other", rows(1, 16)),
    ):
        with edgedl.open(path, threads=1) as session:
            wanted = session.run({"x": x})["logits"]
        result = client.infer(
            name,
            [given(triton, "x", x, binary=binary_in)],
            outputs=[triton.InferRequestedOutput("logits", binary_data=binary_out)],
            request_id="7",
        )
        np.testing.assert_allclose(result.as_numpy("logits"), wanted, atol=1e-5)
        assert result.get_response()["id"] == "7"
        assert result.get_response()["model_name"] == name


def test_triton_asks_for_all_outputs_for_classes_and_in_time(client: Any, triton: Any) -> None:
    x = [given(triton, "x", rows(2, 3, 8, 8), binary=True)]
    logits = client.infer("many", x).as_numpy("logits")
    best = triton.InferRequestedOutput("logits", class_count=2)
    found = client.infer("many", x, outputs=[best], timeout=5_000_000).as_numpy("logits")
    assert found.shape == (2, 2)
    assert [int(text.split(b":")[1]) for text in found[:, 0]] == logits.argmax(1).tolist()


def test_triton_at_once(client: Any, triton: Any) -> None:
    x = rows(12, 3, 8, 8)
    wanted = client.infer("many", [given(triton, "x", x, binary=True)]).as_numpy("logits")
    asked = [
        client.async_infer("many", [given(triton, "x", x[i : i + 1], binary=True)])
        for i in range(12)
    ]
    for i, one in enumerate(asked):
        np.testing.assert_allclose(
            one.get_result().as_numpy("logits"), wanted[i : i + 1], atol=1e-5
        )


def test_triton_is_told_what_is_wrong(client: Any, triton: Any) -> None:
    from tritonclient.utils import InferenceServerException

    right = given(triton, "x", rows(1, 3, 8, 8), binary=True)
    text = triton.InferInput("x", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"words"], dtype=np.object_))
    for name, tensor, words in (
        ("many", given(triton, "z", rows(1, 3, 8, 8), binary=True), "`z` is not an input"),
        ("many", given(triton, "x", rows(1, 4), binary=False), r"has shape \[1, 4\]"),
        ("many", text, "input `x` is BYTES, the model takes FP32"),
        ("nobody", right, "no model `nobody` is served here"),
        ("other", given(triton, "x", rows(2, 16), binary=True), r"has shape \[2, 16\]"),
        ("many", given(triton, "x", rows(2000, 3, 8, 8), binary=True), "1000000 are taken"),
    ):
        with pytest.raises(InferenceServerException, match=words):
            client.infer(name, [tensor])
    assert client.infer("many", [right]).as_numpy("logits").shape == (1, 5)


def connected(server: Running) -> http.client.HTTPConnection:
    host, port = server.place.removeprefix("http://").split(":")
    return http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)


def test_what_is_no_http_does_not_end_it(server: Running) -> None:
    pytest.importorskip("httptools", reason="h11 has words of its own")
    host, port = server.place.removeprefix("http://").split(":")
    for noise in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", bytes(1000)):
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as one:
            one.sendall(noise)
            said = one.makefile("rb").read()
            assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert said.endswith(b'{"error": "this is no HTTP request"}')
    connection = connected(server)
    connection.request("GET", "/v2/health/ready")
    assert connection.getresponse().status == 200
    connection.close()


def test_a_head_without_end_is_cut_off(server: Running) -> None:
    pytest.importorskip("httptools", reason="h11 has a bound of its own")
    host, port = server.place.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as one:
        one.sendall(b"GET /v2 HTTP/1.1\r\nHost: a\r\n")
        said = b""
        with contextlib.suppress(ConnectionError):
            for _ in range(500):
                one.sendall(b"X-More: " + b"a" * 100_000 + b"\r\n")
            raise AssertionError("50 MB of head were taken")
        with contextlib.suppress(ConnectionError):
            said = one.recv(100)
        assert b"200" not in said
    connection = connected(server)
    connection.request("GET", "/v2", headers={"X-More": "a" * 30_000})
    assert connection.getresponse().status == 200
    connection.close()


def test_after_a_refused_body_the_connection_goes_on(server: Running) -> None:
    connection = connected(server)
    for _ in range(2):
        connection.request("POST", "/v2/models/many/infer", bytes(1_100_000))
        answer = connection.getresponse()
        assert answer.status == 413
        assert "are taken" in json.loads(answer.read())["error"]
    connection.close()


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_what_is_in_hand_when_it_is_told_to_end_is_answered(
    bundles: list[Path], tmp_path: Path, told: signal.Signals
) -> None:
    """A first request waits for others for a minute: only the drain can let it go."""
    unix = tmp_path / "socket"
    words = [bundles[0], "--unix", unix, "--max-wait", "60s", "--timeout", "120s"]
    with running(words) as server:
        assert server.place == f"unix:{unix}"
        body, json_bytes = written({"x": rows(1, 3, 8, 8)})
        head = (
            "POST /v2/models/many/infer HTTP/1.1\r\nHost: a\r\n"
            f"Content-Length: {len(body)}\r\nInference-Header-Content-Length: {json_bytes}\r\n\r\n"
        )
        with socket.socket(socket.AF_UNIX) as asking, socket.socket(socket.AF_UNIX) as looking:
            for one in (asking, looking):
                one.settimeout(PATIENCE_S)
                one.connect(str(unix))
            asking.sendall(head.encode() + body)
            while 'edgedl_queue_requests{model="many"} 1' not in metrics(looking):
                pass
            server.process.send_signal(told)
            answer = b""
            while piece := asking.recv(65536):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
        assert b'"shape":[1,5]' in answer
        assert server.ended() == 0
        assert not unix.exists()


def metrics(connection: socket.socket) -> str:
    connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
    text = b""
    while True:
        text += connection.recv(65536)
        length = re.search(rb"content-length: (\d+)", text)
        if length and len(text) == text.index(b"\r\n\r\n") + 4 + int(length[1]):
            return text.decode()


def test_a_taken_port_is_said(server: Running, bundles: list[Path]) -> None:
    port = int(server.place.rpartition(":")[2])
    with pytest.raises(Unsupported, match=f"port {port} of 127.0.0.1 is taken"):
        edgedl.serve([bundles[0]], port=port)


def opened_sessions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The sessions that `serve` opens from now on."""
    found: list[Any] = []
    really = edgedl.open

    def open_(*given: Any, **more: Any) -> Any:
        found.append(really(*given, **more))
        return found[-1]

    monkeypatch.setattr(service.runtime, "open", open_)
    return found


def all_closed(sessions: Sequence[Any]) -> bool:
    for session in sessions:
        with pytest.raises(WrongInput, match="closed"):
            session.run(models.feeds(session.signature, 1)[0])
    return bool(sessions)


def test_a_port_that_is_taken_while_bundles_are_opened_is_said_and_all_is_closed(
    bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two may be bound to one address until one of them listens."""
    sessions, said = opened_sessions(monkeypatch), list[str]()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]

        def told(line: str) -> None:
            said.append(line)
            other.listen()

        with pytest.raises(Unsupported, match=f"port {port} of 127.0.0.1 is taken") as caught:
            edgedl.serve(bundles, port=port, told=told)
    assert "--port 0" in str(caught.value.hint)
    assert len(sessions) == len(bundles)
    assert all_closed(sessions)
    assert not any("listening" in line for line in said)


def test_whatever_keeps_the_server_from_starting_closes_all(
    bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = opened_sessions(monkeypatch)
    monkeypatch.setattr(service, "HEADS", "edgedl.service.heads:Absent")
    with pytest.raises(AttributeError, match="Absent"):
        edgedl.serve(bundles, port=0)
    assert all_closed(sessions)


def test_what_is_no_bundle_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.edl").write_bytes(b"nothing of the kind")
    for name in ("a.edl", "absent.edl"):
        with pytest.raises(BadBundle, match=name):
            edgedl.serve([tmp_path / name], port=0)
    with pytest.raises(BadBundle):
        edgedl.serve([tmp_path / "a.edl"], unix=tmp_path / "socket")
    assert not (tmp_path / "socket").exists()


def test_addresses_that_cannot_be() -> None:
    for host in ("192.0.2.1", "no such host"):
        with pytest.raises(BadOption, match="is no address of this machine"):
            sockets.tcp(host, 0)


def test_unix_sockets_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOption, match="is a file, and no socket"):
        sockets.unix(tmp_path / "file")
    with pytest.raises(BadOption, match="no socket can be made"):
        sockets.unix(tmp_path / "absent" / "socket")
    with pytest.raises(BadOption, match="no socket can be made"):
        sockets.unix(tmp_path / ("long" * 50))
    left = sockets.unix(tmp_path / "socket")
    left.close()
    again = sockets.unix(tmp_path / "socket")
    again.listen()
    with pytest.raises(Unsupported, match="another service listens"):
        sockets.unix(tmp_path / "socket")
    again.close()


def test_names_are_the_files_or_given() -> None:
    assert named(["a/net.edl", "other=b/net.edl"]) == {
        "net": Path("a/net.edl"), "other": Path("b/net.edl"),
    }  # fmt: skip
    assert named({"x": "a.edl"}) == {"x": Path("a.edl")}
    for bad, words in (
        (["a/net.edl", "b/net.edl"], "two bundles are named `net`"),
        (["my net.edl"], "`my net` is no name"),
        ([".edl"], "is no name"),
        ([], "no bundle"),
    ):
        with pytest.raises(BadOption, match=words):
            named(bad)
