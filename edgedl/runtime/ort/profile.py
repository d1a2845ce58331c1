"""What onnxruntime ran, and for how long, read from the profile that it writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.runtime.session import Operator

WARM_CALLS = 10
PROCESSOR = "CPUExecutionProvider"
CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})
# What onnxruntime puts where a tensor goes from a GPU to the processor, or back.
COPIES = frozenset({"MemcpyToHost", "MemcpyFromHost"})
ON_CPU = " on the CPU"
KERNEL = "_kernel_time"
RUN_ENDS = '"model_run"'

Event = Mapping[str, Any]


def profiling(options: Any, prefix: str) -> Any:
    """The same `SessionOptions`, of a session that writes a profile."""
    options.enable_profiling = True
    options.profile_file_prefix = prefix
    return options


def profiled(
    opened: Callable[[str], Any],
    feed: Mapping[str, np.ndarray],
    runs: int,
    *,
    on_gpu: bool = False,
) -> list[Operator]:
    """The operators of a model, by the profile of a session of its own.

    Args:
        opened: gives the `InferenceSession` that writes its profile under this prefix.
        runs: how many are timed, after a warm-up; one alone is not timed.
        on_gpu: whether the session is to run on a GPU, as `operators_of` has it.
    """
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        session = opened(str(Path(folder) / "profile"))
        warm = 0 if runs == 1 else WARM_CALLS
        for _ in range(warm + runs):
            session.run(None, dict(feed))
        profile = Path(session.end_profiling())
        del session
        return operators_of(kernels_of(read_events(profile, warm)), on_gpu=on_gpu)


def _precision(kind: str, types: set[str]) -> str:
    if kind in CONVERSIONS or kind in COPIES:
        return "conversion"
    if types & {"int8", "uint8"} or kind.startswith("DynamicQuantize"):
        return "int8"
    if "float16" in types:
        return "float16"
    if "bfloat16" in types:
        return "bf16"
    return "float32" if types & {"float", "double"} else "integer"


def read_events(profile: Path, skipped: int) -> Iterator[Event]:
    """The kernels and ends of runs in a profile, one event a line, from a run on; a profile of
    thousands of kernels is never in memory whole."""
    with profile.open(encoding="utf-8") as lines:
        for line in lines:
            if skipped > 0:
                skipped -= RUN_ENDS in line
            elif KERNEL in line or RUN_ENDS in line:
                yield json.loads(line.rstrip().rstrip(","))


def kernels_of(events: Iterable[Event]) -> Iterator[list[tuple[Event, int]]]:
    """Of each run its kernels as they ended, with the microseconds that were theirs alone.

    A kernel with a body (`If`, `Loop`) ends after the body's own kernels and begins before them.
    The time from the first one's start to the last one's end is taken off its own, as nobody's are
    the gaps between kernels elsewhere, which are the profiler's for the most part.
    """
    kernels: list[tuple[Event, int]] = []
    ended: list[Event] = []
    for event in events:
        if event.get("name") == "model_run":
            yield kernels
            kernels, ended = [], []
        elif event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            body = len(ended)
            while body and ended[body - 1]["ts"] >= event["ts"]:
                body -= 1
            span = ended[-1]["ts"] + ended[-1]["dur"] - ended[body]["ts"] if ended[body:] else 0
            ended[body:] = [event]
            kernels.append((event, max(event["dur"] - span, 0)))


def operators_of(
    runs: Iterable[Sequence[tuple[Event, int]]], *, on_gpu: bool = False
) -> list[Operator]:
    """The operators of the last run, timed by the median over the runs where there are several.

    Args:
        on_gpu: one that the processor computed is a fallback then, and its kind says so.
    """
    times: dict[tuple[str, ...], list[int]] = {}
    last: Sequence[tuple[Event, int]] = []
    count = 0
    for kernels in runs:
        for event, own in kernels:
            mine = times.setdefault(_identity(event), [])
            mine += [0] * (count + 1 - len(mine))
            mine[count] += own
        last, count = kernels, count + 1
    found: dict[tuple[str, ...], Operator] = {}
    events = [event for event, _ in last]
    for before, event, after in zip([None, *events], events, [*events[1:], None], strict=False):
        identity = _identity(event)
        arguments = event["args"]
        left = on_gpu and arguments.get("provider") == PROCESSOR
        found[identity] = Operator(
            arguments["op_name"] + (ON_CPU if left else ""),
            _precision(arguments["op_name"], set().union(*_shapes(event, "input"))),
            event["name"].removesuffix(KERNEL),
            float(np.median(times[identity])) if count > 1 else None,
            left or (before is not None and after is not None and _is_island(before, event, after)),
        )
    return list(found.values())


def _identity(event: Event) -> tuple[str, ...]:
    """Bodies number their nodes afresh, and nodes that onnxruntime adds may share a name."""
    return event["name"], str(event["args"].get("node_index")), event["args"]["op_name"]


def _shapes(event: Event, side: str) -> list[dict[str, list[int]]]:
    return [entry for entry in event["args"].get(f"{side}_type_shape", []) if entry]


def _is_island(before: Event, event: Event, after: Event) -> bool:
    """Whether a kernel reads what the conversion before it made, and makes what the next reads."""
    kinds = [neighbour["args"]["op_name"] for neighbour in (before, after)]
    if kinds != ["DequantizeLinear", "QuantizeLinear"] or event["args"]["op_name"] in CONVERSIONS:
        return False
    read, made = _shapes(event, "input"), _shapes(event, "output")
    reads = any(entry in read for entry in _shapes(before, "output"))
    return reads and made[:1] == _shapes(after, "input")[:1]
