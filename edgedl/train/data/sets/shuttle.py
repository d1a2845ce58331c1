"""Anomalies in the telemetry of NASA's shuttle: 49,097 rows of 9 sensors, 7.15 % anomalous.

Statlog (Shuttle), classes 2, 3, 5, 6 and 7 against 1, as ODDS has it; BSD. A network learns to
reconstruct normal rows alone.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from edgedl.core.errors import BadSamples
from edgedl.core.progress import Progress, silent
from edgedl.train.data.dataset import Found
from edgedl.train.data.fetch import Package, obtain
from edgedl.train.data.sets.variant import no_variants
from edgedl.train.data.settings import Data, replaced
from edgedl.train.data.table import from_table
from edgedl.train.data.table_files import Columns
from edgedl.train.data.unpack import gunzip

INSIDE = "river/datasets/shuttle.csv.gz"
PACKAGE = Package(
    "pip",
    "river",
    "0.26.1",
    {INSIDE: "1ed4bfa77233d95bff2c8ab2482725d2d800410daedf5919ad80ec6faf60ff59"},
    archive="6a11e1a9749beec3ea138efeb0205b2c5cea8d424e9deee306c8980faec01bef",
    # the file is the same in each of the package's wheels; this is one that everybody can fetch
    platform=("--platform=manylinux_2_28_x86_64", "--python-version=3.11",
              "--implementation=cp", "--abi=cp311"),
)  # fmt: skip
LABEL, NORMAL = "anomaly", "0"
MOST_BYTES = 1 << 26


def find(settings: Data, *, cache: Path, progress: Progress = silent) -> Found:
    """The rows; `task: classification` makes of them two classes instead.

    Raises:
        BadSamples: the file is damaged. EdgeError: the package cannot be fetched.
    """
    no_variants(settings)
    files = obtain(PACKAGE, settings.folder, cache, progress)
    table = read_rows(files[INSIDE])
    task = settings.task or "reconstruction"
    normal = NORMAL if task == "reconstruction" else None
    return from_table(table, replaced(settings, label=LABEL, task=task, normal=normal))


def read_rows(path: Path) -> Columns:
    """The table.

    Raises:
        BadSamples: it is damaged.
    """
    text = gunzip(path, MOST_BYTES).decode("utf-8", "replace")
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    if len(rows) < 2 or LABEL not in rows[0] or {len(row) for row in rows} != {len(rows[0])}:
        message = f"is no table with a column `{LABEL}`"
        raise BadSamples(message, where=str(path), hint="fetch the set anew")
    columns = zip(*rows[1:], strict=True)
    cells = {name: list(column) for name, column in zip(rows[0], columns, strict=True)}
    return Columns(cells, range(2, len(rows) + 1), "shuttle")
