"""Reports written into a folder: for people, for spreadsheets, for a later run."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgedl.benchmark.result import BenchReport
from edgedl.core.errors import EdgeError
from edgedl.core.program import TUNED
from edgedl.core.store import atomic_write, default_store, key_of
from edgedl.report.benched import text
from edgedl.report.compressed import Compressed
from edgedl.report.diagnosed import Diagnosis
from edgedl.report.diagnosed_page import page as diagnosed_page
from edgedl.report.diagnosed_page import to_markdown as diagnosed_markdown
from edgedl.report.formats import to_csv, to_markdown
from edgedl.report.made import Made
from edgedl.report.made_page import page as made_page
from edgedl.report.page import page

RAW = "samples.jsonl.gz"
HISTORY = "history.jsonl"
PLAN = "plan.yaml"


def write_bench(found: BenchReport, folder: str | Path, command: str = "") -> Path:
    """Write `report.html`, `.md`, `.csv`, `.txt`, `.json` and every raw sample into a folder.

    The folder is made where it is missing; runs that were reported into it before stay in its
    `history.jsonl`, and the page shows them.

    Returns:
        The page.

    Raises:
        EdgeError: the folder cannot be written.
    """
    folder = Path(folder)
    document = {**found.to_json(), "command": command}
    with _writing(folder):
        history = read_history(folder / HISTORY)
        texts = {
            "report.html": page(document, found.samples_ms(), history),
            "report.md": to_markdown(document),
            "report.csv": to_csv(document),
            "report.txt": text(document) + "\n",
            "report.json": json.dumps(document) + "\n",
            HISTORY: "".join(json.dumps(_brief(one)) + "\n" for one in (*history, document)),
        }
        _put(folder, texts)
        with atomic_write(folder / RAW) as work:
            _write_raw(found, work)
    return folder / "report.html"


def write_compressed(found: Compressed, folder: str | Path) -> None:
    """Write `report.txt`, `report.json` and `plan.yaml` into a folder, made where it is missing,
    and beside the plan the constants that training moved, where it did.

    What an earlier run left there goes where this one made none.

    Raises:
        EdgeError: the folder cannot be written.
    """
    folder = Path(folder)
    with _writing(folder):
        texts = {
            "report.txt": found.text() + "\n",
            "report.json": json.dumps(found.to_json(), indent=2) + "\n",
        }
        if found.plan is None:
            (folder / PLAN).unlink(missing_ok=True)
        else:
            texts[PLAN] = found.plan
        if found.tuned is None:
            (folder / TUNED).unlink(missing_ok=True)
        else:
            with atomic_write(folder / TUNED) as work:
                found.tuned.write(work)
        _put(folder, texts)


def write_made(found: Made, folder: str | Path) -> Path:
    """Write `report.html`, `report.txt` and `report.json` into a folder, made where it is missing.

    Returns:
        The page.

    Raises:
        EdgeError: the folder cannot be written.
    """
    folder = Path(folder)
    with _writing(folder):
        texts = {
            "report.html": made_page(found),
            "report.txt": found.text() + "\n",
            "report.json": json.dumps(found.to_json(), indent=1) + "\n",
        }
        _put(folder, texts)
    return folder / "report.html"


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Around the writing of a report: the folder is made, and what fails is said in one way."""
    hint = "name a folder that you may write to"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = f"the report cannot be written ({error.strerror})"
        raise EdgeError(reason, where=str(folder), hint=hint) from error
    except EdgeError as error:
        raise EdgeError(f"the report {error.message}", where=error.where, hint=hint) from error


def _put(folder: Path, texts: Mapping[str, str]) -> None:
    for name, content in texts.items():
        with atomic_write(folder / name) as work:
            work.write_text(content, encoding="utf-8")


def write_diagnosis(found: Diagnosis, folder: str | Path) -> Path:
    """Write `diagnosis.html`, `.md`, `.txt` and `.json` into a folder, which is made if need be.

    Returns:
        The page.

    Raises:
        EdgeError: the folder cannot be written.
    """
    folder = Path(folder)
    with _writing(folder):
        texts = {
            "diagnosis.html": diagnosed_page(found),
            "diagnosis.md": diagnosed_markdown(found),
            "diagnosis.txt": found.text() + "\n",
            "diagnosis.json": json.dumps(found.to_json()) + "\n",
        }
        _put(folder, texts)
    return folder / "diagnosis.html"


def keep_raw(found: BenchReport) -> Path | None:
    """Every raw sample into the store; None where nothing was timed."""
    if found.comparison is None:
        return None
    key = key_of(bench=found.time, rows=[row.digest for row in found.rows])
    folder = default_store().make(key, lambda work: _write_raw(found, work / RAW))
    return folder / RAW


def _write_raw(found: BenchReport, path: Path) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for line in found.raw_lines():
            file.write(line + "\n")


def read_history(path: Path) -> list[dict[str, Any]]:
    """Earlier documents, oldest first; lines that are none are left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            document = json.loads(line)
        except ValueError:
            continue
        if isinstance(document, dict) and "rows" in document:
            found.append(document)
    return found


def _brief(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the history shows of a run."""
    keys = (
        "artifact",
        "engine",
        "precision",
        "threads",
        "valid",
        "latency_ms",
        "bytes",
        "accuracy",
    )
    rows = [{key: row.get(key) for key in keys} for row in document["rows"]]
    return {
        "format_version": document.get("format_version"),
        "time": document.get("time"),
        "rows": rows,
        "machine": {"processor": document.get("machine", {}).get("processor")},
    }
