"""Commands that go on where an engine brings the process down."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

CRASHES = tuple(
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")
    if hasattr(signal, name)
)
MOST_CRASHES = 5


def supervised(run: Callable[[], int], say: Callable[[str], None]) -> int:
    """The exit status of `run`, called in a process of its own and again where an engine's crash
    ended that: what crashed is noted by then, and left out the next time.

    Where processes cannot be forked, `run` is called here.
    """
    if not hasattr(os, "fork"):
        return run()
    for _ in range(MOST_CRASHES):
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if not child:
            status = 1
            try:
                status = run()
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)
        try:
            _, ended = os.waitpid(child, 0)
        except KeyboardInterrupt:
            # The child was interrupted as well, and says so.
            _, ended = os.waitpid(child, 0)
        if not os.WIFSIGNALED(ended):
            return os.WEXITSTATUS(ended)
        number = os.WTERMSIG(ended)
        if number not in CRASHES:
            return 128 + number
        say(f"an engine crashed ({signal.Signals(number).name}); going on without what it was at")
    return 1
