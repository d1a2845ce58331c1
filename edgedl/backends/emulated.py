"""What stands for the engine of a GPU that is not here: onnxruntime, on the same graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from edgedl.core.errors import Missing, Unsupported
from edgedl.core.registry import installed
from edgedl.core.target import ONNXRUNTIME_CUDA, TENSORRT, Scheme, Target
from edgedl.runtime import how_to_get
from edgedl.runtime.gpu import nvidia_gpu_here
from edgedl.runtime.payload import Payload

RUNNER = "onnxruntime"
# Of engines that write their graphs otherwise than TensorRT takes them.
OTHER_SCHEMES = {"onnxruntime-cuda": ONNXRUNTIME_CUDA}
# onnxruntime computes the graph as it is written; in 1.31 its fusions of quantizers do not know
# scales in float16, and that of a transposition brings the process down where a cast is near.
AS_WRITTEN = {
    "unfused": [
        "MatmulTransposeFusion", "QDQSelectorActionTransformer", "WeightBiasQuantization",
    ]
}  # fmt: skip


@dataclass
class Emulated:
    """An engine that is not here, as far as onnxruntime can stand for it: the same scheme, and the
    same graph computed as it is written.

    Attributes:
        stands_for: the engine that is to run the result.
        needs: what this machine lacks for it.
    """

    stands_for: str
    needs: str
    scheme: Scheme = TENSORRT
    engine: str = RUNNER
    schemes: tuple[Scheme, ...] = ()
    other_kernels: frozenset[str] = frozenset()
    typed = True

    @property
    def parsed(self) -> bool:
        """Whether NVIDIA's parser takes the graph on the device, too."""
        return self.stands_for not in OTHER_SCHEMES

    def check(self, target: Target) -> None:
        pass

    def floats(self) -> tuple[str, ...]:
        return ("float32", "float16")

    def settings(self, precision: str) -> Mapping[str, Any]:
        return AS_WRITTEN

    def rests(self) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def variants(
        self, settings: Mapping[str, Any], kinds: Collection[str]
    ) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def compile(
        self, data: bytes, precision: str, settings: Mapping[str, Any] | None = None
    ) -> Payload:
        """Nothing that is compiled here could be run.

        Raises:
            Unsupported: always.
        """
        raise Unsupported(f"{self.stands_for} needs {self.needs}, and this machine has none")


def emulated(target: Target, unmeasured: bool) -> Emulated:
    """What stands for the engine of a target that this machine cannot run.

    Raises:
        Unsupported: nobody asked for what is not measured. Missing: onnxruntime is not installed,
            or there is a GPU and the engine is not.
    """
    [name] = target.engines
    if not unmeasured and nvidia_gpu_here():
        raise Missing(f"{name} is not installed", hint=how_to_get(name))
    if not unmeasured:
        raise Unsupported(
            f"target `{target.name}` needs {target.needs}, and this machine has none that it can"
            " use: nothing can be timed here",
            hint="run it on the device; or say --unmeasured, and what ships is chosen by its"
            " answers, and never timed",
        )
    if not installed(RUNNER):
        raise Missing(
            f"without {target.needs}, {RUNNER} checks the answers, and it is not installed",
            hint=f"pip install 'edgedl[{RUNNER}]'",
        )
    return Emulated(name, target.needs, OTHER_SCHEMES.get(name, TENSORRT))
