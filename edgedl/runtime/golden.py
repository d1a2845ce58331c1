"""Golden samples: inputs with the answers they must bring, small enough to ship."""

from __future__ import annotations

import io
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedl.core.errors import Unsupported
from edgedl.runtime.limits import LIMITS

# What `write_array` writes of one axis: magic, version, the header's length and the header.
NPY = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '([<>|](?:b1|[iu][1248]|f[248]))', "
    rb"'fortran_order': (?:False|True), 'shape': \((\d{1,10}),\), \} *\n",
    re.DOTALL,
)
PREFIX = 10
DTYPES = frozenset(
    ["bool", "float16", "float32", "float64"]
    + [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
)
MOST_NUMBER = float(np.finfo(np.float32).max)
LEVELS = 255
MOST_ANSWER_ELEMENTS = 1024
# Deflate's own limit, and what its frame may add to a few bytes.
MOST_RATIO, FRAME = 1032, 64


@dataclass(frozen=True, eq=False)
class Answer:
    """Every `stride`-th element of an output, flattened, and the output's shape."""

    shape: tuple[int, ...]
    stride: int
    values: np.ndarray

    @classmethod
    def of(cls, output: np.ndarray) -> Answer:
        stride = max(1, math.ceil(output.size / MOST_ANSWER_ELEMENTS))
        return cls(output.shape, stride, output.reshape(-1)[::stride].copy())

    def error(self, output: np.ndarray | None) -> float:
        """|given - expected| / |expected| in the Euclidean norm; infinite for another shape."""
        if output is None or output.shape != self.shape:
            return math.inf
        expected = self.values.astype(np.float64)
        given = output.reshape(-1)[:: self.stride].astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            distance = float(np.linalg.norm(given - expected))
        norm = float(np.linalg.norm(expected))
        if not math.isfinite(distance):
            same = np.array_equal(expected, given, equal_nan=True)
            return 0.0 if same else math.inf
        return distance / norm if norm > 0 else (0.0 if distance == 0 else math.inf)


@dataclass(frozen=True, eq=False)
class Golden:
    """Inputs with the answers that the payload gave where it was made.

    `tolerance` is how far another machine may be from them, in the measure of `Answer.error`.
    """

    inputs: tuple[Mapping[str, np.ndarray], ...]
    answers: tuple[Mapping[str, Answer], ...]
    tolerance: float

    def error(self, sample: int, outputs: Mapping[str, np.ndarray]) -> float:
        """The largest error over the outputs of one sample."""
        answers = self.answers[sample]
        return max(
            (answer.error(outputs.get(name)) for name, answer in answers.items()), default=0.0
        )


def coarse(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An input whose float arrays are rounded to 256 levels, stored as a byte an element."""
    return {name: _decode(*_encode(array)) for name, array in feed.items()}


def _encode(array: np.ndarray) -> tuple[dict[str, Any], bytes]:
    """An array as a description in JSON and compressed bytes."""
    head: dict[str, Any] = {"dtype": array.dtype.name, "shape": list(array.shape)}
    if array.dtype.hasobject:
        raise Unsupported("arrays of Python objects cannot be kept in a bundle")
    if array.dtype == np.float32 and array.size > 1 and np.isfinite(array).all():
        low, high = float(array.min()), float(array.max())
        step = float(np.float32((high - low) / LEVELS)) or 1.0
        codes = np.clip(np.rint((array - low) / step), 0, LEVELS).astype(np.uint8)
        head |= {"low": low, "step": step}
        return head, zlib.compress(codes.tobytes(), 9)
    return head, zlib.compress(np.asarray(array, order="C").tobytes(), 9)


def _decode(head: Mapping[str, Any], data: bytes) -> np.ndarray:
    # NumPy reads other texts as Python, and raises what its parser does.
    if head["dtype"] not in DTYPES:
        raise ValueError("the type of an array is not sound")
    dtype = np.dtype(head["dtype"])
    shape = _shape(head["shape"])
    coded = "step" in head
    stored = np.dtype(np.uint8) if coded else dtype
    length = math.prod(shape) * stored.itemsize
    if dtype.hasobject or math.prod(shape) * dtype.itemsize > LIMITS.array_bytes:
        raise ValueError("an array is not sound")
    if length > MOST_RATIO * (len(data) + FRAME):
        raise ValueError("an array is larger than its bytes can hold")
    unpacker = zlib.decompressobj()
    raw = unpacker.decompress(data, length + 1)
    if len(raw) != length:
        raise ValueError("an array's length does not fit its shape")
    array = np.frombuffer(raw, stored).reshape(shape)
    if coded:
        low, step = np.float32(_number(head["low"])), np.float32(_number(head["step"]))
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(low + array.astype(np.float32) * step, np.float32)
    return np.array(array)


def pack(golden: Golden) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The index for the manifest, and the parts by name."""
    parts: dict[str, bytes] = {}
    samples = []
    for i, (feed, answers) in enumerate(zip(golden.inputs, golden.answers, strict=True)):
        inputs, outputs = {}, {}
        for k, (name, array) in enumerate(feed.items()):
            head, parts[f"golden/{i}/input-{k}"] = _encode(array)
            inputs[name] = {"part": f"golden/{i}/input-{k}", **head}
        for k, (name, answer) in enumerate(answers.items()):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, answer.values, (1, 0), allow_pickle=False)
            parts[f"golden/{i}/answer-{k}"] = buffer.getvalue()
            outputs[name] = {
                "part": f"golden/{i}/answer-{k}",
                "shape": list(answer.shape),
                "stride": answer.stride,
            }
        samples.append({"inputs": inputs, "answers": outputs})
    return {"samples": samples, "tolerance": golden.tolerance}, parts


def unpack(index: Mapping[str, Any], parts: Mapping[str, bytes], most: int | None = None) -> Golden:
    """Golden samples from the manifest's index and their parts; the first `most` of them.

    Raises:
        KeyError, TypeError, ValueError, EOFError, zlib.error: they do not fit one another, or pass
            a limit.
    """
    total = 0
    inputs: list[dict[str, np.ndarray]] = []
    answers: list[dict[str, Answer]] = []
    samples: Sequence[Mapping[str, Any]] = index["samples"]
    if len(samples) > LIMITS.golden_samples:
        raise ValueError(f"{len(samples)} golden samples, {LIMITS.golden_samples} at most")
    for sample in samples[:most]:
        inputs.append(
            {n: _decode(head, parts[head["part"]]) for n, head in sample["inputs"].items()}
        )
        total += sum(array.nbytes for array in inputs[-1].values())
        if total > LIMITS.array_bytes:
            raise ValueError("golden inputs that are too large together")
        answers.append({n: _answer(entry, parts) for n, entry in sample["answers"].items()})
    return Golden(tuple(inputs), tuple(answers), _number(index["tolerance"]))


def parts_of(index: Mapping[str, Any], most: int | None = None) -> tuple[str, ...]:
    """The names of the parts that `unpack` reads.

    Raises:
        AttributeError, KeyError, TypeError: the index is not sound.
    """
    sides = [sample[side] for sample in index["samples"][:most] for side in ("inputs", "answers")]
    return tuple(entry["part"] for side in sides for entry in side.values())


def _answer(entry: Mapping[str, Any], parts: Mapping[str, bytes]) -> Answer:
    values, shape, stride = _values(parts[entry["part"]]), _shape(entry["shape"]), entry["stride"]
    if type(stride) is not int or stride < 1 or len(values) != -(-math.prod(shape) // stride):
        raise ValueError("an answer's length does not fit its shape")
    return Answer(shape, stride, values)


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= MOST_NUMBER:
        raise ValueError("a number of the golden samples is none that float32 holds")
    return float(value)


def _shape(sizes: Sequence[Any]) -> tuple[int, ...]:
    shape = tuple(int(size) for size in sizes)
    if len(shape) > LIMITS.array_dimensions or min(shape, default=0) < 0:
        raise ValueError("a shape is not sound")
    return shape


def _values(data: bytes) -> np.ndarray:
    """An array of one axis in NumPy's format 1.0, whose header claims no more than is there.

    NumPy's own reader parses that header as Python, and raises what its tokenizer does.
    """
    found = NPY.match(data)
    if found is None:
        raise ValueError("an answer's header is damaged")
    dtype, rest = np.dtype(found[2].decode()), memoryview(data)[found.end() :]
    length = int.from_bytes(found[1], "little")
    if found.end() != PREFIX + length or len(rest) != int(found[3]) * dtype.itemsize:
        raise ValueError("an answer's length does not fit its header")
    return np.frombuffer(rest, dtype)
