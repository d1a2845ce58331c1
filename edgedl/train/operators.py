"""ONNX operators as differentiable torch functions, and a program carried out with them.

Semantics are those of the ONNX operators specification, https://onnx.ai/onnx/operators, for opsets
from 7 on. The functions change none of their inputs. What one cannot do exactly, it refuses.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from edgedl.core.errors import Unsupported
from edgedl.core.program import Operation, Program
from edgedl.train.operators_base import Function, tensor_of
from edgedl.train.operators_elementwise import ELEMENTWISE
from edgedl.train.operators_index import INDEX
from edgedl.train.operators_normal import NORMAL
from edgedl.train.operators_recurrent import RECURRENT
from edgedl.train.operators_reduce import REDUCE
from edgedl.train.operators_resize import RESIZE
from edgedl.train.operators_shapes import SHAPES
from edgedl.train.operators_windows import WINDOWS

OLDEST_OPSET = 7

# By `key_of`: ONNX's own by their names, others with their domain before.
OPERATORS: Mapping[str, Function] = {
    **ELEMENTWISE, **INDEX, **NORMAL, **RECURRENT, **REDUCE, **RESIZE, **SHAPES, **WINDOWS,
}  # fmt: skip


def key_of(operation: Operation) -> str:
    """Where an operation's function lies among `OPERATORS`."""
    own = operation.domain in ("", "ai.onnx")
    return operation.kind if own else f"{operation.domain}:{operation.kind}"


def function_of(operation: Operation) -> Function:
    """The function that carries an operation out.

    Raises:
        Unsupported: there is none.
    """
    key = key_of(operation)
    if key not in OPERATORS:
        raise Unsupported(
            f"operator `{key}` of node `{operation.name}` cannot be trained through",
            hint="leave this model untrained; compressing it without training still works",
        )
    return OPERATORS[key]


def functions_of(program: Program) -> tuple[Function, ...]:
    """The function of each operation.

    Raises:
        Unsupported: one has none, or the opset is older than what the functions hold for.
    """
    if program.opset < OLDEST_OPSET:
        raise Unsupported(
            f"opset {program.opset} cannot be trained, {OLDEST_OPSET} and later can",
            hint="convert the model: onnx.version_converter.convert_version(model, 17)",
        )
    return tuple(function_of(operation) for operation in program.operations)


def constants_of(program: Program) -> dict[str, Tensor]:
    """A program's constants as tensors on the processor, copied.

    Raises:
        Unsupported: torch lacks the type of one.
    """
    return {name: tensor_of(array) for name, array in program.constants.items()}


def last_reads(program: Program) -> tuple[tuple[str, ...], ...]:
    """For each operation, the values that nothing reads after it; outputs are never among them."""
    kept = {tensor.name for tensor in program.signature.outputs} | {""}
    done = []
    for operation in reversed(program.operations):
        names = dict.fromkeys((*operation.inputs, *operation.outputs))
        done.append(tuple(name for name in names if name not in kept))
        kept.update(names)
    return tuple(reversed(done))


def carry_out(
    program: Program, inputs: Mapping[str, Tensor], constants: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A program's outputs by name; values are freed once nothing later reads them.

    Raises:
        Unsupported: an operator has no function, or what its node asks for cannot be done exactly.
    """
    values: dict[str, Tensor] = {**constants, **inputs}
    steps = zip(program.operations, functions_of(program), last_reads(program), strict=True)
    for operation, function, done in steps:
        given = [values[name] if name else None for name in operation.inputs]
        made = function(operation, given, program.opset)
        made = made if isinstance(made, tuple) else (made,)
        values.update(zip(operation.outputs, made, strict=False))
        del given, made
        for name in done:
            values.pop(name, None)
    return {tensor.name: values[tensor.name] for tensor in program.signature.outputs}
