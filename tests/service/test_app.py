"""The whole application in process, on sessions made for it and on real ones."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the service's extra: pip install 'edgedl[serve]'")

import edgedl
from edgedl.core.errors import EngineFailed
from edgedl.core.model import Signature, Tensor
from edgedl.runtime import engine, installed_engines
from edgedl.service.app import application
from edgedl.service.batcher import Policy
from edgedl.service.model import Model, Service, Settings
from tests import models
from tests.service.caller import Answered, Connection, call
from tests.service.requests import written
from tests.service.test_batcher import looped

INFER = "/v2/models/net/infer"
X = np.array([[1, 2]], np.float32)


class Doubles:
    """A session that doubles, fails on a 13, and, where it is told to, waits to be let go."""

    def __init__(self, first: int | None = None, waits: bool = False) -> None:
        self.signature = Signature(
            (Tensor("x", "float32", (first, 2)),), (Tensor("y", "float32", (first, 2)),)
        )
        self.batches: list[int] = []
        self.begun, self.let_go = threading.Event(), threading.Event()
        self.waits = False
        self.will_wait = waits
        self.closed = False

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.waits:
            self.begun.set()
            assert self.let_go.wait(10)
        self.batches.append(len(feed["x"]))
        if (feed["x"] == 13).any():
            raise EngineFailed("unlucky")
        return {"y": feed["x"] * 2}

    def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def served(session: Any, watch_after_s: float = 0.0, **more: Any) -> AsyncIterator[Any]:
    """The application of one model `net`, and its service, as `app.service`."""
    policy = Policy(**{key: more.pop(key) for key in list(more) if key in Policy.__annotations__})
    settings = Settings(policy, **more)
    service = Service([Model.of("net", session, settings)], settings)
    if isinstance(session, Doubles):
        session.waits = session.will_wait
        session.batches.clear()
    app = application(service, watch_after_s=watch_after_s)
    app.service = service  # type: ignore[attr-defined]
    async with app.router.lifespan_context(app):
        yield app
    service.stop()


def binary(array: np.ndarray, **more: Any) -> tuple[bytes, dict[str, str]]:
    body, json_bytes = written({"x": array}, **more)
    return body, {"Inference-Header-Content-Length": str(json_bytes)}


async def infer(app: Any, array: np.ndarray = X, **more: Any) -> Answered:
    return await call(app, "POST", INFER, *binary(array, **more))


async def until(condition: Callable[[], bool]) -> None:
    """Let others on this loop go on until it holds."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never held")


@looped
async def test_addresses_of_the_server_and_the_model() -> None:
    async with served(Doubles()) as app:
        said = (await call(app, "GET", "/v2")).json
        assert (await call(app, "GET", "/v2/")).json == said
        assert said["name"] == "edgedl"
        assert said["version"] == edgedl.__version__
        assert "binary_tensor_data" in said["extensions"]
        for path in ("/v2/models/net", "/v2/models/net/versions/1"):
            assert (await call(app, "GET", path)).json == {
                "name": "net", "versions": ["1"], "platform": "edgedl_bundle",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
                "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
            }  # fmt: skip
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/net/ready"):
            assert (await call(app, "GET", path)).status == 200
        index = await call(app, "POST", "/v2/repository/index")
        assert index.json == [{"name": "net", "version": "1", "state": "READY", "reason": ""}]


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/v2/models/nett", 404, "no model `nett` is served here; there is net"),
        ("POST", "/v2/models/nett/infer", 404, "no model `nett`"),
        ("GET", "/v2/models/nett/ready", 404, "no model `nett`"),
        ("POST", "/v2/models/net/versions/2/infer", 404, "`net` has no version `2`; there is 1"),
        ("GET", "/v2/models/net/versions/2", 404, "no version `2`"),
        ("GET", "/", 404, "no such address"),
        ("GET", INFER, 405, "GET is not for this address"),
        ("POST", "/v2", 405, "POST is not for this address"),
    ],
)
@looped
async def test_wrong_addresses_are_told_in_words(
    method: str, path: str, status: int, words: str
) -> None:
    async with served(Doubles()) as app:
        found = await call(app, method, path)
        assert found.status == status
        assert found.headers["content-type"] == "application/json"
        assert words in found.error


