"""The one virtual clock's jobs. Resources register theirs with `@due_job`; the universe runs them in due order."""

from collections.abc import Callable
from typing import Any, Final

DueJob = Callable[..., None]
JOBS: Final[dict[str, DueJob]] = {}


def due_job(name: str) -> Callable[[DueJob], DueJob]:
    """Register `(world, **args)` under a name that is kept in the state file: never rename one."""

    def register(job: DueJob) -> DueJob:
        if name in JOBS:
            raise ValueError(f"The job {name} is registered twice")
        JOBS[name] = job
        return job

    return register


def job_of(name: str) -> Callable[..., Any]:
    return JOBS[name]
