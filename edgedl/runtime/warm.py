"""Calls made before the first real one, which is slow otherwise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgedl.core.errors import WrongInput
from edgedl.core.model import Signature, Tensor
from edgedl.runtime.session import Session

CALLS = 2


def warm(
    session: Session, inputs: Mapping[str, np.ndarray] | None = None, *, calls: int = CALLS
) -> None:
    """Run a session a few times, so that the engine has its memory and its kernels at hand.

    Args:
        inputs: what is run, in the shapes that will be; zeros in those of the signature where None.
        calls: how often; an engine plans its memory in the first, and runs by that from the second.

    Raises:
        WrongInput: the signature leaves a size open, and no inputs are given; or they do not fit.
        EngineFailed: the engine failed.
    """
    feed = _zeros(session.signature) if inputs is None else inputs
    for _ in range(calls):
        session.run(feed)


def zeros(tensor: Tensor) -> np.ndarray | None:
    """Zeros for an input, of one sample where the first axis is open; None where another is."""
    if tensor.shape is None:
        return None
    sizes = [1 if i == 0 and not isinstance(d, int) else d for i, d in enumerate(tensor.shape)]
    known = [size for size in sizes if isinstance(size, int)]
    return np.zeros(known, tensor.dtype) if len(known) == len(sizes) else None


def _zeros(signature: Signature) -> dict[str, np.ndarray]:
    found = {}
    for tensor in signature.inputs:
        array = zeros(tensor)
        if array is None:
            raise WrongInput(
                f"the model leaves sizes of input `{tensor}` open",
                hint="give inputs in the shapes that will be run",
            )
        found[tensor.name] = array
    return found
