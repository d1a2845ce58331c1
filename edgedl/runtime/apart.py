"""A payload tried in a process of its own, which may crash there.

    python -m edgedl.runtime.apart BUNDLE PAYLOAD THREADS GOLDEN

Exit status 0: it opens and gives its golden answers; 1: it does not, and the last line of stdout
says why, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from edgedl.core.errors import BadBundle, EdgeError, EngineFailed

SECONDS = 600
# The folder that edgedl lies in, from which its modules come anyway.
ROOT = Path(__file__).resolve().parents[2]


def tried_apart(path: Path, payload: int, threads: int | None, golden: str, identity: str) -> None:
    """Open a payload in a fresh process, compare its golden answers there, and leave it.

    Args:
        payload: which one, counted from 0.
        identity: of the bundle that was opened here; no other is opened there.

    Raises:
        EngineFailed: it does not open or answer there, its engine crashed, or it took ten minutes.
    """
    words = [sys.executable, "-m", __name__, str(path.resolve()), identity, str(payload)]
    try:
        done = subprocess.run(
            [*words, str(threads or 0), golden],
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
            cwd=ROOT,
            env=surroundings(),
        )
    except subprocess.TimeoutExpired as error:
        raise EngineFailed(f"it did not open within {SECONDS} s") from error
    except OSError as error:
        raise EngineFailed(f"no process to try it in ({error.strerror})") from error
    if done.returncode:
        raise EngineFailed(_reason(done))


def surroundings() -> dict[str, str]:
    """The environment of a child process that imports what this one does, and nothing out of the
    folder that it happens to be started in (from Python 3.11 on)."""
    places = os.pathsep.join(
        str(Path(one).absolute()) for one in (*filter(None, sys.path), str(ROOT))
    )
    return {**os.environ, "PYTHONPATH": places, "PYTHONSAFEPATH": "1"}


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        names = {one.value: one.name for one in signal.Signals}
        return f"its engine crashed in opening ({names.get(-done.returncode, -done.returncode)})"
    try:
        return str(json.loads(done.stdout.splitlines()[-1])["reason"])
    except (IndexError, KeyError, TypeError, ValueError):
        return f"its engine ended the process in opening (status {done.returncode})"


def main(words: list[str]) -> int:
    """Try what the words say; the exit status."""
    from edgedl.runtime.bundle import read_bundle
    from edgedl.runtime.opening import GOLDEN_CHECKS, Way, open_first

    path, identity, payload, threads, golden = words
    check = next(one for one in GOLDEN_CHECKS if one == golden)
    try:
        bundle = read_bundle(path, sparing=True)
        if bundle.identity != identity:
            raise BadBundle("it was replaced while it was opened")
        open_first(bundle, [bundle.payloads[int(payload)]], Way(int(threads) or None, check))
    except EdgeError as error:
        print(json.dumps({"reason": error.message}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
