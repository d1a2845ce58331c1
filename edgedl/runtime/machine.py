"""The processor that this is, as far as what is compiled for it hangs on it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgedl.core.isa import ISA_VARIABLE

CPUINFO = Path("/proc/cpuinfo")
# What tells processors apart there, on x86 and on Arm, where each core names its own kind.
TELLING = ("vendor_id", "cpu family", "model", "model name", "stepping")
TELLING_OF_ARM = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part")
FLAGS = ("flags", "Features")


@dataclass(frozen=True)
class Processor:
    """A kind of processor with its instruction sets.

    Attributes:
        name: in words.
        flags: the kernel's names of what it can do; empty where the system does not tell.
        fingerprint: SHA-256 of all that tells it apart, in hex: kind, flags, architecture, system,
            and the cap on instruction sets that is set for this process.
    """

    name: str
    flags: frozenset[str]
    fingerprint: str


def this_processor() -> Processor:
    """The processor of this process, read once for each cap on its instruction sets."""
    return _processor(CPUINFO, os.environ.get(ISA_VARIABLE, ""))


@cache
def _processor(cpuinfo: Path, cap: str) -> Processor:
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        text = ""
    fields: dict[str, set[str]] = {}
    for key, value in re.findall(r"^([^:\n]+?)[ \t]*:[ \t]*(.*)$", text, re.MULTILINE):
        if key in (*TELLING, *TELLING_OF_ARM, *FLAGS):
            fields.setdefault(key, set()).add(value.strip())
    flags = frozenset(
        flag for key in FLAGS for line in fields.pop(key, ()) for flag in line.split()
    )
    kind = {key: sorted(values) for key, values in fields.items()}
    system = [platform.system(), platform.machine(), platform.processor()]
    told = json.dumps([kind, sorted(flags), system, cap], sort_keys=True)
    names = kind.get("model name") or kind.get("CPU part") or [platform.processor()]
    name = " and ".join(names) or platform.machine()
    return Processor(name, flags, hashlib.sha256(told.encode()).hexdigest())
