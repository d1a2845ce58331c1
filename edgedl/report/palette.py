"""Colours that hold for colour-blind readers (after Okabe and Ito, 2008), on white and on black."""

from __future__ import annotations

from collections.abc import Mapping

# The first series is the baseline's, and neutral.
LIGHT: Mapping[str, str] = {
    "paper": "#ffffff", "panel": "#f5f6f7", "ink": "#17191c", "muted": "#5a6068",
    "rule": "#dcdfe3", "warn": "#b24a00", "warn-paper": "#fdf3ea",
    "s0": "#6b727a", "s1": "#0072b2", "s2": "#d55e00", "s3": "#00805e", "s4": "#b0528a",
    "s5": "#a87400", "s6": "#3b8fc4", "s7": "#6a51a3", "on": "#ffffff",
}  # fmt: skip
DARK: Mapping[str, str] = {
    "paper": "#121416", "panel": "#1b1e22", "ink": "#e8eaed", "muted": "#a0a7af",
    "rule": "#30353b", "warn": "#ff9d57", "warn-paper": "#2a1f16",
    "s0": "#9aa2ab", "s1": "#56b4e9", "s2": "#ff8c42", "s3": "#2fc29b", "s4": "#e394c4",
    "s5": "#efb73e", "s6": "#8ccbf5", "s7": "#b7a4f0", "on": "#121416",
}  # fmt: skip
SERIES = 8

CONVERSIONS = frozenset(
    {
        "Cast", "CastLike", "Convert", "ConvertLike", "QuantizeLinear", "DequantizeLinear",
        "DynamicQuantizeLinear", "FakeQuantize", "Quantize", "Dequantize", "Reorder",
        "ReorderInput", "ReorderOutput", "conversion",
    }
)  # fmt: skip
VERDICTS: Mapping[str, str] = {"faster": "s1", "slower": "s2"}


def series(i: int) -> str:
    """The colour's name of the row at a position."""
    return f"s{i % SERIES}"


def of_verdict(verdict: str) -> str:
    """The colour's name of a verdict."""
    return VERDICTS.get(verdict, "s0")


def of_work(kind: str, precision: str) -> tuple[str, str]:
    """The colour's name of an operator, and what the colour stands for."""
    if kind in CONVERSIONS:
        return "s2", "conversion"
    if precision.endswith(("int8", "i8", "u8")):
        return "s1", "int8"
    if "int4" in precision or precision in ("i4", "u4"):
        return "s7", "int4"
    if precision in ("float16", "bfloat16", "f16", "bf16"):
        return "s3", "16 bit"
    if precision in ("float32", "f32", "float"):
        return "s0", "float32"
    return "s5", "other"
