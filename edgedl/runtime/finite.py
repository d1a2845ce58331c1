"""A session that takes finite values only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgedl.core.errors import WrongInput
from edgedl.core.model import Signature
from edgedl.runtime.session import Closing, EngineSession


class Finite(Closing):
    """The same session, which refuses inputs with NaN or infinity before the engine sees them.

    An engine may answer such inputs with numbers that look sound: OpenVINO's ReLU makes 0 of NaN.
    It costs a pass over every float input. Closing it closes the session.
    """

    def __init__(self, session: EngineSession) -> None:
        self._session = session
        tensors = session.signature.inputs
        self._floats = [t.name for t in tensors if np.dtype(t.dtype).kind == "f"]

    @property
    def signature(self) -> Signature:
        return self._session.signature

    @property
    def opened(self) -> Any:
        """How the session came about."""
        return getattr(self._session, "opened", None)

    def run(
        self, inputs: Mapping[str, np.ndarray], deadline_ms: float | None = None
    ) -> dict[str, np.ndarray]:
        self._check(inputs)
        return self._session.run(inputs, deadline_ms)

    def run_into(
        self,
        inputs: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
        deadline_ms: float | None = None,
    ) -> None:
        self._check(inputs)
        self._session.run_into(inputs, outputs, deadline_ms)

    def _check(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Refuse what is not finite; what is no such array at all, the session itself refuses."""
        if not isinstance(inputs, Mapping):
            return
        for name in self._floats:
            array = inputs.get(name)
            if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
                continue
            finite = np.isfinite(array)
            if not finite.all():
                first = tuple(int(i) for i in np.argwhere(~finite)[0])
                raise WrongInput(
                    f"input `{name}` has {array.size - np.count_nonzero(finite)} values that are"
                    f" not finite, the first at {list(first)}",
                    hint="np.nan_to_num(array), or look where they come from",
                )

    def close(self) -> None:
        self._session.close()
