"""Forecasting: electric power demand in Italy, 1,096 days of 24 hours (Keogh et al., 2006); BSD."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgedl.core.errors import BadValue
from edgedl.core.progress import Progress, silent
from edgedl.runtime.process.series import Series
from edgedl.train.data.dataset import Found, Prepared
from edgedl.train.data.rows import prepared
from edgedl.train.data.sets.archive_series import archived
from edgedl.train.data.sets.variant import no_variants
from edgedl.train.data.settings import Data

HOURS = 24
HORIZON = 6
DOUBT = (
    "the archive gives each day with mean 0 and deviation 1 over its 24 hours, and days in no known"
    " order: a forecast of raw demand, or of a later year, may be worse"
)


def find(settings: Data, *, cache: Path, progress: Progress = silent) -> Found:
    """The last hours of a day from those before, six of them unless `horizon` says how many.

    The archive's split is for another task and is not kept: of 1,096 days it trains on 67.

    Raises:
        BadSamples: a file is damaged. BadValue: `horizon` leaves nothing to look at. EdgeError:
            the package cannot be fetched.
    """
    no_variants(settings)
    horizon = settings.horizon or HORIZON
    seen = settings.length or HOURS - horizon
    if not 1 <= seen <= HOURS - horizon:
        message = f"{seen} hours seen and {horizon} to forecast, of {HOURS}"
        raise BadValue(message, keys=("horizon",), hint="24 together at most")
    (first, _), (second, _) = archived("ItalyPowerDemand", settings, cache, progress)
    days = np.stack([*first, *second])[:, :, 0]
    start = HOURS - horizon - seen
    past, future = days[:, start : HOURS - horizon, None], days[:, HOURS - horizon :]

    def prepare(train: np.ndarray) -> Prepared:
        mean, std = float(past[train].mean()), float(past[train].std())
        return prepared(past, "hours", Series(1, seen, None, (mean,), (std,)), "power_demand")

    return Found(
        count=len(days),
        prepare=prepare,
        labels=future.astype(np.float32),
        task="regression",
        outputs=horizon,
        where="power_demand",
        doubts=(DOUBT,),
    )
