"""Operators that take each element by itself: arithmetic, comparisons, activations, casts.

Semantics are those of the ONNX operators specification, https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from edgedl.core.program import Operation
from edgedl.train.operators_base import (
    Function,
    choice,
    of_node,
    of_peers,
    of_tensors,
    refusal,
    tensor_of,
    together,
)

SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875

# The numbers are those of TensorProto.DataType.
DTYPES: Mapping[int, torch.dtype] = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16,
    6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64,
    12: torch.uint32, 13: torch.uint64, 16: torch.bfloat16,
}  # fmt: skip


def _div(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _pow(base: Tensor, exponent: Tensor) -> Tensor:
    if exponent.is_floating_point() and not base.is_floating_point():
        return torch.pow(base.double(), exponent.double()).to(base.dtype)
    return torch.pow(base, exponent).to(base.dtype)


def _mod(operation: Operation, a: Tensor, b: Tensor) -> Tensor:
    a, b = (value for value in together([a, b]) if value is not None)
    if operation.attributes.get("fmod", 0):
        return torch.fmod(a, b)
    if a.is_floating_point():
        raise refusal(operation, "of floats, with fmod 0")
    return torch.remainder(a, b)


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    return of_peers(lambda *values: reduce(function, values))


def _mean(*values: Tensor) -> Tensor:
    return reduce(operator.add, values) / len(values)


def _clip(
    operation: Operation, x: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    bounds = {}
    for name, bound in (("min", low), ("max", high)):
        if bound is None and name in operation.attributes:
            bound = torch.tensor(operation.attributes[name], dtype=x.dtype)
        if bound is not None:
            bounds[name] = bound.reshape(()).to(x.device)
    return torch.clamp(x, **bounds) if bounds else x


def _hard_sigmoid(operation: Operation, x: Tensor) -> Tensor:
    get = operation.attributes.get
    return torch.clamp(get("alpha", 0.2) * x + get("beta", 0.5), 0, 1)


def _selu(operation: Operation, x: Tensor) -> Tensor:
    get = operation.attributes.get
    return functional.elu(x, get("alpha", SELU_ALPHA)) * float(get("gamma", SELU_GAMMA))


def _thresholded_relu(operation: Operation, x: Tensor) -> Tensor:
    return torch.where(x > operation.attributes.get("alpha", 1.0), x, torch.zeros_like(x))


def _gelu(operation: Operation, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=operation.attributes.get("approximate", "none"))


def _fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


def _swish(default: float) -> Function:
    return of_node(
        lambda operation, x: x * torch.sigmoid(operation.attributes.get("alpha", default) * x)
    )


def _is_infinite(operation: Operation, x: Tensor) -> Tensor:
    high = (x == torch.inf) & bool(operation.attributes.get("detect_positive", 1))
    return high | ((x == -torch.inf) & bool(operation.attributes.get("detect_negative", 1)))


def _cast(operation: Operation, x: Tensor) -> Tensor:
    return x.to(choice(operation, "to type", DTYPES, operation.attributes["to"]))


def _constant(operation: Operation) -> Tensor:
    kinds = {"value_float": torch.float32, "value_floats": torch.float32,
             "value_int": torch.int64, "value_ints": torch.int64}  # fmt: skip
    ((name, value),) = operation.attributes.items()
    if name == "value":
        return tensor_of(value)
    return torch.tensor(value, dtype=choice(operation, "its", kinds, name))


UNARY: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin,
    "Asinh": torch.asinh, "Atan": torch.atan, "Atanh": torch.atanh, "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh, "Erf": torch.erf, "Exp": torch.exp,
    "Floor": torch.floor, "HardSwish": functional.hardswish,
    "Identity": lambda x: x, "IsNaN": torch.isnan,
    "Log": torch.log, "Mish": functional.mish, "Neg": torch.neg, "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round,
    "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign, "Sqrt": torch.sqrt, "Tan": torch.tan,
    "Tanh": torch.tanh,
}  # fmt: skip

BROADCAST: Mapping[str, Callable[..., Tensor]] = {
    "Add": torch.add, "And": torch.logical_and, "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor, "Div": _div,
    "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt,
    "LessOrEqual": torch.le, "Mul": torch.mul, "Or": torch.logical_or, "Pow": _pow,
    "PRelu": lambda x, slope: torch.where(x < 0, slope * x, x), "Sub": torch.sub,
    "Where": torch.where, "Xor": torch.logical_xor,
}  # fmt: skip

ELEMENTWISE: Mapping[str, Function] = {
    **{kind: of_peers(function) for kind, function in {**UNARY, **BROADCAST}.items()},
    "Cast": of_node(_cast),
    "CastLike": of_tensors(lambda x, like: x.to(like.dtype)),
    "Celu": of_node(
        lambda operation, x: functional.celu(x, operation.attributes.get("alpha", 1.0))
    ),
    "Clip": of_node(_clip),
    "Constant": of_node(_constant),
    "Elu": of_node(lambda operation, x: functional.elu(x, operation.attributes.get("alpha", 1.0))),
    "Gelu": of_node(_gelu),
    "HardSigmoid": of_node(_hard_sigmoid),
    "IsInf": of_node(_is_infinite),
    "LeakyRelu": of_node(
        lambda operation, x: functional.leaky_relu(x, operation.attributes.get("alpha", 0.01))
    ),
    "Max": _variadic(torch.maximum),
    "Mean": of_peers(_mean),
    "Min": _variadic(torch.minimum),
    "Mod": of_node(_mod),
    "Selu": of_node(_selu),
    "Sum": _variadic(torch.add),
    "Swish": _swish(1.0),
    "ThresholdedRelu": of_node(_thresholded_relu),
    "com.microsoft:BiasGelu": of_peers(lambda x, bias: functional.gelu(x + bias)),
    "com.microsoft:FastGelu": of_tensors(_fast_gelu),
    "com.microsoft:Gelu": of_tensors(lambda x: functional.gelu(x)),
    "com.microsoft:QuickGelu": _swish(1.702),
}