@looped
async def test_json_and_binary_and_versions() -> None:
    async with served(Doubles()) as app:
        body, _ = written({"x": X}, binary=False, id="7")
        for path in (INFER, "/v2/models/net/versions/1/infer"):
            found = await call(app, "POST", path, body)
            assert found.status == 200
            assert found.headers["content-type"] == "application/json"
            assert found.json == {
                "model_name": "net", "model_version": "1", "id": "7",
                "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [2, 4]}],
            }  # fmt: skip
        found = await infer(app, parameters={"binary_data_output": True})
        end = int(found.headers["inference-header-content-length"])
        assert found.headers["content-type"] == "application/octet-stream"
        assert json.loads(found.body[:end])["outputs"][0]["parameters"] == {"binary_data_size": 8}
        assert np.frombuffer(found.body[end:], np.float32).tolist() == [2, 4]


@looped
async def test_a_body_in_pieces_without_a_length() -> None:
    async with served(Doubles()) as app:
        body, headers = binary(X)
        pieces = [body[i : i + 7] for i in range(0, len(body), 7)]
        assert (await call(app, "POST", INFER, pieces, headers)).json["outputs"][0]["data"] == [
            2,
            4,
        ]
        headers["Content-Length"] = str(len(body))
        assert (await call(app, "POST", INFER, pieces, headers)).status == 200


@looped
async def test_requests_share_calls_and_get_their_own_rows() -> None:
    session = Doubles()
    async with served(session, max_batch=4, max_wait_s=10.0) as app:
        arrays = [np.full((1 + i % 3 % 2, 2), i, np.float32) for i in range(6)]
        found = await asyncio.gather(*(infer(app, array) for array in arrays))
        for array, one in zip(arrays, found, strict=True):
            (entry,) = one.json["outputs"]
            assert entry["shape"] == list(array.shape)
            assert entry["data"] == (array * 2).reshape(-1).tolist()
        assert session.batches == [4, 4]
        text = (await call(app, "GET", "/metrics")).body.decode()
        assert 'edgedl_requests_total{model="net",code="200"} 6' in text
        assert 'edgedl_samples_total{model="net"} 8' in text


@looped
async def test_a_fixed_model_runs_one_by_one() -> None:
    session = Doubles(first=1)
    async with served(session, max_batch=4, workers=2) as app:
        found = await asyncio.gather(*(infer(app) for _ in range(5)))
        assert [one.status for one in found] == [200] * 5
        assert session.batches == [1] * 5


@looped
async def test_a_failing_request_fails_alone() -> None:
    async with served(Doubles(), max_batch=3, max_wait_s=10.0) as app:
        found = await asyncio.gather(*(infer(app, X * value) for value in (1, 13, 2)))
        assert [one.status for one in found] == [200, 500, 200]
        assert found[1].error == "unlucky"


@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        ({"Inference-Header-Content-Length": "x"}, 400, "not a count"),
        ({"Inference-Header-Content-Length": "9999"}, 400, "the body has"),
        ({"Content-Length": "x"}, 400, "`Content-Length` is not a count"),
        ({"Content-Length": "1"}, 400, "longer than `Content-Length` says"),
        ({"Content-Length": "9999"}, 400, "shorter than `Content-Length` says"),
        ({"Content-Length": "10001"}, 413, "10001 bytes or more, 10000 are taken"),
        ({"Content-Encoding": "gzip"}, 400, "compressed"),
    ],
)
@looped
async def test_wrong_heads_are_refused(headers: dict[str, str], status: int, words: str) -> None:
    async with served(Doubles(), max_body_bytes=10_000) as app:
        body, right = binary(X)
        found = await call(app, "POST", INFER, body, {**right, **headers})
        assert found.status == status
        assert words in found.error


