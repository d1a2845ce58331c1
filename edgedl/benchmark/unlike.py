"""Whether figures of two machines may stand beside one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DECISIVE = {
    "processor": "processor",
    "architecture": "architecture",
    "usable_cores": "usable cores",
    "governor": "clock governor",
    "turbo": "turbo",
    "power_mode": "power mode",
}


def unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, ...]:
    """Why results of two machines, given as JSON documents, must not be compared as a pair.

    What either document does not know is not held against them.
    """
    sentences = [
        f"{words}: {a[key]} against {b[key]}"
        for key, words in DECISIVE.items()
        if a.get(key) is not None and b.get(key) is not None and a[key] != b[key]
    ]
    if "quota_cores" in a and "quota_cores" in b and a["quota_cores"] != b["quota_cores"]:
        both = (a["quota_cores"], b["quota_cores"])
        words = " against ".join("none" if q is None else f"{q:g} cores" for q in both)
        sentences.append(f"quota: {words}")
    caps = [one["isa_cap"] or "none" for one in (a, b) if "isa_cap" in one]
    if len(set(caps)) > 1:
        sentences.append(f"instruction set cap: {caps[0]} against {caps[1]}")
    if a.get("isa") and b.get("isa") and set(a["isa"]) != set(b["isa"]):
        one = " ".join(flag for flag in a["isa"] if flag not in b["isa"]) or "none"
        two = " ".join(flag for flag in b["isa"] if flag not in a["isa"]) or "none"
        sentences.append(f"instruction sets: {one} more against {two} more")
    if a.get("gpus") and b.get("gpus") and sorted(a["gpus"]) != sorted(b["gpus"]):
        sentences.append(f"GPUs: {', '.join(a['gpus'])} against {', '.join(b['gpus'])}")
    return tuple(sentences)


def library_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, ...]:
    """The libraries that two machines, given as JSON documents, both have in unlike versions."""
    one, two = a.get("libraries") or {}, b.get("libraries") or {}
    return tuple(
        f"{name}: {one[name]} against {two[name]}"
        for name in one
        if name in two and one[name] != two[name]
    )
