"""Files of the kernel: read as text and numbers, and quiet where they are not."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/")
CPU = "sys/devices/system/cpu"


def text(path: Path) -> str:
    """A file of the kernel, stripped; empty where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip().strip("\0")
    except OSError:
        return ""


def number(path: Path) -> int | None:
    """A file that holds one whole number; None where it cannot be read or holds something else."""
    try:
        return int(text(path))
    except ValueError:
        return None


def core_list(listing: str) -> tuple[int, ...]:
    """The numbers in a list of the kernel's, such as `0-3,8`."""
    cores: list[int] = []
    for part in listing.split(","):
        first, _, last = part.strip().partition("-")
        if first:
            cores.extend(range(int(first), int(last or first) + 1))
    return tuple(cores)