@looped
async def test_a_large_body_is_refused_before_it_is_read() -> None:
    async with served(Doubles(), max_body_bytes=1000) as app:
        head = {"Content-Length": "1001"}
        assert (await Connection(app, "POST", INFER, head).task).status == 413
        found = await Connection(app, "POST", INFER, {**head, "Expect": "100-continue"}).task
        assert found.headers["connection"] == "close"
        endless = Connection(app, "POST", INFER, {})
        endless.give(b" " * 600, b" " * 600, last=False)
        assert (await endless.task).status == 413
        assert app.service.held_bytes == 0
        assert app.service.reading == {"net": 0}


@looped
async def test_a_body_that_does_not_come_ends_in_408() -> None:
    async with served(Doubles(), timeout_s=0.02) as app:
        slow = Connection(app, "POST", INFER, {"Content-Length": "100"})
        slow.give(b"{", last=False)
        found = await slow.task
        assert found.status == 408
        assert "not there within 0.02 s" in found.error
        assert app.service.reading == {"net": 0}


@looped
async def test_full_is_429_with_a_time_to_come_again() -> None:
    session = Doubles(first=1, waits=True)
    async with served(session, max_queue=2) as app:
        asked = [asyncio.ensure_future(infer(app)) for _ in range(4)]
        await until(lambda: app.service.queues["net"].waiting == 2)
        found = await infer(app)
        assert found.status == 429
        assert int(found.headers["retry-after"]) >= 1
        assert "the queue is full: 2 requests" in found.error
        session.let_go.set()
        assert [one.status for one in await asyncio.gather(*asked)] == [200] * 4
        assert (await infer(app)).status == 200


@looped
async def test_bodies_on_their_way_count() -> None:
    async with served(Doubles(), max_queue=1, max_memory_bytes=10_000) as app:
        body, headers = binary(X)
        slow = Connection(app, "POST", INFER, {**headers, "Content-Length": str(len(body))})
        slow.give(body[:10], last=False)
        await until(lambda: app.service.reading["net"] == 1)
        assert (await infer(app)).status == 429
        slow.give(body[10:])
        assert (await slow.task).status == 200
        heavy = Connection(app, "POST", INFER, {"Content-Length": "10000"})
        await until(lambda: app.service.held_bytes == 10_000)
        app.service.reading["net"] = 0
        refused = await infer(app)
        assert refused.status == 429
        assert "fill the memory" in refused.error
        app.service.reading["net"] = 1
        heavy.go_away()
        assert (await heavy.task).status == 0
        assert app.service.held_bytes == 0


@looped
async def test_a_deadline_is_504() -> None:
    session = Doubles(waits=True)
    async with served(session) as app:
        found = await infer(app, parameters={"timeout": 1000})
        assert found.status == 504
        session.let_go.set()


@looped
async def test_a_client_that_goes_away_is_taken_out_of_the_queue() -> None:
    session = Doubles(first=1, waits=True)
    async with served(session) as app:
        running = [asyncio.ensure_future(infer(app)) for _ in range(2)]
        queue = app.service.queues["net"]
        await until(lambda: queue.running == 2)
        body, headers = binary(X)
        gone = Connection(app, "POST", INFER, {**headers, "Content-Length": str(len(body))})
        gone.give(body)
        await until(lambda: queue.waiting == 1)
        gone.go_away()
        assert (await gone.task).status == 0
        assert queue.waiting == 0
        session.let_go.set()
        await asyncio.gather(*running)
        assert session.batches == [1, 1]
        text = (await call(app, "GET", "/metrics")).body.decode()
        assert 'edgedl_requests_total{model="net",code="499"} 1' in text


