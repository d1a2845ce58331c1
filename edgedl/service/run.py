"""From bundles to a service that listens, until it is told to end; then it finishes what it has."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from edgedl import runtime
from edgedl.core.errors import BadOption
from edgedl.core.registry import installed, load
from edgedl.service import sockets
from edgedl.service.app import application
from edgedl.service.batcher import Policy
from edgedl.service.model import Model, Service, Settings
from edgedl.service.sockets import unheard

HEADS = "edgedl.service.heads:BoundedHeads"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LAST_WORDS_S = 2.0
KEEP_ALIVE_S = 60
SWITCH_S = 0.0005  # how long a worker back from the engine waits for the event loop to give way

Told = Callable[[str], None]


class Server(uvicorn.Server):
    """Uvicorn, which finishes on SIGTERM or SIGINT what the service has, and ends the service.

    Attributes:
        unfinished: requests that the time for finishing did not allow.
    """

    def __init__(self, service: Service, *, listening: Callable[[], None]) -> None:
        quick = installed("httptools")  # h11, which it falls back to, bounds heads by itself
        super().__init__(
            uvicorn.Config(
                application(service),
                http=load(HEADS, "`edgedl serve`") if quick else "h11",
                loop="uvloop" if installed("uvloop") else "asyncio",
                ws="none",
                lifespan="on",
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=round(service.settings.drain_s + LAST_WORDS_S),
            )
        )
        self.unfinished = 0
        self._service = service
        self._listening = listening

    def stop(self) -> None:
        """Begin to end; from any thread."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so.

        Raises:
            Unsupported: the address was taken since it was bound.
        """
        for one in sockets or ():
            try:
                one.listen(self.config.backlog)  # uvloop does not say where it cannot
            except OSError as error:
                raise unheard(one, error) from error
        await super().startup(sockets)
        self._listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, finish what is there within the time, end."""
        drained = asyncio.create_task(self._service.drain())
        await super().shutdown(sockets)
        self.unfinished = await drained
        self._service.stop()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT begin the end; uvicorn's own way would die of them afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        told = (signal.SIGTERM, signal.SIGINT)
        before = {one: signal.signal(one, lambda *_: self._told()) for one in told}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _told(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def named(bundles: Sequence[str | Path] | Mapping[str, str | Path]) -> dict[str, Path]:
    """Bundles by the names that they are served under: `NAME=BUNDLE`, or the file's own name.

    Raises:
        BadOption: two have one name, or a name that does not fit into an address.
    """
    if isinstance(bundles, Mapping):
        pairs = [(name, Path(path)) for name, path in bundles.items()]
    else:
        pairs = [_pair(str(bundle)) for bundle in bundles]
    found: dict[str, Path] = {}
    for name, path in pairs:
        if not NAME.fullmatch(name):
            raise BadOption(
                f"`{name}` is no name for an address",
                hint=f"letters, digits, `.`, `_` and `-`, as in `my-model={path}`",
            )
        if name in found:
            raise BadOption(
                f"two bundles are named `{name}`", hint=f"`other={path}` names one anew"
            )
        found[name] = path
    if not found:
        raise BadOption("no bundle is given", hint="edgedl serve model.edl")
    return found


def _pair(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if separator and NAME.fullmatch(name) and not Path(text).exists():
        return name, Path(path)
    return Path(text).stem, Path(text)


def spare_cores() -> int:
    """The cores that this process may use, less one for the service itself; at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) - 1)


def serve(
    bundles: str | Path | Sequence[str | Path] | Mapping[str, str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    unix: str | Path | None = None,
    threads: int | None = None,
    settings: Settings | None = None,
    told: Told | None = None,
    **open_options: Any,
) -> int:
    """Serve bundles by the Open Inference Protocol, version 2, until SIGTERM or SIGINT.

    Args:
        bundles: a file, several, or files by name.
        host: the address that is listened on; nobody is asked who they are, and nothing is
            encrypted, so one that others reach belongs behind a proxy.
        port: 0 for any free one.
        unix: the path of a Unix socket, instead of host and port.
        threads: processor threads for one call; all cores but one, divided among the workers,
            where None.
        settings: how requests are put together, and limits.
        told: is called with a line for people: what is served and where.
        open_options: further arguments of `edgedl.open`; `at_once` is as many as there are workers
            where it is absent, and `finite` is as that of the settings.

    Returns:
        How many requests the time for finishing did not allow; 0 after an orderly end.

    Raises:
        EdgeError: a bundle cannot be opened, or the address is not to be had.
    """
    settings = settings or Settings()
    if open_options.pop("finite", False):
        settings = replace(settings, finite=True)
    workers = settings.policy.workers
    options = {"at_once": workers, **open_options}
    options["threads"] = threads or max(1, spare_cores() // workers)
    say = told or (lambda _: None)
    paths = named([bundles] if isinstance(bundles, (str, Path)) else bundles)
    with ExitStack() as stack:
        place = Path(unix) if unix is not None else None
        listener = sockets.tcp(host, port) if place is None else sockets.unix(place)
        stack.callback(listener.close)
        if place is not None:
            stack.callback(place.unlink, missing_ok=True)
        address = f"unix:{place}" if place is not None else _address(listener)
        models = _opened(paths, settings, say, options)
        service = Service(models, settings)
        stack.push(partial(_stopped, service))
        server = Server(service, listening=lambda: say(f"listening on {address}"))
        stack.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(SWITCH_S)
        server.run(sockets=[listener])
        return server.unfinished


def _stopped(service: Service, kind: type[BaseException] | None, *_: object) -> None:
    """End a service whose server did not, since it failed."""
    if kind is not None:
        service.stop()


def _opened(
    paths: Mapping[str, Path], settings: Settings, say: Told, options: Mapping[str, Any]
) -> list[Model]:
    """A model for each bundle, all or none of them open."""
    models: list[Model] = []
    with ExitStack() as opened:
        for name, path in paths.items():
            session = runtime.open(path, **options)
            opened.callback(session.close)
            found = session.opened
            for skipped in found.skipped:
                say(f"note: {name}: skipped {skipped}")
            platform = f"{found.engine}_{found.format.partition('+')[0]}"
            models.append(Model.of(name, session, settings, platform))
            say(f"{name}: {found.engine} {found.precision}, {_manner(models[-1])}")
        opened.pop_all()  # the service closes them, once no worker runs one
    return models


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _manner(model: Model) -> str:
    policy: Policy = model.policy
    if model.alone is not None:
        return f"one request a call: {model.alone}"
    return (
        f"up to {policy.max_batch} samples a call, waiting {policy.max_wait_s * 1e3:g} ms for them"
    )
