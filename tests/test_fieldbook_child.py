"""A process that watches another: signals reach the child while it lives, and the watcher itself afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

WATCH = """
import os, signal, sys, time
from fieldbook import child
kills = iter(range(9))
child.oom_kills = lambda: next(kills)  # as if the kernel had killed somebody each time we look
code = child.fork_and_watch()
if code is not None:
    sys.exit(code)
if child.killed_at_mb is None:
    {in_child}
print("on with", child.killed_at_mb, flush=True)
time.sleep(60)
"""


@pytest.fixture
def watch() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a process that watches a child with some code of its own; it has printed a line."""
    started: list[subprocess.Popen[str]] = []

    def start(in_child: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WATCH.format(in_child=in_child)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_signal_reaches_the_child_and_its_exit_code_is_ours(watch):
    process = watch("signal.signal(15, lambda *_: os._exit(7)); print('ready', flush=True); time.sleep(60)")
    assert _line(process) == "ready"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 7


def test_a_child_that_was_killed_by_hand_is_an_error(watch):
    process = watch("child.oom_kills = None; os.kill(os.getpid(), 15)")
    assert process.wait(10) == 128 + signal.SIGTERM


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_when_the_kernel_killed_the_child_signals_are_for_the_watcher_again(watch, how):
    process = watch("memory = bytearray(b'x') * (100 << 20); os.kill(os.getpid(), 9)")
    said = _line(process).split()
    assert said[:2] == ["on", "with"]
    assert 100 < int(said[2]) < 300
    process.send_signal(how)
    assert process.wait(10) == -how
