"""The client of `serve.py`, in a process of its own: requests by keep-alive on the loopback.

    python benchmarks/serve_client.py PORT MODEL SAMPLES.npz closed|open ...

It sends binary tensors prepared beforehand, holds every answer against the expected one, and prints
one JSON document. Closed: every connection has one request on its way. Open: requests come as a
Poisson process, and a request's time counts from when it should have been sent, whether or not a
connection was free. It ends by itself: by time, and at `--most` requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

TOLERANCE = 0.02
PATIENCE_S = 30.0
LENGTH = b"content-length: "
JSON_LENGTH = b"inference-header-content-length: "
TYPES = {"float32": "FP32", "float16": "FP16", "float64": "FP64", "int64": "INT64", "bool": "BOOL",
         "int32": "INT32", "int8": "INT8", "uint8": "UINT8"}  # fmt: skip


def request(model: str, feed: dict[str, np.ndarray]) -> bytes:
    """A whole HTTP request with binary tensors, asking for all outputs in binary."""
    head = {
        "inputs": [
            {"name": name, "datatype": TYPES[array.dtype.name], "shape": list(array.shape),
             "parameters": {"binary_data_size": array.nbytes}}
            for name, array in feed.items()
        ],
        "parameters": {"binary_data_output": True},
    }  # fmt: skip
    text = json.dumps(head).encode()
    body = b"".join([text, *(array.tobytes() for array in feed.values())])
    lines = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\n"
        f"Inference-Header-Content-Length: {len(text)}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return lines.encode() + body


class Client(asyncio.Protocol):
    """One connection with at most one request on its way.

    Args:
        answered: is called with the connection, the case and the whole answer, None where it broke.
    """

    def __init__(self, answered: Callable[[Client, int, bytes | None], None]) -> None:
        self.answered = answered
        self.case = -1
        self.buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def ask(self, case: int, data: bytes) -> None:
        self.case = case
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        at = self.buffer.find(LENGTH)
        length = int(self.buffer[at + len(LENGTH) : self.buffer.find(b"\r\n", at)])
        if len(self.buffer) < end + 4 + length:
            return
        whole = bytes(self.buffer)
        self.buffer.clear()
        case, self.case = self.case, -1
        self.answered(self, case, whole)

    def connection_lost(self, error: Exception | None) -> None:
        if self.case >= 0:
            self.answered(self, self.case, None)


class Load:
    """Requests that were asked and what came back."""

    def __init__(self, requests: list[bytes], expected: list[np.ndarray], dtype: str) -> None:
        self.requests, self.expected, self.dtype = requests, expected, dtype
        self.sent = 0
        self.good = 0
        self.errors: dict[str, int] = {}
        self.times: list[float] = []

    def next(self) -> int:
        self.sent += 1
        return self.sent % len(self.requests)

    def judge(self, case: int, answer: bytes | None, seconds: float) -> None:
        problem = self._problem(case, answer)
        if problem is None:
            self.good += 1
            self.times.append(seconds)
        else:
            self.errors[problem] = self.errors.get(problem, 0) + 1

    def _problem(self, case: int, answer: bytes | None) -> str | None:
        if answer is None:
            return "the connection broke"
        if not answer.startswith(b"HTTP/1.1 200"):
            return answer[9:12].decode()
        at = answer.find(JSON_LENGTH) + len(JSON_LENGTH)
        skip = int(answer[at : answer.find(b"\r\n", at)])
        start = answer.find(b"\r\n\r\n") + 4 + skip
        wanted = self.expected[case]
        found = np.frombuffer(answer, self.dtype, wanted.size, start)
        off = np.abs(found - wanted).max() if found.size else 0
        return None if off <= TOLERANCE * max(1e-6, np.abs(wanted).max()) else "a wrong answer"


async def closed(load: Load, port: int, connections: int, seconds: float, most: int) -> float:
    """Every connection asks again as soon as it is answered; right answers a second.

    Counted is from a tenth of the time on until its end: not while batches fill, nor while the last
    ones empty.
    """
    loop = asyncio.get_running_loop()
    begun: dict[Client, float] = {}
    done = loop.create_future()
    start = perf_counter()
    begin, end = start + seconds / 10, start + seconds
    before = within = last = 0.0
    open_ = connections

    def answered(client: Client, case: int, answer: bytes | None) -> None:
        nonlocal open_, before, within, last
        now = perf_counter()
        load.judge(case, answer, now - begun[client])
        if now <= end:
            before, within, last = load.good if now < begin else before, load.good, now
        if now >= end or load.sent >= most or answer is None:
            open_ -= 1
            if not open_ and not done.done():
                done.set_result(None)
            return
        begun[client] = now
        number = load.next()
        client.ask(number, load.requests[number])

    for _ in range(connections):
        _, client = await loop.create_connection(lambda: Client(answered), "127.0.0.1", port)
        begun[client] = perf_counter()
        number = load.next()
        client.ask(number, load.requests[number])
    await asyncio.wait_for(done, seconds + PATIENCE_S)
    return (within - before) / (last - begin) if last > begin else 0.0


async def opened(
    load: Load, port: int, connections: int, seconds: float, most: int, rate: float, seed: int
) -> float:
    """Requests at the times of a Poisson process; right answers a second."""
    loop = asyncio.get_running_loop()
    random = np.random.default_rng(seed)
    count = min(most, int(rate * seconds))
    times = np.cumsum(random.exponential(1 / rate, count))
    idle: deque[Client] = deque()
    waiting: deque[float] = deque()
    begun: dict[Client, float] = {}
    opening: list[asyncio.Task[None]] = []
    done = loop.create_future()
    left = count

    def send() -> None:
        while idle and waiting:
            client = idle.pop()
            if client.transport.is_closing():  # the server ends what is idle for seconds
                opening.append(loop.create_task(opened_again()))
                continue
            begun[client] = waiting.popleft()
            number = load.next()
            client.ask(number, load.requests[number])

    def answered(client: Client, case: int, answer: bytes | None) -> None:
        nonlocal left
        load.judge(case, answer, perf_counter() - begun[client])
        left -= 1
        if not left and not done.done():
            done.set_result(None)
        if answer is not None:
            idle.append(client)
            send()

    async def opened_again() -> None:
        _, client = await loop.create_connection(lambda: Client(answered), "127.0.0.1", port)
        idle.append(client)
        send()

    for _ in range(connections):
        await opened_again()
    start = perf_counter()
    place = 0

    def tick() -> None:
        nonlocal place
        now = perf_counter() - start
        while place < count and times[place] <= now:
            waiting.append(start + times[place])
            place += 1
        send()
        if place < count:
            loop.call_later(max(0.0, times[place] - now), tick)

    tick()
    await asyncio.wait_for(done, seconds * 2 + PATIENCE_S)
    return load.good / (perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("port", type=int)
    parser.add_argument("model")
    parser.add_argument("samples", type=Path)
    parser.add_argument("way", choices=("closed", "open"))
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--most", type=int, default=2_000_000)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with np.load(given.samples, allow_pickle=False) as arrays:
        inputs = {name[3:]: arrays[name] for name in arrays.files if name.startswith("in:")}
        answers = arrays["answers"]
    count = len(answers)
    requests = [
        request(given.model, {name: rows[i] for name, rows in inputs.items()}) for i in range(count)
    ]
    load = Load(requests, [row.reshape(-1) for row in answers], answers.dtype.name)
    common = (load, given.port, given.connections, given.seconds, given.most)
    work = closed(*common) if given.way == "closed" else opened(*common, given.rate, given.seed)
    start = perf_counter()
    try:
        import uvloop

        rate = uvloop.run(work)
    except ImportError:
        rate = asyncio.run(work)
    seconds = perf_counter() - start
    times = np.sort(np.array(load.times)) * 1e3
    quantiles = {
        f"p{q:g}_ms": float(np.quantile(times, q / 100)) if len(times) else None
        for q in (50, 90, 99, 99.9)
    }
    print(json.dumps(
        {"seconds": seconds, "sent": load.sent, "good": load.good, "errors": load.errors,
         "per_s": rate, "max_ms": float(times[-1]) if len(times) else None,
         **quantiles}
    ))  # fmt: skip


if __name__ == "__main__":
    main()
