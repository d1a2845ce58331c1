"""Whether a bundle is sound and answers here as it did where it was made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgedl.core.errors import Missing, Unsupported
from edgedl.runtime.bundle import Bundle, open_bundle
from edgedl.runtime.golden import Golden
from edgedl.runtime.gpu import nvidia_gpu_here
from edgedl.runtime.opening import Way, engine_of, in_words, open_payload, refuse_unfit
from edgedl.runtime.sign.admit import TrustSource
from edgedl.runtime.sign.sealed import KeySource

if TYPE_CHECKING:
    from edgedl.runtime.sign.trust import Proof


@dataclass(frozen=True)
class PayloadCheck:
    """One payload's golden answers on this machine.

    `error` is the largest relative error over samples and outputs, None where it was not run;
    `problem` says why it failed or was not run, None where all is well.
    """

    engine: str
    precision: str
    error: float | None
    problem: str | None
    skipped: bool = False


@dataclass(frozen=True)
class CheckResult:
    """A bundle's check. Its digests were right, or opening it would have raised.

    `proofs` say who signed it, of the keys that were trusted.
    """

    path: Path
    parts: int
    golden_samples: int
    tolerance: float
    payloads: tuple[PayloadCheck, ...]
    proofs: tuple[Proof, ...] = ()

    @property
    def ok(self) -> bool:
        """At least one payload ran here, and none that ran answered differently."""
        ran = [check for check in self.payloads if not check.skipped]
        return bool(ran) and all(check.problem is None for check in ran)


def check(
    path: str | Path,
    *,
    threads: int | None = None,
    trust: TrustSource | None = None,
    key: KeySource | None = None,
) -> CheckResult:
    """Check digests, then run the golden samples through every payload that may open here.

    `trust` and `key` are those of `edgedl.open`.

    Raises:
        BadBundle: the file is damaged or is no bundle.
        Untrusted: no trusted key signed it, or what the signer said no longer holds.
    """
    bundle = open_bundle(path, trust=trust, key=key)
    golden = bundle.golden()
    return CheckResult(
        bundle.path,
        len(bundle.parts),
        len(golden.inputs),
        golden.tolerance,
        tuple(_check_payload(bundle, i, golden, threads) for i in range(len(bundle.payloads))),
        bundle.proofs,
    )


def _check_payload(bundle: Bundle, i: int, golden: Golden, threads: int | None) -> PayloadCheck:
    payload = bundle.payloads[i]
    told = partial(PayloadCheck, payload.engine, payload.precision)
    try:
        chosen = engine_of(payload)
        refuse_unfit(payload, chosen)
        if chosen.on_gpu and not nvidia_gpu_here():
            raise Unsupported("it needs an NVIDIA GPU, and the system shows none")
    except Missing as absent:
        return told(None, f"{absent.hint} to check it", skipped=True)
    except Unsupported as unfit:
        return told(None, unfit.message, skipped=True)
    except Exception as broken:
        return told(None, str(in_words(broken, payload)))
    try:
        with open_payload(bundle, payload, Way(threads)) as session:
            error = max(
                (golden.error(i, session.run(feed)) for i, feed in enumerate(golden.inputs)),
                default=0.0,
            )
    except Exception as failure:
        return told(None, str(in_words(failure, payload)))
    problem = None
    if not error <= golden.tolerance:
        problem = (
            f"its answers are {error:.2g} away from the golden ones, {golden.tolerance:.2g} allowed"
        )
    return told(error, problem)
