"""Run a command of the user's: no shell, its output in the log, and nothing of it left when we are stopped."""

from __future__ import annotations

import logging
import os
import re
import resource
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fieldbook.errors import Infeasible, UserError
from fieldbook.machine import end_with, oom_kills, out_of_memory
from methods.external.keeper import end_group, keeper

log = logging.getLogger(__name__)

INFEASIBLE_CODE = 75
"""Exit code with which a command says that this run cannot be; the reason is its last line, or after `infeasible:`."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|CUDA out of memory|CUDA_ERROR_OUT_OF_MEMORY|^MemoryError")
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # and other orders to a terminal
_TAIL_BYTES, _TAIL_LINES = 8192, 20
_SHOWN_LINES, _SHOWN_CHARS = 3, 300


@dataclass(frozen=True)
class Job:
    """A command to run.

    Attributes:
        name: What it is, for messages: ``the train command of my-3dgs``.
        words: The program and its arguments.
        cwd: Where it runs.
        environment: All of it.
        log: Where its output goes, besides our own stderr.
    """

    name: str
    words: Sequence[str]
    cwd: Path
    environment: Mapping[str, str]
    log: Path


def run(job: Job) -> float:
    """Run a command to its end; its wall seconds.

    SIGTERM and SIGINT end the command and all that it started, then this process with 128 + the signal's number.

    Raises:
        UserError: It cannot be started, or ended with an error; with the last lines of its output.
        Infeasible: It said so with exit code 75, or ran out of memory.
    """
    log.info("in %s: %s", job.cwd, shlex.join(job.words))
    started, kills = time.monotonic(), oom_kills()
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "wb") as stream, _running(job) as process:
        _copy_output(process, stream)
        code = process.wait()
    if code != 0:
        raise _failure(job, code, killed_for_memory=code in (-9, 137) and oom_kills() > kills)
    return time.monotonic() - started


@contextmanager
def _running(job: Job) -> Iterator[subprocess.Popen[bytes]]:
    """Start the command, and end its process group when the block ends, however it ends."""

    def stop(number: int, _: object) -> None:
        log.warning("%s: the command is stopped", signal.Signals(number).name)
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()  # only there are signals set
    before = {}
    # Held back until there is a process to end, and a handler that ends it.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        with keeper(job.name) as register:
            process = _start(job, os.getpid(), register)
            before = {number: signal.signal(number, stop) for number in _SIGNALS} if main else {}
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, held)
                yield process
            finally:
                for number in before:
                    signal.signal(number, signal.SIG_IGN)
                _end(process)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(job: Job, parent: int, register: int) -> subprocess.Popen[bytes]:
    def prepare() -> None:
        os.write(register, str(os.getpid()).encode())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        end_with(parent)  # in case that the keeper is killed too

    try:
        return subprocess.Popen(
            job.words,
            cwd=job.cwd,
            env=dict(job.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=prepare,
        )
    except OSError as error:
        raise UserError(f"{job.name} cannot be started: {error.strerror}: {error.filename}") from None


def _copy_output(process: subprocess.Popen[bytes], stream: BinaryIO) -> None:
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    while True:
        if select.select([pipe], [], [], 0.2)[0]:
            chunk = os.read(pipe, 1 << 16)
            if not chunk:
                return
            stream.write(chunk)
            stream.flush()
            sys.stderr.write(chunk.decode(errors="replace"))
            sys.stderr.flush()
        elif process.poll() is not None:  # it has ended; what it left behind may hold the pipe for ever
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    end_group(process.pid)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _failure(job: Job, code: int, killed_for_memory: bool) -> UserError | Infeasible:
    lines = _last_lines(job.log)
    last = lines[-1] if lines else "it wrote nothing"
    if killed_for_memory:
        return out_of_memory(job.name, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
    if code == INFEASIBLE_CODE:
        said = [line.partition("infeasible:")[2].strip() for line in lines if "infeasible:" in line]
        return Infeasible(said[-1] if said else last)
    if memory := next((line for line in lines if _OUT_OF_MEMORY.search(line)), None):
        return Infeasible(f"out of memory in {job.name}: {memory}")
    ending = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    text = " | ".join(line[:_SHOWN_CHARS] for line in lines[-_SHOWN_LINES:]) or last
    return UserError(f"{job.name} {ending}: {text}; its whole output is in {job.log}")


def _last_lines(path: Path) -> list[str]:
    """The last lines that are not empty; a bar that was drawn over and over is one."""
    with open(path, "rb") as stream:
        stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        text = stream.read().decode(errors="replace")
    text = _COLOURS.sub("", text).replace("\r\n", "\n")
    lines = [line.rpartition("\r")[2].strip() for line in text.split("\n")]
    return [line for line in lines if line][-_TAIL_LINES:]
