"""Run a command in a process of its own, watched: seconds, peak memory, and limits on both."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

POLL_SECONDS = 0.05
PROC = Path("/proc")
ERROR = re.compile(r"(error|[\w.]*(Error|Exception|Fail|Failed))\b:")
MOST_CHARACTERS = 300


@dataclass(frozen=True)
class Finished:
    """How a command ended.

    `peak_rss_bytes` is the most that it and its descendants held together, looked at twenty times
    a second; `problem` says why it counts as failed, and is empty where it does not.
    """

    stdout: str
    seconds: float
    peak_rss_bytes: int
    problem: str

    def last_line(self) -> str:
        lines = [line for line in self.stdout.splitlines() if line.strip()]
        return lines[-1] if lines else ""


def watched(
    command: Sequence[str],
    *,
    limit_seconds: float,
    limit_bytes: int | None = None,
    environment: Mapping[str, str] | None = None,
    accepted: Sequence[int] = (0,),
) -> Finished:
    """Run a command, and end it where it takes longer or holds more than the limits."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        begun = perf_counter()
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            env=None if environment is None else dict(environment), start_new_session=True,
        )  # fmt: skip
        peak, ended = 0, ""
        try:
            while process.poll() is None and not ended:
                peak = max(peak, _held(process.pid))
                if perf_counter() - begun > limit_seconds:
                    ended = f"not finished in {limit_seconds:.0f} s"
                elif limit_bytes is not None and peak > limit_bytes:
                    ended = f"held more than {limit_bytes / 1e9:.1f} GB"
                else:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(POLL_SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        seconds = perf_counter() - begun
        stdout.seek(0)
        stderr.seek(0)
        said = stdout.read()
        problem = ended or _problem(process.returncode, stderr.read(), accepted)
    return Finished(said, seconds, peak, problem)


def limit_of_memory() -> int | None:
    """Nine tenths of the memory that can be had now; more would have the system end processes."""
    meminfo = PROC / "meminfo"
    if not meminfo.exists():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(0.9 * int(lines["MemAvailable"].split()[0]) * 1024)


def without_paths(text: str) -> str:
    """A message without the folders of this machine."""
    return re.sub(r"(?<![\w.:/])/(?:[\w.@+~-]+/)+", "", text)


def _problem(status: int, stderr: str, accepted: Sequence[int]) -> str:
    if status in accepted:
        return ""
    if status < 0:
        return f"its process went down ({signal.Signals(-status).name})"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    starts = [i for i, line in enumerate(lines) if ERROR.match(line)]
    if not starts:
        return without_paths((lines or [f"status {status}"])[-1])[:MOST_CHARACTERS]
    first, *rest = lines[starts[-1] :]
    if first.endswith(":"):  # where in the engine's source it was raised; the reason follows
        first = next((line for line in rest if not line.endswith(":")), first)
    return without_paths(first.removeprefix("error: "))[:MOST_CHARACTERS]


def _held(pid: int) -> int:
    """Bytes of a process, at its own peak if that is more, with all of its descendants."""
    alone = 0
    together = 0
    for i, member in enumerate(_tree(pid)):
        try:
            lines = (PROC / str(member) / "status").read_text().splitlines()
        except OSError:
            continue
        kilobytes = {
            key: int(rest.split()[0])
            for key, _, rest in (line.partition(":") for line in lines)
            if key in ("VmHWM", "VmRSS")
        }
        together += kilobytes.get("VmRSS", 0)
        alone = kilobytes.get("VmHWM", 0) if i == 0 else alone
    return 1024 * max(alone, together)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    children: list[str] = []
    # Any of them may end while it is looked at.
    with contextlib.suppress(OSError):
        for task in (PROC / str(pid) / "task").iterdir():
            children += (task / "children").read_text().split()
    for child in children:
        yield from _tree(int(child))
