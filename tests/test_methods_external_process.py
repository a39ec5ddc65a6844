"""A command of the user's: its output, its ends, and what is left of it when we are stopped."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fieldbook.errors import Infeasible, UserError
from methods.external import process
from methods.external.process import Job, run


def job(tmp_path: Path, code: str) -> Job:
    return Job(
        "the train command of mine", [sys.executable, "-c", code], tmp_path, dict(os.environ), tmp_path / "l.log"
    )


def test_output_goes_to_the_log_and_to_our_own_and_the_time_is_told(tmp_path: Path, capfd):
    code = "import sys, time; print('out'); print('err', file=sys.stderr); time.sleep(0.2); print(input.__name__)"
    assert run(job(tmp_path, code)) >= 0.2
    assert sorted((tmp_path / "l.log").read_text().split()) == ["err", "input", "out"]
    assert "out" in capfd.readouterr().err


def test_it_runs_in_its_folder_without_a_shell_and_without_a_terminal(tmp_path: Path):
    run(job(tmp_path, "import os, sys; open('here', 'w').write(f'{sys.stdin.read()!r} {os.getcwd()}')"))
    assert (tmp_path / "here").read_text() == f"'' {tmp_path}"


def test_an_error_is_one_line_with_the_last_lines_and_the_log(tmp_path: Path):
    with pytest.raises(UserError) as error:
        run(job(tmp_path, "print('a\\nb\\nc'); raise RuntimeError('no such layer')"))
    message = str(error.value)
    assert "\n" not in message
    assert "the train command of mine ended with exit code 1" in message
    assert message.index("RuntimeError: no such layer") < message.index(str(tmp_path / "l.log"))
    with pytest.raises(UserError, match="was ended by signal 11: it wrote nothing"):
        run(job(tmp_path, "import os; os.kill(os.getpid(), 11)"))


def test_a_bar_drawn_over_itself_is_one_line_and_colours_are_left_out(tmp_path: Path):
    code = r"print('start'); print('\r'.join(f'{k}%' for k in range(100))); print('\x1b[1;31mend\x1b[0m'); exit(3)"
    with pytest.raises(UserError, match=r"exit code 3: start \| 99% \| end;"):
        run(job(tmp_path, code))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('infeasible: two views are too few'); print('bye'); exit(75)", "two views are too few"),
        ("print('too few'); exit(75)", "too few"),
        ("exit(75)", "it wrote nothing"),
        ("raise MemoryError", "out of memory in the train command of mine: MemoryError"),
        (
            "class OutOfMemoryError(RuntimeError): pass\nraise OutOfMemoryError('CUDA out of memory. Tried')",
            "out of memory in the train command of mine: OutOfMemoryError: CUDA out of memory. Tried",
        ),
    ],
)
def test_what_cannot_be_is_a_result_with_its_reason(tmp_path: Path, code: str, reason: str):
    with pytest.raises(Infeasible) as result:
        run(job(tmp_path, code))
    assert result.value.reason == reason


@pytest.mark.parametrize("code", ["os.kill(os.getpid(), 9)", "exit(137)"])
def test_killed_by_the_kernel_for_want_of_memory_is_infeasible_killed_by_others_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
):
    with pytest.raises(UserError):
        run(job(tmp_path, f"import os; {code}"))
    kills = iter([3, 4])
    monkeypatch.setattr(process, "oom_kills", lambda: next(kills))
    with pytest.raises(Infeasible, match="the kernel ended the train command of mine, which had held up to") as result:
        run(job(tmp_path, f"import os; bytearray(b'x') * (400 << 20); {code}"))
    assert result.value.numbers["peak_mb"] > 400


def test_a_program_that_is_not_there_is_one_line(tmp_path: Path):
    missing = Job("the render command of mine", ["no-such-program"], tmp_path, dict(os.environ), tmp_path / "l.log")
    with pytest.raises(UserError, match=r"cannot be started: No such file.*no-such-program"):
        run(missing)


def test_what_it_left_running_ends_with_it_and_does_not_hold_us_up(tmp_path: Path):
    child = "import subprocess as s; print(s.Popen(['sleep', '60']).pid, flush=True)"
    assert run(job(tmp_path, child)) < 10
    assert _ended(int((tmp_path / "l.log").read_text()))


STARTER = """
import os, sys
from pathlib import Path
from fieldbook import gpus
from fieldbook.locks import exclusive
from methods.external import keeper
from methods.external.process import Job, run
keeper.GRACE_S = 0.5
gpus.LOCKS, gpus.visible_devices = Path.cwd(), lambda: {"0": "0"}
gpus.take_gpu()
with exclusive(Path("run.lock"), "it"):
    run(Job("it", ["sh", "-c", sys.argv[1]], Path.cwd(), dict(os.environ), Path("l.log")))
"""
SHELL = "echo $$ > pid; sleep 60 & echo $! > grandchild; wait"
# Python closes the files of what it starts, locks too; and this one's child does not mind SIGTERM.
PYTHON = f"exec {sys.executable} mine.py"
MINE = """
import os, subprocess
open("pid", "w").write(str(os.getpid()))
subprocess.run(["sh", "-c", "trap : TERM; echo $$ > grandchild; while true; do sleep 1; done"])
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", [SHELL, PYTHON])
def test_when_we_are_stopped_its_whole_group_ends_too(tmp_path: Path, how: signal.Signals, command: str):
    ours = _started(tmp_path, command)
    ours.send_signal(how)
    assert ours.wait(20) == 128 + how
    assert all(_ended(pid) for pid in _pids(tmp_path))


@pytest.mark.parametrize("lock", ["run.lock", "fieldbook-gpus-*/0.lock"])
@pytest.mark.parametrize("command", [SHELL, PYTHON])
def test_when_we_are_killed_its_whole_group_ends_and_our_locks_are_held_until_then(tmp_path: Path, command, lock):
    ours = _started(tmp_path, command)
    os.killpg(ours.pid, signal.SIGKILL)
    ours.wait()
    with next(tmp_path.glob(lock)).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
    assert all(_dead(pid) for pid in _pids(tmp_path))


def test_nothing_of_ours_is_left_when_it_has_ended(tmp_path: Path):
    before = _children()
    run(job(tmp_path, "pass"))
    with pytest.raises(UserError):
        run(Job("it", ["no-such-program"], tmp_path, dict(os.environ), tmp_path / "l.log"))
    assert _children() == before


def _children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def _started(folder: Path, command: str) -> subprocess.Popen[bytes]:
    (folder / "mine.py").write_text(MINE)
    ours = subprocess.Popen([sys.executable, "-c", STARTER, command], cwd=folder, start_new_session=True)
    end = time.monotonic() + 30
    while len(_pids(folder)) < 2:
        assert time.monotonic() < end
        time.sleep(0.02)
    return ours


def _pids(folder: Path) -> list[int]:
    files = (folder / name for name in ("pid", "grandchild"))
    return [int(text) for file in files if file.is_file() and (text := file.read_text().strip())]


def _ended(pid: int) -> bool:
    end = time.monotonic() + 10
    while not _dead(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return _dead(pid)


def _dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True
