"""Small facts that were measured once, kept as JSON lines in the store."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgedl
from edgedl.core.store import default_root, key_of

MOST_BYTES = 8 << 20
STALE_SECONDS = 180 * 86_400


@dataclass(frozen=True)
class Ledger:
    """A file that lines are added to, and none is ever changed in.

    It is there to save time alone: a line that is damaged, as a kill may leave it, is passed over,
    and a store that cannot be written keeps nothing. A file that passes `most_bytes` is cut down to
    its latest lines, half of that, and where one is begun, those of its kind go that nothing was
    added to for half a year; what another process adds at that moment may be lost.
    """

    path: Path
    most_bytes: int = MOST_BYTES

    @classmethod
    def of(cls, kind: str, **parts: Any) -> Ledger:
        """The ledger of this kind for what the parts, plain JSON values, make together.

        Another version of edgedl, which may measure or count otherwise, has another.
        """
        key = key_of(edgedl=edgedl.__version__, **parts)
        return cls(default_root() / "ledgers" / kind / f"{key[:32]}.jsonl")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every line that is a JSON object, oldest first."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return
        for line in lines:
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict):
                    yield row

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add lines, all of them in one write; a row that holds NaN or infinity is left out."""
        lines = []
        for row in rows:
            with contextlib.suppress(ValueError):
                lines.append(json.dumps(row, allow_nan=False) + "\n")
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.exists():
                self._tidy()
            with self.path.open("ab+") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - 1))
                whole = file.read(1) in (b"", b"\n")
                file.write(("" if whole else "\n").encode() + "".join(lines).encode())
                size = file.tell()
            if size > self.most_bytes:
                self._trim()

    def _trim(self) -> None:
        whole = self.path.read_bytes()
        kept = whole[whole.find(b"\n", len(whole) - self.most_bytes // 2 - 1) + 1 :]
        work = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")
        try:
            work.write_bytes(kept)
            work.replace(self.path)
        finally:
            work.unlink(missing_ok=True)

    def _tidy(self) -> None:
        now = time.time()
        for path in self.path.parent.glob("*.jsonl"):
            with contextlib.suppress(OSError):
                if now - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()
