"""Folders are written by one process at a time, and a dead Snakemake's lock is no lock."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fieldbook.locks import exclusive, free_stale_lock

HOLD = """
import sys, time
from pathlib import Path
from fieldbook.locks import {name}
{call}
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def hold(tmp_path: Path):
    """Start a process that holds a lock until it is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, call: str) -> subprocess.Popen[str]:
        code = HOLD.format(name=name, call=call)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()  # pyright: ignore[reportOptionalMemberAccess]


def test_a_lock_is_waited_for_and_goes_with_its_process(hold, tmp_path: Path):
    path = tmp_path / ".train.lock"
    process = hold("exclusive", f"c = exclusive(Path({str(path)!r}), 'it'); c.__enter__()")
    os.kill(process.pid, signal.SIGSTOP)  # held, however long nothing happens
    waiting = subprocess.Popen([sys.executable, "-c", _take(path)], cwd=tmp_path)
    time.sleep(1.0)
    assert waiting.poll() is None
    process.kill()
    assert waiting.wait(timeout=20) == 0


def _take(path: Path) -> str:
    head = "from pathlib import Path; from fieldbook.locks import exclusive"
    return f"{head}\nwith exclusive(Path({str(path)!r}), 'it'): pass"


def test_who_is_waited_for_is_said(hold, tmp_path: Path):
    path = tmp_path / ".train.lock"
    process = hold("exclusive", f"c = exclusive(Path({str(path)!r}), 'it'); c.__enter__()")
    code = f"import logging; logging.basicConfig(level='INFO', format='%(message)s')\n{_take(path)}"
    waiting = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert waiting.stderr is not None
    assert waiting.stderr.readline() == f"waiting for it, which process {os.uname().nodename} {process.pid} is at\n"
    process.kill()
    assert waiting.wait(timeout=20) == 0
    waiting.stderr.close()


def test_a_lock_is_free_again_after_its_block(tmp_path: Path):
    for _ in range(2):
        with exclusive(tmp_path / "a.lock", "it"):
            pass


def _lock(folder: Path) -> Path:
    (folder / "locks").mkdir(parents=True)
    lock = folder / "locks" / "0.output.lock"
    lock.write_text("results/x\n")
    return lock


def _free(folder: Path) -> str:
    head = "from pathlib import Path; from fieldbook.locks import free_stale_lock"
    code = f"{head}\nprint(free_stale_lock(Path({str(folder)!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_lock_of_a_living_snakemake_stays_and_of_a_dead_one_goes(hold, tmp_path: Path):
    folder = tmp_path / ".snakemake"
    process = hold("free_stale_lock", f"free_stale_lock(Path({str(folder)!r}))")
    lock = _lock(folder)
    assert _free(folder) == "[]\n"
    assert lock.is_file()
    process.kill()
    process.wait()
    assert str(lock) in _free(folder)
    assert not lock.exists()


def test_a_second_living_snakemake_keeps_its_lock_when_the_first_ends(hold, tmp_path: Path):
    folder = tmp_path / ".snakemake"
    first, second = (hold("free_stale_lock", f"free_stale_lock(Path({str(folder)!r}))") for _ in range(2))
    lock = _lock(folder)
    first.kill()
    first.wait()
    assert _free(folder) == "[]\n"
    assert lock.is_file()
    assert second.poll() is None


def test_children_of_a_dead_snakemake_do_not_keep_its_lock(tmp_path: Path):
    folder = tmp_path / ".snakemake"
    head = "from pathlib import Path; import subprocess; from fieldbook.locks import free_stale_lock"
    code = f"{head}\nfree_stale_lock(Path({str(folder)!r}))\nprint(subprocess.Popen(['sleep', '30']).pid)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.wait()
    process.stdout.close()
    try:
        lock = _lock(folder)
        assert free_stale_lock(folder) == [lock]
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_job_of_a_cluster_removes_no_lock(tmp_path: Path):
    folder = tmp_path / ".snakemake"
    lock = _lock(folder)
    assert free_stale_lock(folder, remove=False) == []
    assert lock.is_file()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_stops_nobody_and_removes_no_lock(number, tmp_path: Path, monkeypatch, caplog):
    def refuse(*_args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    folder = tmp_path / ".snakemake"
    lock = _lock(folder)
    assert free_stale_lock(folder) == []
    assert lock.is_file()
    with exclusive(tmp_path / "a.lock", "it"):
        pass
    assert "knows no locks" in caplog.text
