"""A repair of Snakemake's SLURM plugin: a cluster that does not answer for a while loses no job."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator
from typing import Any

PLUGIN = "snakemake_executor_plugin_slurm"


def keep_unanswered_jobs() -> None:
    """Mend the plugin's executor, where Snakemake has loaded it; done again it changes nothing."""
    plugin = sys.modules.get(PLUGIN)
    if plugin is not None and not getattr(plugin.Executor, "keeps_unanswered", False):
        mend(plugin.Executor)


def mend(executor: Any) -> None:
    """Let an executor go on watching jobs that a round of status queries told nothing of.

    The plugin (2.8.0) hands back neither an end nor "still running" for any job when all queries of a round fail, as
    they do while slurmctld or its database restarts. Snakemake then forgets the jobs and waits for them for ever.

    Args:
        executor: The executor's class, changed in place.
    """
    check = executor.check_active_jobs

    @functools.wraps(check)
    async def watch(self: Any, active_jobs: list[Any]) -> AsyncIterator[Any]:
        self.ended = set()
        running = [job async for job in check(self, active_jobs)]
        told = self.ended.union(map(id, running))
        for job in [*running, *(job for job in active_jobs if id(job) not in told)]:
            yield job

    executor.ended = set()  # ids of the jobs of which the round has reported the end
    executor.check_active_jobs = watch
    for name in ("report_job_success", "report_job_error"):
        setattr(executor, name, _noting(getattr(executor, name)))
    executor.keeps_unanswered = True


def _noting(report: Any) -> Any:
    @functools.wraps(report)
    def note(self: Any, job: Any, *arguments: Any, **options: Any) -> Any:
        self.ended.add(id(job))
        return report(self, job, *arguments, **options)

    return note
