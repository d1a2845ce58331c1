"""The socket that the service listens on, or a plain word on why there is none."""

from __future__ import annotations

import errno
import socket
import stat
from pathlib import Path

from edgedl.core.errors import BadOption, Unsupported


def tcp(host: str, port: int) -> socket.socket:
    """A socket bound to an address; port 0 is any free one.

    Raises:
        BadOption: the host is none of this machine's. Unsupported: the port is taken or reserved.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise _no_host(host) from error
    family, kind, protocol, _, address = found[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise _taken(host, port) from error
        if error.errno == errno.EACCES:
            raise Unsupported(
                f"port {port} is reserved for the system", hint="take one above 1023"
            ) from error
        raise _no_host(host) from error
    return made


def unheard(listener: socket.socket, error: OSError) -> Unsupported:
    """Why a bound socket cannot be listened on: another may have been bound to its address before
    either listened."""
    if error.errno == errno.EADDRINUSE and listener.family != socket.AF_UNIX:
        host, port = listener.getsockname()[:2]
        return _taken(host, port)
    reason = (error.strerror or str(error)).lower()
    return Unsupported(f"nothing can be listened to here ({reason})", hint="give another address")


def _taken(host: str, port: int) -> Unsupported:
    return Unsupported(f"port {port} of {host} is taken", hint="`--port 0` takes any free one")


def _no_host(host: str) -> BadOption:
    return BadOption(
        f"`{host}` is no address of this machine", hint="`127.0.0.1`, or `0.0.0.0` for all of them"
    )


def unix(path: Path) -> socket.socket:
    """A socket bound to a path; what a service that ended badly left there is taken away.

    Raises:
        Unsupported: another service listens there. BadOption: no socket can be made there.
    """
    _clear(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(str(path))
    except OSError as error:
        made.close()
        reason = error.strerror or str(error)
        raise BadOption(
            f"no socket can be made at `{path}` ({reason.lower()})",
            hint="a short path in a folder that is there",
        ) from error
    return made


def _clear(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise BadOption(f"`{path}` is a file, and no socket", hint="give another path")
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        try:
            other.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise Unsupported(f"another service listens at `{path}`", hint="give another path")
