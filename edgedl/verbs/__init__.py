"""The verbs beside `compress`: each opens files, calls one room, and gives plain values."""

from __future__ import annotations

from edgedl.verbs.answers import diagnose, evaluate
from edgedl.verbs.looking import doctor, inspect
from edgedl.verbs.running import run
from edgedl.verbs.timing import bench, bench_against

__all__ = ["bench", "bench_against", "diagnose", "doctor", "evaluate", "inspect", "run"]
