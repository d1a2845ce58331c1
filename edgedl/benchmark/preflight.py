"""What must hold before anything is timed."""

from __future__ import annotations

from edgedl.benchmark.machine import this_machine
from edgedl.core.errors import BadOption, Unsupported


def preflight(threads: int, *, anyway: bool = False, quota_cores: float | None = None) -> list[str]:
    """Why figures taken here cannot be honest: sentences under `anyway`, errors without it.

    Args:
        quota_cores: the share of the processor that this process may use; read where None.

    Raises:
        BadOption: more threads than cores. Unsupported: the quota is below the threads.
    """
    machine = this_machine()
    quota = machine.quota_cores if quota_cores is None else quota_cores
    found = []
    if threads > machine.usable_cores:
        problem = f"{threads} threads on {machine.usable_cores} cores wait for one another"
        if not anyway:
            raise BadOption(problem, hint=f"--threads {machine.usable_cores}, or --anyway")
        found.append(problem)
    if quota is not None and quota < threads:
        problem = (
            f"this process may use {quota:g} of a core's time, so that calls on {threads} "
            f"thread{'s' * (threads > 1)} are stopped midway"
        )
        if not anyway:
            hint = f"raise the quota, as in `docker run --cpus={threads}`, or --anyway"
            raise Unsupported(problem, hint=hint)
        found.append(problem)
    return found