@looped
async def test_a_task_that_is_cancelled_leaves_nothing_behind() -> None:
    session = Doubles(first=1, waits=True)
    async with served(session) as app:
        asked = [asyncio.ensure_future(infer(app)) for _ in range(2)]
        queue = app.service.queues["net"]
        await until(lambda: queue.running == 2)
        asked.append(asyncio.ensure_future(infer(app)))
        await until(lambda: queue.waiting == 1)
        asked[2].cancel()
        await asyncio.wait(asked[2:])
        assert queue.waiting == 0
        session.let_go.set()
        await asyncio.gather(*asked[:2])


@looped
async def test_draining_answers_what_is_queued_and_refuses_the_rest() -> None:
    session = Doubles(first=1, waits=True)
    async with served(session) as app:
        asked = [asyncio.ensure_future(infer(app)) for _ in range(5)]
        await until(lambda: app.service.queues["net"].waiting == 3)
        body, headers = binary(X)
        coming = Connection(app, "POST", INFER, {**headers, "Content-Length": str(len(body))})
        await until(lambda: app.service.reading["net"] == 1)
        drained = asyncio.ensure_future(app.service.drain())
        await until(lambda: app.service.closing)
        assert (await infer(app)).status == 503
        assert (await call(app, "GET", "/v2/health/ready")).status == 503
        assert (await call(app, "GET", "/v2/models/net/ready")).status == 503
        assert (await call(app, "GET", "/v2/health/live")).status == 200
        coming.give(body)
        session.let_go.set()
        assert await drained == 0
        assert [one.status for one in await asyncio.gather(*asked)] == [200] * 5
        assert (await coming.task).status == 200, "its head was there before"
    assert session.closed


@looped
async def test_what_the_time_for_draining_does_not_allow_is_counted() -> None:
    session = Doubles(first=1, waits=True)
    async with served(session, drain_s=0.01) as app:
        asked = [asyncio.ensure_future(infer(app)) for _ in range(5)]
        await until(lambda: app.service.queues["net"].waiting == 3)
        slow = Connection(app, "POST", INFER, {"Content-Length": "10"})
        await until(lambda: app.service.reading["net"] == 1)
        assert await app.service.drain() == 6
        assert [one.status for one in await asyncio.gather(*asked)] == [503] * 5
        slow.task.cancel()
        assert (await slow.task).status == 503
        session.let_go.set()


@looped
async def test_not_finite() -> None:
    odd = np.array([[np.nan, 1]], np.float32)
    async with served(Doubles(), finite=True) as app:
        found = await infer(app, odd)
        assert found.status == 400
        assert "NaN or infinity" in found.error
    async with served(Doubles()) as app:
        found = await infer(app, odd)
        assert found.status == 406
        assert "binary_data" in found.error
        assert (await infer(app, odd, parameters={"binary_data_output": True})).status == 200


@looped
async def test_a_closed_session_is_told_of() -> None:
    data = models.conv_net("batch").SerializeToString()
    session = engine(installed_engines()[0]).open_model(data, settings={}, threads=1)
    async with served(session) as app:
        session.close()
        found = await infer(app, np.zeros((1, 3, 8, 8), np.float32))
        assert found.status == 503
        assert "the session is closed" in found.error


@pytest.mark.parametrize("name", installed_engines())
@looped
async def test_real_engines_answer_as_alone(name: str) -> None:
    data = models.conv_net("batch").SerializeToString()
    with engine(name).open_model(data, settings={}, threads=1) as session:
        rows = np.random.default_rng(0).standard_normal((12, 3, 8, 8)).astype(np.float32)
        wanted = session.run({"x": rows})["logits"]
        async with served(session, max_batch=4) as app:
            found = await asyncio.gather(*(infer(app, rows[i : i + 1]) for i in range(12)))
            answers = [one.json["outputs"][0]["data"] for one in found]
        np.testing.assert_allclose(np.array(answers), wanted, atol=1e-5)
