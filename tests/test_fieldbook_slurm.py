"""The plugin's executor, mended: no job is forgotten while the cluster does not answer."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace

import pytest

from fieldbook.slurm import PLUGIN, keep_unanswered_jobs, mend


def make_executor(answers: dict[str, str] | None) -> type:
    """An executor as the plugin's: it asks for the state of all jobs, and is told ``answers`` or nothing."""

    class Executor:
        def __init__(self):
            self.reports: list[tuple[str, str]] = []

        def report_job_success(self, job):
            self.reports.append((job.name, "done"))

        def report_job_error(self, job, msg=None, **_more):
            self.reports.append((job.name, f"failed: {msg}"))

        async def check_active_jobs(self, active_jobs):
            for job in active_jobs if answers is not None else ():
                if answers.get(job.name) == "COMPLETED":
                    self.report_job_success(job)
                elif answers.get(job.name) == "FAILED":
                    self.report_job_error(job, msg="exit 1")
                else:
                    yield job

    return Executor


JOBS = [SimpleNamespace(name=name) for name in ("a", "b", "c")]


def watched(executor) -> list[str]:
    async def names():
        return [job.name async for job in executor.check_active_jobs(JOBS)]

    return asyncio.run(names())


def test_jobs_of_which_nothing_is_known_are_watched_on():
    executor = make_executor(None)
    assert watched(executor()) == []  # how the plugin forgets them
    mend(executor)
    assert watched(executor()) == ["a", "b", "c"]


def test_what_is_known_stays_and_is_reported_once():
    executor = make_executor({"a": "COMPLETED", "b": "FAILED", "c": "RUNNING"})
    mend(executor)
    asked = executor()
    assert watched(asked) == ["c"]
    assert asked.reports == [("a", "done"), ("b", "failed: exit 1")]


def test_an_end_that_an_earlier_round_reported_hides_no_later_job_in_the_same_memory():
    executor = make_executor(None)
    mend(executor)
    asked = executor()
    asked.report_job_success(JOBS[1])  # its place in memory is free for another job's then
    assert watched(asked) == ["a", "b", "c"]


def test_only_a_plugin_that_is_loaded_is_mended_and_only_once(monkeypatch):
    executor = make_executor(None)
    monkeypatch.setitem(sys.modules, PLUGIN, SimpleNamespace(Executor=executor))
    keep_unanswered_jobs()
    mended = executor.check_active_jobs
    keep_unanswered_jobs()
    assert executor.check_active_jobs is mended
    monkeypatch.delitem(sys.modules, PLUGIN)
    keep_unanswered_jobs()


def test_the_plugin_still_has_what_is_mended():
    plugin = pytest.importorskip(PLUGIN)
    for name in ("check_active_jobs", "report_job_success", "report_job_error"):
        assert callable(getattr(plugin.Executor, name))
