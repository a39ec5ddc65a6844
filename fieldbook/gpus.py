"""One GPU per process: Snakemake only counts them, the locks here say which one a job has.

CUDA gives every process the first device it sees, so two jobs on a machine with two GPUs would share one. Each device
has a file with an flock, which goes with its process however that dies.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import subprocess
import time
from pathlib import Path

from fieldbook.errors import UserError
from fieldbook.locks import try_lock

log = logging.getLogger(__name__)

NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
VARIABLE = "CUDA_VISIBLE_DEVICES"
LOCKS = Path("/tmp")  # of this host: TMPDIR may differ from job to job, and a home folder is every host's
POLL_S = 0.5
_taken: tuple[str, int] | None = None  # the device and its open lock, as long as this process lives


def take_gpu(device: str = "auto") -> str | None:
    """Take a free GPU for as long as this process lives, and let CUDA see no other; wait where none is free.

    Call it before torch is imported: what CUDA may see is settled when it is first asked. A device that SLURM has
    allotted is used as it is.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``, as a run's spec says it.

    Returns:
        The device as ``CUDA_VISIBLE_DEVICES`` names it; None on the CPU, or where there is no GPU.

    Raises:
        UserError: The folder of the locks belongs to somebody else.
    """
    global _taken
    named = os.environ.get(VARIABLE)
    if device == "cpu":
        return None
    if _taken is not None:
        return _taken[0]
    if "SLURM_JOB_ID" in os.environ and named and "," not in named:
        # Inside a job's control group every job's device may be number 0: a lock by number would let them wait.
        return named
    devices = visible_devices()
    if not devices:
        return None
    _taken = _first_free(devices, _folder())
    os.environ[VARIABLE] = _taken[0]
    log.info("GPU %s, of %d", _taken[0], len(devices))
    return _taken[0]


def visible_devices(gpus: Path = NVIDIA_GPUS) -> dict[str, str]:
    """The GPUs this process may use.

    Neither torch nor CUDA is asked.

    Args:
        gpus: Where the driver lists its devices; only read where there is no nvidia-smi.

    Returns:
        Each one's name for ``CUDA_VISIBLE_DEVICES``, in order, and the name that every process of this user and host
        gives it.
    """
    installed = _installed(gpus)
    named = os.environ.get(VARIABLE)
    if named is None or not installed:
        return {name: name for name in installed}
    found: dict[str, str] = {}
    for name in (part.strip() for part in named.split(",")):
        key = _key(name, installed)
        if key is None:
            break  # as CUDA does: what comes after a device that is none is not seen
        found[name] = key
    return found


def _installed(gpus: Path) -> list[str]:
    """UUIDs, which mean the same in every process whatever CUDA's order is; numbers where there is no nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return [line.strip() for line in done.stdout.splitlines() if line.startswith("GPU-")]
    except (OSError, subprocess.SubprocessError):
        return [str(k) for k, _ in enumerate(gpus.iterdir())] if gpus.is_dir() else []


def _key(name: str, installed: list[str]) -> str | None:
    if name.isdecimal():
        return installed[int(name)] if int(name) < len(installed) else None
    if name.startswith("GPU-"):  # CUDA takes a UUID's beginning for the whole
        return next((uuid for uuid in installed if uuid.startswith(name)), None)
    return name if name.startswith("MIG-") else None


def _folder() -> Path:
    """Where the locks are: one folder per user and host, and per allocation where a scheduler gave several devices."""
    name = f"fieldbook-gpus-{os.getuid()}-{os.uname().nodename}"
    allocation = os.environ.get("SLURM_JOB_ID")
    folder = LOCKS / (f"{name}-{allocation}" if allocation else name)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UserError(f"{folder} belongs to somebody else, and GPU locks go there; ask them to remove it")
    return folder


def _first_free(devices: dict[str, str], folder: Path) -> tuple[str, int]:
    said = False
    while True:
        for name, key in devices.items():
            path = folder / f"{key.replace('/', '_')}.lock"  # MIG devices used to have slashes in their names
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if try_lock(handle, fcntl.LOCK_EX):
                return name, handle
            os.close(handle)
        if not said:
            log.info("waiting for a GPU: all %d are taken", len(devices))
            said = True
        time.sleep(POLL_S)
