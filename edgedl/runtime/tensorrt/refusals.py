"""What TensorRT's parser refuses: node, operator, the reason, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgedl.core.errors import EngineFailed

MOST_TOLD = 5
AGAIN = "quantize it for TensorRT: `edgedl compress MODEL --int8 --force --target tensorrt`"
# By the parser's code; the descriptions are C++ assertions for the most part.
REASONS = {
    "UNSUPPORTED_NODE": "it has no layer for this operator",
    "UNSUPPORTED_NODE_ATTR": "it does not take this operator with this attribute",
    "UNSUPPORTED_NODE_INPUT": "it does not take this operator with such an input",
    "UNSUPPORTED_NODE_DATATYPE": "it does not take this operator in this data type",
    "UNSUPPORTED_NODE_SHAPE": "it does not take this operator with such a shape",
    "UNSUPPORTED_NODE_DYNAMIC": "it does not take this operator with dynamic shapes",
    "MODEL_DESERIALIZE_FAILED": "the file is no ONNX model that it can read",
    "MEM_ALLOC_FAILED": "there was not enough memory",
}
ADVICE = {
    "UNSUPPORTED_NODE_DYNAMIC": "fix the shapes with `--shape NAME=1x3x224x224`",
    "UNSUPPORTED_NODE_DATATYPE": "cast what it reads to float32 or int32 in the exported network",
    "MODEL_DESERIALIZE_FAILED": "`edgedl inspect MODEL` says what is wrong with it",
    "MEM_ALLOC_FAILED": "close other programs, or give a smaller workspace",
}
ELSEWHERE = "write the network without it, or run it on another engine: `--target cpu`"
# What foreign quantizers write that TensorRT takes nowhere: patterns of its messages.
QUANTIZERS = (
    (
        re.compile(r"[Nn]on-zero zero point|shiftIsAllZeros"),
        "its zero point is not 0, and TensorRT's scheme is symmetric",
    ),
    (re.compile(r"input has type Int32"), "its codes are int32, a quantized bias"),
)
NO_PLUGIN = "it has no layer and no plugin of this name"
ASSERTION = re.compile(r"^Assertion failed: *")
# What tells of the library's own code: functions, files and lines.
FRAMES = re.compile(
    r"\[checkMacros\S*\].*|I[A-Z]\w+::\w+: |Error Code \d+: |API Usage Error|\(?In \w+ at \S+\)?"
    r"|\[\w+\.(?:cpp|h):\d+: \w+\] ?|MyelinCheckException: "
)


@dataclass(frozen=True)
class RefusedOperator:
    """One node that the parser does not take.

    Attributes:
        node: its name in the ONNX file; empty where the file as a whole is refused.
        operator: its kind.
        code: the parser's word for what is the matter.
        reason: the same in words, with what the parser said where that tells more.
        advice: a way out.
    """

    node: str
    operator: str
    code: str
    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.operator} `{self.node}`: {self.reason}" if self.node else self.reason


class Refused(EngineFailed):
    """TensorRT's parser refuses operators of the model; `operators` has every one of them."""

    def __init__(self, library: str, operators: Sequence[RefusedOperator]) -> None:
        first, more = operators[:MOST_TOLD], len(operators) - MOST_TOLD
        told = "; ".join(map(str, first)) + (f"; and {more} more" if more > 0 else "")
        super().__init__(f"{library} refuses the model: {told}", hint=operators[0].advice)
        self.library, self.operators = library, tuple(operators)

    def named(self, names: Mapping[str, str]) -> Refused:
        """The same with nodes' original names, by those that they ship under."""
        own = [replace(one, node=names.get(one.node, one.node)) for one in self.operators]
        return Refused(self.library, own)


def refused_operators(parser: Any) -> list[RefusedOperator]:
    """What a parser that failed says, a row a node, each of them once."""
    found = {(one.node, one.operator): one for one in reversed([*_told(parser)])}
    return [*reversed(found.values())] or [
        RefusedOperator("", "", "", "its parser gives no reason", ELSEWHERE)
    ]


def _told(parser: Any) -> Iterator[RefusedOperator]:
    for number in range(parser.num_errors):
        error = parser.get_error(number)
        code, said = error.code().name, str(error.desc())
        node = _of(error, "node_name") or (f"number {error.node()}" if error.node() >= 0 else "")
        yield refused(node, _of(error, "node_operator"), code, said)


def refused(node: str, operator: str, code: str, said: str) -> RefusedOperator:
    """A refusal in words, from the parser's code and its description."""
    for pattern, reason in QUANTIZERS:
        if pattern.search(said):
            return RefusedOperator(node, operator, code, reason, AGAIN)
    if "Plugin not found" in said:
        return RefusedOperator(node, operator, code, NO_PLUGIN, ELSEWHERE)
    words = tidy(said)
    reason = REASONS.get(code, "")
    telling = len(words) > len("false") and " " in words and code != "MODEL_DESERIALIZE_FAILED"
    if not reason:
        reason = words or "it gives no reason"
    elif telling:
        reason = f"{reason} ({words})"
    return RefusedOperator(node, operator, code, reason, ADVICE.get(code, ELSEWHERE))


def tidy(said: str) -> str:
    """A message of TensorRT's as one line, without its C++ frames."""
    lines = [FRAMES.sub("", ASSERTION.sub("", line)).strip(" .;") for line in said.splitlines()]
    return ". ".join(line for line in lines if line)[:300]


def _of(error: Any, name: str) -> str:
    """What an error of the parser tells of its node; nothing where its version does not."""
    return str(getattr(error, name)()) if hasattr(error, name) else ""
